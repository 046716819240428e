import hashlib
import hmac
import tracemalloc

import cbor2
import numpy as np
import pytest

from tacit.algebra.prg import Stream, expand
from tacit.algebra.ring import WIDTHS, Ring
from tacit.errors import LocalProtocolError, RemoteProtocolError
from tacit.secagg.masked import (
    RunningSum,
    cohort_digest,
    mask,
    mask_in_place,
    mask_sum,
    open_seeds,
    round_context,
    unmask,
)
from tacit.secagg.plain import plain_context
from tacit.testing.entropy import SeededEntropy
from tacit.testing.sealing import SeededSealing

CONTEXT = hashlib.sha256(b"context").digest()
RING = Ring(32)
VECTOR = np.arange(5, dtype=np.uint32)
STREAMS = [Stream(bytes([i]) * 32, bytes(16)) for i in range(3)]


def masked(keys, sealing, vector=VECTOR, entropy=None, ring=RING, call=mask):
    return call(
        vector,
        ring,
        context=CONTEXT,
        client="north",
        keys=keys,
        sealing=sealing,
        entropy=entropy or SeededEntropy("entropy"),
    )


@pytest.fixture
def sealing():
    return SeededSealing(SeededEntropy("sealing"))


@pytest.mark.parametrize("call", [mask, mask_in_place])
def test_a_vector_is_never_uploaded_without_a_mask(sealing, call):
    with pytest.raises(LocalProtocolError) as caught:
        masked([], sealing, VECTOR.copy(), call=call)
    assert caught.value.code == "secagg.empty"


def test_masking_leaves_the_vector_as_it_was(sealing):
    vector = VECTOR.copy()
    masked([("a", sealing.generate().public_key)], sealing, vector)
    assert np.array_equal(vector, VECTOR)


@pytest.mark.parametrize("bits", WIDTHS)
def test_masking_in_place_gives_the_same_upload(bits):
    """In the memory of the contribution, which is gone then; untouched where masking fails."""
    ring = Ring(bits)
    vector = ring.from_integers(np.arange(100))
    uploads = []
    for call in (mask, mask_in_place):
        sealing = SeededSealing(SeededEntropy("sealing"))
        keys = [(name, sealing.generate().public_key) for name in ("a", "b")]
        uploads.append(masked(keys, sealing, vector, ring=ring, call=call))
    assert uploads[1].vector is vector
    assert uploads[0].seeds == uploads[1].seeds
    assert np.array_equal(uploads[0].vector, vector)
    before = vector.copy()
    with pytest.raises(RemoteProtocolError):
        masked([keys[0], ("b", b"short")], sealing, vector, ring=ring, call=mask_in_place)
    assert np.array_equal(vector, before)


@pytest.mark.parametrize("bits", WIDTHS)
def test_a_vector_of_another_ring_is_refused(sealing, bits):
    keys = [("a", sealing.generate().public_key)]
    wrong = np.arange(5, dtype=np.uint32 if bits == 16 else np.uint16)
    with pytest.raises(TypeError):
        masked(keys, sealing, wrong, ring=Ring(bits))


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
        open_seeds([("north", sealed)] * 2, context=CONTEXT, helper="a", opener=opener)
    assert caught.value.code == "secagg.duplicate"
    with pytest.raises(LocalProtocolError) as caught:
        mask_sum([*STREAMS, STREAMS[0]], RING, 5)
    assert caught.value.code == "secagg.duplicate"


def test_an_erased_key_answers_nothing(sealing):
    opener = sealing.generate()
    sealed = masked([("a", opener.public_key)], sealing).seeds[0].sealed
    opener.erase()
    with pytest.raises(LocalProtocolError) as caught:
        open_seeds([("north", sealed)], context=CONTEXT, helper="a", opener=opener)
    assert caught.value.code == "trust.erased"


def test_a_seed_of_the_wrong_length_is_refused(sealing):
    """Sealed correctly by a corrupt client, but shorter than a seed."""

    class Short:
        def draw(self, size):
            return bytes(size - 1)

    opener = sealing.generate()
    sealed = masked([("a", opener.public_key)], sealing, entropy=Short()).seeds[0].sealed
    with pytest.raises(RemoteProtocolError) as caught:
        open_seeds([("north", sealed)], context=CONTEXT, helper="a", opener=opener)
    assert caught.value.details["party"] == "north"


def test_empty_sums_are_refused():
    for call in (
        lambda: unmask([], [VECTOR], RING),
        lambda: unmask([VECTOR], [], RING),
        lambda: mask_sum([], RING, 5),
        lambda: open_seeds([], context=CONTEXT, helper="a", opener=None),
        lambda: cohort_digest([]),
    ):
        with pytest.raises(LocalProtocolError):
            call()


def test_vectors_of_other_lengths_are_refused():
    with pytest.raises(ValueError, match="lengths differ"):
        unmask([VECTOR, VECTOR[:1]], [VECTOR], RING)
    with pytest.raises(ValueError, match="lengths differ"):
        unmask([VECTOR], [VECTOR[:1]], RING)


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


@pytest.mark.parametrize("bits", WIDTHS)
def test_the_mask_is_the_specified_one(sealing, bits):
    """key, counter = HKDF-SHA256(seed, salt=context, info=(use, context, client, helper))."""
    ring = Ring(bits)
    vector = ring.from_integers(np.arange(-2, 3))
    opener = sealing.generate()
    upload = masked([("a", opener.public_key)], sealing, vector, ring=ring)
    seed = SeededEntropy("entropy").draw(32)
    pair = {"use": "expand", "context": CONTEXT, "client": "north", "helper": "a"}
    material = hkdf(seed, CONTEXT, cbor2.dumps(pair, canonical=True), 48)
    keystream = expand(material[:32], material[32:], len(vector), ring)
    assert np.array_equal(upload.vector, ring.sum([vector, keystream], len(vector)))
    pair["use"] = "seal"
    assert opener.open(upload.seeds[0].sealed, cbor2.dumps(pair, canonical=True)) == seed
    streams = open_seeds(
        [("north", upload.seeds[0].sealed)], context=CONTEXT, helper="a", opener=opener
    )
    assert streams == [(material[:32], material[32:])]


def test_no_seed_or_key_is_shown(sealing):
    opener = sealing.generate()
    upload = masked([("a", opener.public_key)], sealing)
    streams = open_seeds(
        [("north", upload.seeds[0].sealed)], context=CONTEXT, helper="a", opener=opener
    )
    assert repr(streams) == "[Stream(...)]"


def test_a_wrong_chunk_leaves_the_running_sum_as_it_was():
    ring = Ring(24)
    running = RunningSum(ring, 5)
    good = bytes(range(15))
    running.add([good[:6], good[6:]])
    for call in (
        lambda: running.add([good[:6], good[6:14]]),
        lambda: running.add([good, b"\x00\x00\x00"]),
        lambda: running.add([good[:12]]),
        lambda: running.subtract([good[:1], good[1:]]),
        lambda: running.add([]),
        lambda: running.add_chunk(4, good[:6]),
        lambda: running.add_chunk(-1, good[:3]),
        lambda: running.subtract_chunk(6, b""),
        lambda: running.subtract_chunk(0, good[:4]),
    ):
        with pytest.raises(ValueError, match=r"lengths differ|leaves the vector|whole elements"):
            call()
        assert bytes(running.to_bytes()) == good
    with pytest.raises(ValueError, match="read-only"):
        running.vector()[0] = 1


def peak(call):
    """Bytes of memory that ``call`` had in use at once, beyond those before it."""
    tracemalloc.start()
    kept = call()
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    del kept
    return most


@pytest.mark.parametrize("bits", WIDTHS)
def test_memory_is_the_output_and_a_constant(bits, sealing):
    """Masks and their sum: one vector; in place: none; whatever the number of helpers or clients."""
    ring = Ring(bits)
    length = 2**21
    vector = ring.zeros(length)
    keys = [(name, sealing.generate().public_key) for name in ("a", "b", "c")]
    constant = vector.nbytes // 4
    streams = [Stream(i.to_bytes(32, "big"), bytes(16)) for i in range(20)]

    def upload(call):
        return lambda: masked(keys, sealing, vector, ring=ring, call=call)

    assert peak(upload(mask)) <= vector.nbytes + constant
    assert peak(upload(mask_in_place)) <= constant
    assert peak(lambda: mask_sum(streams, ring, length)) <= vector.nbytes + constant


@pytest.mark.parametrize("bits", WIDTHS)
def test_a_running_sum_is_one_vector_and_a_constant(bits):
    ring = Ring(bits)
    length = 2**21
    chunk = bytes(2**18 * ring.item_bytes)

    def combine():
        running = RunningSum(ring, length)
        for _ in range(5):
            running.add([chunk] * 8)
            running.subtract([chunk] * 8)
        return running, running.vector()

    vector_bytes = length * ring.dtype.itemsize
    assert peak(combine) <= vector_bytes * 5 // 4


@pytest.mark.parametrize("bits", [0, 8, 20, 31, 33])
def test_a_context_has_a_width_that_exists(bits):
    with pytest.raises(LocalProtocolError):
        plain_context(run=b"r" * 32, round_number=1, model=b"m" * 32, bits=bits)
    with pytest.raises(LocalProtocolError):
        round_context(**ROUND, bits=bits, keys=[("a", b"1")])


def test_plain_contexts_differ_in_every_field():
    fields = {"run": b"r" * 32, "round_number": 1, "model": b"m" * 32, "bits": 32}
    changes = {"run": b"R" * 32, "round_number": 2, "model": b"M" * 32, "bits": 16}
    contexts = {plain_context(**{**fields, name: changes[name]}) for name in fields}
    assert len({plain_context(**fields), *contexts}) == 5


ROUND = {
    "run": b"r" * 32,
    "round_number": 1,
    "roster": b"o" * 32,
    "job": b"j" * 32,
    "model": b"m" * 32,
    "plan": b"{}",
}


def test_the_digests_are_frozen():
    """Changing one breaks runs between versions: it needs a new protocol name."""
    context = round_context(**ROUND, bits=32, keys=[("a", b"1")])
    assert context.hex() == "bd8056c34efd5959fce8023d02fb4f5f9a431532a435eab09e384aa95d548196"
    cohort = cohort_digest([b"u" * 32])
    assert cohort.hex() == "649e752818d8a449a1cb2896765f7c1843a84bad88d9f5e599e062aa0c112070"
