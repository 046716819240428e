import hashlib
import hmac

import cbor2
import numpy as np
import pytest

from tacit.algebra.prg import expand
from tacit.errors import LocalProtocolError, RemoteProtocolError
from tacit.secagg.masked import cohort_digest, mask, mask_sum, round_context, unmask
from tacit.secagg.plain import plain_sum
from tacit.testing.entropy import SeededEntropy
from tacit.testing.sealing import SeededSealing

CONTEXT = hashlib.sha256(b"context").digest()
VECTOR = np.arange(5, dtype=np.uint32)


def masked(keys, sealing, vector=VECTOR, entropy=None):
    return mask(
        vector,
        context=CONTEXT,
        client="north",
        keys=keys,
        sealing=sealing,
        entropy=entropy or SeededEntropy("entropy"),
    )


@pytest.fixture
def sealing():
    return SeededSealing(SeededEntropy("sealing"))


def test_a_vector_is_never_uploaded_without_a_mask(sealing):
    with pytest.raises(LocalProtocolError) as caught:
        masked([], sealing)
    assert caught.value.code == "secagg.empty"


def test_masking_leaves_the_vector_as_it_was(sealing):
    vector = VECTOR.copy()
    masked([("a", sealing.generate().public_key)], sealing, vector)
    assert np.array_equal(vector, VECTOR)


def test_a_malformed_helper_key_names_the_helper(sealing):
    keys = [("a", sealing.generate().public_key), ("b", b"short")]
    with pytest.raises(RemoteProtocolError) as caught:
        masked(keys, sealing)
    assert caught.value.details["party"] == "b"


def test_one_seed_per_helper_in_order(sealing):
    keys = [(name, sealing.generate().public_key) for name in ("b", "a", "c")]
    assert [seed.helper for seed in masked(keys, sealing).seeds] == ["b", "a", "c"]


def test_a_party_counts_once(sealing):
    opener = sealing.generate()
    key = opener.public_key
    with pytest.raises(LocalProtocolError) as caught:
        masked([("a", key), ("a", key)], sealing)
    assert caught.value.code == "secagg.duplicate"
    sealed = masked([("a", key)], sealing).seeds[0].sealed
    with pytest.raises(LocalProtocolError) as caught:
        mask_sum([("north", sealed)] * 2, context=CONTEXT, helper="a", opener=opener, length=5)
    assert caught.value.code == "secagg.duplicate"


def test_an_erased_key_answers_nothing(sealing):
    opener = sealing.generate()
    sealed = masked([("a", opener.public_key)], sealing).seeds[0].sealed
    opener.erase()
    with pytest.raises(LocalProtocolError) as caught:
        mask_sum([("north", sealed)], context=CONTEXT, helper="a", opener=opener, length=5)
    assert caught.value.code == "trust.erased"


def test_a_seed_of_the_wrong_length_is_refused(sealing):
    """Sealed correctly by a corrupt client, but shorter than a seed."""

    class Short:
        def draw(self, size):
            return bytes(size - 1)

    opener = sealing.generate()
    sealed = masked([("a", opener.public_key)], sealing, entropy=Short()).seeds[0].sealed
    with pytest.raises(RemoteProtocolError) as caught:
        mask_sum([("north", sealed)], context=CONTEXT, helper="a", opener=opener, length=5)
    assert caught.value.details["party"] == "north"


def test_empty_sums_are_refused():
    for call in (
        lambda: unmask([], [VECTOR]),
        lambda: unmask([VECTOR], []),
        lambda: plain_sum([]),
        lambda: cohort_digest([]),
    ):
        with pytest.raises(LocalProtocolError):
            call()


def test_vectors_of_other_lengths_are_refused():
    with pytest.raises(ValueError, match="lengths differ"):
        unmask([VECTOR, VECTOR[:1]], [VECTOR])
    with pytest.raises(ValueError, match="lengths differ"):
        plain_sum([VECTOR, VECTOR[:1]])


def test_cohort_digest_names_a_set():
    one, two, three = (hashlib.sha256(bytes([i])).digest() for i in range(3))
    assert cohort_digest([one, two]) == cohort_digest([two, one])
    assert len({cohort_digest(c) for c in ([one], [two], [one, two], [one, two, three])}) == 4
    with pytest.raises(LocalProtocolError):
        cohort_digest([one, one])


def hkdf(seed, salt, info, size):
    """RFC 5869 by hand."""
    secret = hmac.digest(salt, seed, "sha256")
    block, output = b"", b""
    for counter in range(1, 1 + -(-size // 32)):
        block = hmac.digest(secret, block + info + bytes([counter]), "sha256")
        output += block
    return output[:size]


def test_the_mask_is_the_specified_one(sealing):
    """key, counter = HKDF-SHA256(seed, salt=context, info=(use, context, client, helper))."""
    upload = masked([("a", sealing.generate().public_key)], sealing)
    seed = SeededEntropy("entropy").draw(32)
    pair = {"use": "expand", "context": CONTEXT, "client": "north", "helper": "a"}
    material = hkdf(seed, CONTEXT, cbor2.dumps(pair, canonical=True), 48)
    keystream = expand(material[:32], material[32:], len(VECTOR))
    assert np.array_equal(upload.vector, VECTOR + keystream)


def test_the_digests_are_frozen():
    """Changing one breaks runs between versions: it needs a new protocol name."""
    context = round_context(
        run=b"r" * 32,
        round_number=1,
        roster=b"o" * 32,
        job=b"j" * 32,
        model=b"m" * 32,
        plan=b"{}",
        keys=[("a", b"1")],
    )
    assert context.hex() == "21d9c1cfc64191ddc9673226a394dadc36d0561505d559f835a68188bdca4522"
    cohort = cohort_digest([b"u" * 32])
    assert cohort.hex() == "649e752818d8a449a1cb2896765f7c1843a84bad88d9f5e599e062aa0c112070"
