"""What ``masked`` promises: exact sums, uniform uploads, and seeds that fit one round only."""

import itertools
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tacit.algebra.ring import WIDTHS, Ring
from tacit.errors import RemoteProtocolError
from tacit.secagg import masked
from tacit.secagg.masked import RunningSum, mask, mask_sum, open_seeds, round_context, unmask
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
    "bits": 32,
}
CHANGES = {
    "run": b"R" * 32,
    "round_number": 4,
    "roster": b"O" * 32,
    "job": b"J" * 32,
    "model": b"M" * 32,
    "plan": b"[]",
    "bits": 24,
}
# Mean and standard deviation of chi-square with 255 degrees of freedom; six deviations are a
# probability below 1e-7, and all entropy here is seeded.
LOWEST, HIGHEST = 255 - 6 * 22.6, 255 + 6 * 22.6


widths = st.sampled_from(WIDTHS)


class Setting:
    """Helpers with fresh keys and the context that all share."""

    def __init__(self, helpers, seed=0, sealing=None, **changes):
        self.ring = Ring({**FIELDS, **changes}["bits"])
        self.entropy = SeededEntropy(f"setting {seed}")
        self.sealing = sealing or SeededSealing(self.entropy.fork("sealing"))
        self.openers = {f"helper-{h}": self.sealing.generate() for h in range(helpers)}
        self.keys = [(name, opener.public_key) for name, opener in self.openers.items()]
        self.context = round_context(**{**FIELDS, **changes}, keys=self.keys)

    def mask(self, vector, client="client-0"):
        return mask(
            vector,
            self.ring,
            context=self.context,
            client=client,
            keys=self.keys,
            sealing=self.sealing,
            entropy=self.entropy,
        )

    def streams(self, helper, uploads):
        seeds = [(client, sealed_for(upload, helper)) for client, upload in uploads.items()]
        opener = self.openers[helper]
        return open_seeds(seeds, context=self.context, helper=helper, opener=opener)

    def answer(self, helper, uploads, length, run=map):
        return mask_sum(self.streams(helper, uploads), self.ring, length, run)

    def answers(self, uploads, length):
        return {helper: self.answer(helper, uploads, length) for helper in self.openers}


def sealed_for(upload, helper):
    return next(seed.sealed for seed in upload.seeds if seed.helper == helper)


def chi_square(data):
    """Of bytes against the uniform law."""
    counts = np.bincount(np.frombuffer(data, np.uint8), minlength=256)
    expected = counts.sum() / 256
    return float(((counts - expected) ** 2).sum() / expected)


def looks_uniform(vector, ring):
    return LOWEST < chi_square(ring.to_bytes(vector)) < HIGHEST


def random_vector(seed, length, ring):
    data = SeededEntropy(f"vector {seed}").draw(ring.item_bytes * length)
    return ring.from_bytes(data, length)


@settings(max_examples=60, deadline=None)
@given(
    bits=widths,
    clients=st.integers(1, 6),
    helpers=st.integers(1, 4),
    length=st.integers(1, 70),
    seed=st.integers(0, 2**32),
    data=st.data(),
)
def test_sum_is_exact(bits, clients, helpers, length, seed, data):
    """For any cohort out of those that uploaded, in any order, at every width."""
    setting = Setting(helpers, seed, bits=bits)
    ring = setting.ring
    vectors = {f"client-{i}": random_vector((seed, i), length, ring) for i in range(clients)}
    uploads = {client: setting.mask(vector, client) for client, vector in vectors.items()}
    cohort = data.draw(st.permutations(sorted(vectors)))[: data.draw(st.integers(1, clients))]
    answers = setting.answers({client: uploads[client] for client in cohort}, length)
    result = unmask([uploads[client].vector for client in cohort], list(answers.values()), ring)
    assert result.tolist() == [
        sum(int(vectors[client][i]) for client in cohort) % 2**bits for i in range(length)
    ]
    assert np.array_equal(result, ring.sum([vectors[client] for client in cohort], len(result)))


@pytest.mark.parametrize("bits", WIDTHS)
def test_sum_is_exact_with_hpke(bits):
    setting = Setting(2, sealing=HpkeSealing(), bits=bits)
    ring = setting.ring
    vectors = {f"client-{i}": random_vector(i, 33, ring) for i in range(3)}
    uploads = {client: setting.mask(vector, client) for client, vector in vectors.items()}
    answers = setting.answers(uploads, 33)
    vectors_up = [upload.vector for upload in uploads.values()]
    result = unmask(vectors_up, list(answers.values()), ring)
    assert np.array_equal(result, ring.sum(vectors.values(), 33))


@pytest.mark.parametrize("bits", WIDTHS)
def test_no_carry_crosses_a_field(bits):
    """Largest values in every other element: its neighbours stay zero in every sum."""
    setting = Setting(2, bits=bits)
    vector = setting.ring.zeros(64)
    vector[::2] = 2**bits - 1
    uploads = {f"c-{i}": setting.mask(vector, f"c-{i}") for i in range(5)}
    answers = setting.answers(uploads, 64)
    vectors = [upload.vector for upload in uploads.values()]
    result = unmask(vectors, list(answers.values()), setting.ring)
    assert result.tolist() == [(5 * (2**bits - 1)) % 2**bits, 0] * 32


@settings(max_examples=40, deadline=None)
@given(bits=widths, length=st.integers(1, 700), seed=st.integers(0, 2**32), data=st.data())
def test_ranges_in_any_order_give_the_same_sum(bits, length, seed, data):
    """A pool may take the parts of the vector in any order, on however many cores."""
    setting = Setting(1, seed, bits=bits)
    zero = setting.ring.zeros(length)
    uploads = {f"c-{i}": setting.mask(zero, f"c-{i}") for i in range(3)}
    taken = []

    def shuffled(function, items):
        taken.extend(data.draw(st.permutations(list(items))))
        return [function(item) for item in taken]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(masked, "RANGE_ELEMENTS", 1)
        result = setting.answer("helper-0", uploads, length, shuffled)
    assert len(taken) > 1 or length <= 16
    assert sorted(i for part in taken for i in part) == list(range(length))
    expected = setting.ring.sum([upload.vector for upload in uploads.values()], length)
    assert np.array_equal(result, expected)


def test_a_pool_of_threads_gives_the_same_sum():
    setting = Setting(1)
    length = 2**20 + 3
    uploads = {f"c-{i}": setting.mask(setting.ring.zeros(4), f"c-{i}") for i in range(3)}
    with ThreadPoolExecutor(2) as pool:
        parallel = setting.answer("helper-0", uploads, length, pool.map)
    assert np.array_equal(parallel, setting.answer("helper-0", uploads, length))


def test_an_error_in_a_range_reaches_the_caller():
    setting = Setting(1)
    streams = [*setting.streams("helper-0", {"c": setting.mask(setting.ring.zeros(4), "c")})]
    with ThreadPoolExecutor(2) as pool, pytest.raises(ValueError, match="32-byte key"):
        mask_sum([*streams, (b"short", b"")], setting.ring, 2**19, pool.map)


@settings(max_examples=60, deadline=None)
@given(bits=widths, length=st.integers(0, 60), seed=st.integers(0, 2**32), data=st.data())
def test_running_sum_is_unmask(bits, length, seed, data):
    """Uploads and answers, each in chunks of its own, in any order."""
    ring = Ring(bits)
    uploads = [random_vector((seed, "up", i), length, ring) for i in range(4)]
    answers = [random_vector((seed, "down", i), length, ring) for i in range(2)]
    running = RunningSum(ring, length)
    work = [(running.add, running.add_chunk, v) for v in uploads]
    work += [(running.subtract, running.subtract_chunk, v) for v in answers]
    for whole, one, vector in data.draw(st.permutations(work)):
        inner = data.draw(st.lists(st.integers(0, length), max_size=3))
        cuts = [0, *sorted(inner), length]
        parts = [(a, bytes(ring.to_bytes(vector[a:b]))) for a, b in itertools.pairwise(cuts)]
        if data.draw(st.booleans()):
            whole([chunk for _, chunk in parts])
        else:
            for offset, chunk in data.draw(st.permutations(parts)):
                one(offset, chunk)
    expected = unmask(uploads, answers, ring)
    assert bytes(running.to_bytes()) == bytes(ring.to_bytes(expected))
    assert np.array_equal(running.vector(), expected)


@pytest.mark.parametrize("bits", WIDTHS)
@pytest.mark.parametrize("value", [0, 1, -1])
def test_uniform_without_one_helper(value, bits):
    """Every coalition of all helpers but one sees noise; all of them together see the vector."""
    length = 2**16
    setting = Setting(3, bits=bits)
    ring = setting.ring
    vector = ring.from_integers(np.full(length, value))
    upload = setting.mask(vector)
    answers = setting.answers({"client-0": upload}, length)
    assert not looks_uniform(vector, ring)
    assert looks_uniform(upload.vector, ring)
    for absent in setting.openers:
        others = [answer for helper, answer in answers.items() if helper != absent]
        assert looks_uniform(unmask([upload.vector], others, ring), ring)
    assert np.array_equal(unmask([upload.vector], list(answers.values()), ring), vector)


def test_a_sum_without_one_helper_is_uniform():
    length = 2**16
    setting = Setting(2)
    ring = setting.ring
    uploads = {f"c-{i}": setting.mask(ring.zeros(length), f"c-{i}") for i in range(3)}
    vectors = [upload.vector for upload in uploads.values()]
    answers = setting.answers(uploads, length)
    for answer in answers.values():
        assert looks_uniform(unmask(vectors, [answer], ring), ring)
    assert not unmask(vectors, list(answers.values()), ring).any()


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
    ring = Ring(32)

    def keystream(**changes):
        setting = Setting(1, **changes)
        return bytes(setting.ring.to_bytes(setting.mask(setting.ring.zeros(length)).vector))

    here, there = keystream(), keystream(**{field: CHANGES[field]})
    assert here == keystream()
    whole = np.frombuffer(there[: len(there) // 4 * 4], "<u4").astype(np.uint32)
    words = ring.from_bytes(here, length)[: len(whole)]
    assert looks_uniform(words - whole, ring)


def test_clients_and_helpers_never_share_a_mask():
    """Not even when the seeds are equal: a client's own mask comes from its name too."""

    class Repeating:
        def draw(self, size):
            return bytes(size)

    setting = Setting(2)
    setting.entropy = Repeating()
    zero = setting.ring.zeros(64)
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
    vector = random_vector(seed, 16, setting.ring)
    one, other = setting.mask(vector), setting.mask(vector)
    assert np.count_nonzero(one.vector == other.vector) <= 1
    assert {seed.sealed for seed in one.seeds}.isdisjoint(seed.sealed for seed in other.seeds)


@given(position=st.integers(0, 10**6), bit=st.integers(0, 7), victim=st.integers(0, 2))
@settings(max_examples=40, deadline=None)
def test_tampered_seed_is_named(position, bit, victim):
    setting = Setting(1)
    seeds = {
        f"client-{i}": bytearray(setting.mask(setting.ring.zeros(4), f"client-{i}").seeds[0].sealed)
        for i in range(3)
    }
    culprit = f"client-{victim}"
    seeds[culprit][position % len(seeds[culprit])] ^= 1 << bit
    with pytest.raises(RemoteProtocolError) as caught:
        open_seeds(
            [(client, bytes(sealed)) for client, sealed in seeds.items()],
            context=setting.context,
            helper="helper-0",
            opener=setting.openers["helper-0"],
        )
    assert caught.value.code == "secagg.seed"
    assert caught.value.details["party"] == culprit


@pytest.mark.parametrize("real", [False, True])
def test_seed_of_another_context_is_refused(real):
    """Another round, another client's seed, or a seed for another helper: the sender is named."""
    sealing = HpkeSealing() if real else None
    setting = Setting(2, sealing=sealing)
    seeds = {seed.helper: seed.sealed for seed in setting.mask(setting.ring.zeros(4)).seeds}
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
            open_seeds([seed], context=context, helper="helper-0", opener=opener)
        assert caught.value.details["party"] == seed[0]
