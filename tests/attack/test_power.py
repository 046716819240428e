"""The audits have power: without a protection the alarm of its name is raised, and with all of them none.

Each bug is a change of a few characters in the source of one production function, compiled anew while the
test lasts. A small job, whose runs take a fraction of a second; randomness is the operating system's.
"""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from tacit.attack.audit import PARTS, audit_epsilon, audit_protocol
from tacit.attack.scratch import DataPool
from tacit.attack.workbench import Workbench
from tacit.connect.read import _columns as receipt_columns
from tacit.connect.sanitise import Sanitiser
from tacit.learn.clipping import Clipping
from tacit.party.helper import Helper
from tacit.party.job import JobSpec
from tacit.privacy import integers, outer
from tacit.secagg import masked
from tacit.testing.federation import write_small_federation
from tacit.testing.planted import Change, plant

SEEDS = 60
ENOUGH = 57
"""Of ``SEEDS``: nineteen in twenty."""

NOISE = "noise_blocks(variance, length, self.ports.entropy)"
SEEDED = "__import__('tacit.testing.entropy', fromlist=['entropy']).SeededEntropy"


@dataclass(frozen=True)
class Bug:
    """The alarm that must be raised, and what is changed."""

    alarm: str
    changes: tuple[Change, ...]


def noise_from(seed):
    """The noise of a helper comes from a generator with this seed."""
    return ((Helper._noisy_mask_sum, NOISE, f"noise_blocks(variance, length, {SEEDED}({seed}))"),)


BUGS = {
    "noise of a third": Bug(
        "noise-too-small",
        (
            (
                Helper._noisy_mask_sum,
                "terms.plan.share_variance(present), 0",
                "terms.plan.share_variance(present) // 9, 0",
            ),
        ),
    ),
    "no noise": Bug(
        "noise-too-small", ((Helper._noisy_mask_sum, 'terms.plan.unit != "none"', "False"),)
    ),
    "three times the noise": Bug(
        "noise-too-large",
        (
            (
                Helper._noisy_mask_sum,
                "terms.plan.share_variance(present), 0",
                "terms.plan.share_variance(present) * 9, 0",
            ),
        ),
    ),
    "uniform noise": Bug(
        "noise-not-gaussian",
        (
            (
                Helper._noisy_mask_sum,
                "ring.from_integers(noise)",
                "ring.from_integers(__import__('numpy').random.default_rng()"
                ".integers(-int((3 * variance) ** 0.5), int((3 * variance) ** 0.5), len(noise)))",
            ),
        ),
    ),
    "noise from one constant": Bug("noise-repeats", noise_from("0")),
    "noise seeded by the round": Bug("noise-repeats", noise_from("uploads[0].round")),
    "noise seeded by the helper": Bug("noise-repeats", noise_from("str(name)")),
    "noise seeded by both": Bug("noise-repeats", noise_from("f'{name}/{uploads[0].round}'")),
    "short rows are not clipped": Bug(
        "clip-skipped",
        (
            (integers._clipped_units, "values / peak * (limit / length)", "values"),
            (integers._encode_block, "x[~squares_within(x, bound**2)] = 0", "pass"),
        ),
    ),
    "factored rows are not clipped": Bug(
        "clip-skipped",
        (
            (Clipping.factors, "self.bound / np.maximum(norms, limit)", "1.0"),
            (outer.encode_outer, "room = bound**2 -", "room = 4 * bound**2 -"),
        ),
    ),
    "long rows are not clipped": Bug(
        "clip-skipped",
        (
            (
                integers._encode_long,
                "(1.0 if norm <= limit else limit / norm) / grid",
                "min(1.0, 2.0 * limit / norm) / grid",
            ),
            (integers._encode_long, "if not _certain(total, bound):", "if False:"),
        ),
    ),
    "a mask is used in every round": Bug(
        "mask-reused",
        (
            (
                masked._seal_seeds,
                "seed = entropy.draw(SEED_BYTES)",
                "seed = hashlib.sha256(client.encode() + helper.encode()).digest()",
            ),
            (
                masked._expansion,
                "salt=context, info=info",
                "salt=bytes(32), info=f'{client}/{helper}'.encode()",
            ),
        ),
    ),
    "a seed is used in every round": Bug(
        "mask-reused",
        (
            (
                masked._seal_seeds,
                "seed = entropy.draw(SEED_BYTES)",
                "seed = hashlib.sha256(client.encode() + helper.encode()).digest()",
            ),
        ),
    ),
    "a helper answers for one upload": Bug(
        "cohort-of-one", ((Helper._cohort, "< terms.manifest.min_cohort:", "< 1:"),)
    ),
    "a token is the value itself": Bug(
        "unredacted",
        (
            (
                Sanitiser._keyed,
                'return tokens.tokens(cells, self._key(column, "token"))',
                "return cells",
            ),
        ),
    ),
    "a ZIP code stays whole": Bug(
        "unredacted", ((Sanitiser._keyed, "return coarser(cells, how)", "return cells"),)
    ),
    "a receipt leaves identifiers out": Bug(
        "receipt-without-redaction",
        (
            (
                receipt_columns,
                "for c in plan.contract.columns",
                'for c in plan.contract.columns if c.classification != "identifier"',
            ),
        ),
    ),
    "a receipt calls everything kept": Bug(
        "receipt-without-redaction", ((receipt_columns, "c.method,", '"keep",'),)
    ),
}


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """A function that gives the workbench of a seed."""
    folder = tmp_path_factory.mktemp("power") / "federation"
    write_small_federation(folder, records=8)
    job = JobSpec.load(folder / "job.toml")
    data = DataPool.load(folder / "evaluation" / "contract.toml")
    return lambda seed, profile="demo": Workbench(job, folder, data, seed, profile)


PART = {
    "noise-too-small": "noise",
    "noise-too-large": "noise",
    "noise-not-gaussian": "noise",
    "noise-repeats": "noise",
    "clip-skipped": "clip",
    "mask-reused": "masks",
    "cohort-of-one": "cohorts",
    "unredacted": "redaction",
    "receipt-without-redaction": "redaction",
}
"""What is tried in order to raise an alarm."""


def alarms(small, seed, parts=PARTS):
    return audit_protocol(small(seed), "tacit", lambda _: None, parts).alarms


def caught(small, seed, bug):
    return bug.alarm in alarms(small, seed, (PART[bug.alarm],))


@pytest.mark.parametrize("name", BUGS)
def test_a_planted_bug_raises_the_alarm_of_its_name(small, name, monkeypatch):
    plant(monkeypatch, BUGS[name].changes)
    assert caught(small, 0, BUGS[name])


@pytest.mark.parametrize(
    "defence",
    [
        "plain",
        pytest.param("clipping", marks=pytest.mark.slow),
        "masking",
        pytest.param("noise", marks=pytest.mark.slow),
        "tacit",
    ],
)
def test_a_sound_system_raises_no_alarm_in_any_column(small, defence):
    assert audit_protocol(small(0, "quick"), defence, lambda _: None).alarms == ()


def test_noise_of_a_third_exceeds_the_claim(small, monkeypatch):
    sound = audit_epsilon(small(0, "quick"), "tacit", lambda _: None)
    assert sound.alarms == ()
    assert sound.measured["epsilon.audited"].low <= sound.measured["epsilon.claimed"].value
    plant(monkeypatch, BUGS["noise of a third"].changes)
    broken = audit_epsilon(small(0, "quick"), "tacit", lambda _: None)
    claimed = broken.measured["epsilon.claimed"].value
    assert broken.alarms == ("epsilon-exceeded",)
    assert broken.measured["epsilon.gap"].low > claimed
    assert broken.measured["epsilon.audited"].low > claimed


@pytest.mark.slow
@pytest.mark.parametrize("name", BUGS)
def test_a_planted_bug_is_caught_in_nineteen_of_twenty_seeds(small, name, monkeypatch):
    plant(monkeypatch, BUGS[name].changes)
    assert sum(caught(small, seed, BUGS[name]) for seed in range(SEEDS)) >= ENOUGH


@pytest.mark.slow
def test_a_sound_system_is_quiet_in_nineteen_of_twenty_seeds(small):
    assert sum(alarms(small, seed) == () for seed in range(SEEDS)) >= ENOUGH
