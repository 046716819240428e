"""What ``masked`` promises: exact sums, uniform uploads, and seeds that fit one round only."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tacit.algebra.ring import ring_sum
from tacit.errors import RemoteProtocolError
from tacit.secagg.masked import mask, mask_sum, round_context, unmask
from tacit.secagg.plain import plain_sum
from tacit.testing.entropy import SeededEntropy
from tacit.testing.sealing import SeededSealing
from tacit.trust.sealing import HpkeSealing

FIELDS = {
    "run": b"r" * 32,
    "round_number": 3,
    "roster": b"o" * 32,
    "job": b"j" * 32,
    "model": b"m" * 32,
    "plan": b"{}",
}
CHANGES = {
    "run": b"R" * 32,
    "round_number": 4,
    "roster": b"O" * 32,
    "job": b"J" * 32,
    "model": b"M" * 32,
    "plan": b"[]",
}
# Mean and standard deviation of chi-square with 255 degrees of freedom; six deviations are a
# probability below 1e-7, and all entropy here is seeded.
LOWEST, HIGHEST = 255 - 6 * 22.6, 255 + 6 * 22.6


class Setting:
    """Helpers with fresh keys and the context that all share."""

    def __init__(self, helpers, seed=0, sealing=None, **changes):
        self.entropy = SeededEntropy(f"setting {seed}")
        self.sealing = sealing or SeededSealing(self.entropy.fork("sealing"))
        self.openers = {f"helper-{h}": self.sealing.generate() for h in range(helpers)}
        self.keys = [(name, opener.public_key) for name, opener in self.openers.items()]
        self.context = round_context(**{**FIELDS, **changes}, keys=self.keys)

    def mask(self, vector, client="client-0"):
        return mask(
            vector,
            context=self.context,
            client=client,
            keys=self.keys,
            sealing=self.sealing,
            entropy=self.entropy,
        )

    def answer(self, helper, uploads, length):
        seeds = [(client, sealed_for(upload, helper)) for client, upload in uploads.items()]
        opener = self.openers[helper]
        return mask_sum(seeds, context=self.context, helper=helper, opener=opener, length=length)

    def answers(self, uploads, length):
        return {helper: self.answer(helper, uploads, length) for helper in self.openers}


def sealed_for(upload, helper):
    return next(seed.sealed for seed in upload.seeds if seed.helper == helper)


def chi_square(vector):
    """Of the bytes of ``vector`` against the uniform law."""
    counts = np.bincount(np.ascontiguousarray(vector).view(np.uint8), minlength=256)
    expected = counts.sum() / 256
    return float(((counts - expected) ** 2).sum() / expected)


def looks_uniform(vector):
    return LOWEST < chi_square(vector) < HIGHEST


def random_vector(seed, length):
    data = SeededEntropy(f"vector {seed}").draw(4 * length)
    return np.frombuffer(data, "<u4").astype(np.uint32)


@settings(max_examples=40, deadline=None)
@given(
    clients=st.integers(1, 6),
    helpers=st.integers(1, 4),
    length=st.integers(1, 70),
    seed=st.integers(0, 2**32),
    data=st.data(),
)
def test_sum_is_exact(clients, helpers, length, seed, data):
    """For any cohort out of those that uploaded, in any order."""
    setting = Setting(helpers, seed)
    vectors = {f"client-{i}": random_vector((seed, i), length) for i in range(clients)}
    uploads = {client: setting.mask(vector, client) for client, vector in vectors.items()}
    cohort = data.draw(st.permutations(sorted(vectors)))[: data.draw(st.integers(1, clients))]
    answers = setting.answers({client: uploads[client] for client in cohort}, length)
    result = unmask([uploads[client].vector for client in cohort], list(answers.values()))
    assert np.array_equal(result, plain_sum([vectors[client] for client in cohort]))


def test_sum_is_exact_with_hpke():
    setting = Setting(2, sealing=HpkeSealing())
    vectors = {f"client-{i}": random_vector(i, 33) for i in range(3)}
    uploads = {client: setting.mask(vector, client) for client, vector in vectors.items()}
    answers = setting.answers(uploads, 33)
    result = unmask([upload.vector for upload in uploads.values()], list(answers.values()))
    assert np.array_equal(result, ring_sum(vectors.values(), 33))


@pytest.mark.parametrize("value", [0, 1, 2**32 - 1])
def test_uniform_without_one_helper(value):
    """Every coalition of all helpers but one sees noise; all of them together see the vector."""
    length = 2**16
    vector = np.full(length, value, np.uint32)
    setting = Setting(3)
    upload = setting.mask(vector)
    answers = setting.answers({"client-0": upload}, length)
    assert not looks_uniform(vector)
    assert looks_uniform(upload.vector)
    for absent in setting.openers:
        others = [answer for helper, answer in answers.items() if helper != absent]
        assert looks_uniform(unmask([upload.vector], others))
    assert np.array_equal(unmask([upload.vector], list(answers.values())), vector)


def test_a_sum_without_one_helper_is_uniform():
    length = 2**16
    setting = Setting(2)
    uploads = {f"c-{i}": setting.mask(np.zeros(length, np.uint32), f"c-{i}") for i in range(3)}
    vectors = [upload.vector for upload in uploads.values()]
    answers = setting.answers(uploads, length)
    for answer in answers.values():
        assert looks_uniform(unmask(vectors, [answer]))
    assert not unmask(vectors, list(answers.values())).any()


@pytest.mark.parametrize("field", sorted(CHANGES))
def test_every_field_changes_the_context(field):
    keys = [("a", b"1"), ("b", b"2")]
    assert round_context(**FIELDS, keys=keys) == round_context(**FIELDS, keys=list(keys))
    changed = {**FIELDS, field: CHANGES[field]}
    assert round_context(**changed, keys=keys) != round_context(**FIELDS, keys=keys)


def test_every_helper_key_changes_the_context():
    variants = [
        [("a", b"1"), ("b", b"2")],
        [("b", b"2"), ("a", b"1")],
        [("a", b"2"), ("b", b"1")],
        [("a", b"1")],
        [("a", b"1"), ("b", b"2"), ("c", b"3")],
        [("ab", b"1"), ("b", b"2")],
        [("a", b"1b"), ("b", b"2")],
    ]
    assert len({round_context(**FIELDS, keys=keys) for keys in variants}) == len(variants)


@pytest.mark.parametrize("field", sorted(CHANGES))
def test_masks_of_other_contexts_are_unrelated(field):
    """The same seeds under another round, model or job give another, unrelated mask."""
    length = 2**16
    zero = np.zeros(length, np.uint32)
    here = Setting(1).mask(zero).vector
    there = Setting(1, **{field: CHANGES[field]}).mask(zero).vector
    assert np.array_equal(here, Setting(1).mask(zero).vector)
    assert looks_uniform(here - there)


def test_clients_and_helpers_never_share_a_mask():
    """Not even when the seeds are equal: a client's own mask comes from its name too."""

    class Repeating:
        def draw(self, size):
            return bytes(size)

    setting = Setting(2)
    setting.entropy = Repeating()
    zero = np.zeros(64, np.uint32)
    masks = []
    for client in ("client-0", "client-1"):
        upload = {client: setting.mask(zero, client)}
        masks += list(setting.answers(upload, 64).values())
    for one, other in itertools.combinations(masks, 2):
        assert np.count_nonzero(one == other) <= 1


@given(st.integers(0, 2**32))
@settings(max_examples=10, deadline=None)
def test_two_calls_never_mask_alike(seed):
    setting = Setting(2, seed)
    vector = random_vector(seed, 16)
    one, other = setting.mask(vector), setting.mask(vector)
    assert np.count_nonzero(one.vector == other.vector) <= 1
    assert {seed.sealed for seed in one.seeds}.isdisjoint(seed.sealed for seed in other.seeds)


@given(position=st.integers(0, 10**6), bit=st.integers(0, 7), victim=st.integers(0, 2))
@settings(max_examples=40, deadline=None)
def test_tampered_seed_is_named(position, bit, victim):
    setting = Setting(1)
    seeds = {
        f"client-{i}": bytearray(
            setting.mask(np.zeros(4, np.uint32), f"client-{i}").seeds[0].sealed
        )
        for i in range(3)
    }
    culprit = f"client-{victim}"
    seeds[culprit][position % len(seeds[culprit])] ^= 1 << bit
    with pytest.raises(RemoteProtocolError) as caught:
        mask_sum(
            [(client, bytes(sealed)) for client, sealed in seeds.items()],
            context=setting.context,
            helper="helper-0",
            opener=setting.openers["helper-0"],
            length=4,
        )
    assert caught.value.code == "secagg.seed"
    assert caught.value.details["party"] == culprit


@pytest.mark.parametrize("real", [False, True])
def test_seed_of_another_context_is_refused(real):
    """Another round, another client's seed, or a seed for another helper: the sender is named."""
    sealing = HpkeSealing() if real else None
    setting = Setting(2, sealing=sealing)
    seeds = {seed.helper: seed.sealed for seed in setting.mask(np.zeros(4, np.uint32)).seeds}
    other = round_context(**{**FIELDS, "round_number": 9}, keys=setting.keys)
    wrong = [
        (("client-0", seeds["helper-0"]), other),
        (("client-1", seeds["helper-0"]), setting.context),
        (("client-0", seeds["helper-1"]), setting.context),
        (("client-0", b""), setting.context),
    ]
    opener = setting.openers["helper-0"]
    for seed, context in wrong:
        with pytest.raises(RemoteProtocolError) as caught:
            mask_sum([seed], context=context, helper="helper-0", opener=opener, length=4)
        assert caught.value.details["party"] == seed[0]
