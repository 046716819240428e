"""Gates: their grammar, and that nothing passes that was not measured."""

from __future__ import annotations

import math
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tacit.attack.cells import CellResult, Failure
from tacit.attack.defences import DEFENCES
from tacit.attack.findings import Findings
from tacit.attack.gate import Gate, Part, check
from tacit.attack.measure import Estimate
from tacit.errors import ConfigError

METRIC = st.from_regex(r"[a-z][a-z0-9_@%-]{0,8}(\.[a-z0-9][a-z0-9@_%-]{0,8}){0,2}", fullmatch=True)
finite = st.floats(allow_nan=False, allow_infinity=False)
gates = st.builds(
    Gate,
    st.sampled_from(DEFENCES),
    METRIC,
    st.sampled_from(get_args(Part)),
    st.sampled_from([">", ">=", "<", "<="]),
    finite,
)


def result(attack, measured, *, row="membership", defence="tacit", failed=False):
    made = {
        name: Estimate(value, value - 0.1, value + 0.1, 0.0, ceiling, 10, "share", "")
        for name, (value, ceiling) in measured.items()
    }
    outcome = Failure("on purpose") if failed else Findings("x", made)
    return CellResult(attack, row, defence, 1.0, outcome)


@given(gates)
def test_a_gate_reads_what_it_writes(gate):
    assert Gate.parse(str(gate)) == gate


@pytest.mark.parametrize(
    ("text", "gate"),
    [
        ("membership.advantage.upper > 0.10", ("tacit", "membership.advantage", "upper", ">", 0.1)),
        ("plain:membership.advantage>=.9", ("plain", "membership.advantage", "value", ">=", 0.9)),
        (" noise : tpr@0.01 <= -1e-3 ", ("noise", "tpr@0.01", "value", "<=", -0.001)),
        ("auc.trials < 1000", ("tacit", "auc", "trials", "<", 1000.0)),
        ("upper > 1", ("tacit", "upper", "value", ">", 1.0)),
        ("a.lower.value > 1", ("tacit", "a.lower", "value", ">", 1.0)),
    ],
)
def test_what_a_gate_may_look_like(text, gate):
    assert Gate.parse(text) == Gate(*gate)


@pytest.mark.parametrize(
    "text",
    [
        *("", "auc", "auc >", "> 1", "auc = 1", "auc == 1", "auc > one", "auc > nan", "auc > inf"),
        *("auc > 1e999", "auc > 1 > 2", "nobody:auc > 1", "a b > 1", "auc > 1; rm", "auc > 0x10"),
        *("a:b:c > 1", "auc > 1_000", "auc >> 1", "auc > --1", "auc\n> 1 2", "auc > 10%"),
    ],
)
def test_what_is_no_gate_is_refused(text):
    with pytest.raises(ConfigError) as caught:
        Gate.parse(text)
    assert caught.value.code == "attack.gate"


@given(st.text(alphabet="abz.:<>= 019eE+-%@_\n", max_size=20))
def test_any_text_is_a_gate_or_refused(text):
    try:
        gate = Gate.parse(text)
    except ConfigError:
        return
    assert math.isfinite(gate.number)
    assert Gate.parse(str(gate)) == gate


@given(st.lists(st.floats(0, 1), min_size=1, max_size=4), st.floats(0, 1), gates)
def test_the_worst_attack_decides(values, number, gate):
    results = [result(f"a{n}", {"m": (value, 1.0)}) for n, value in enumerate(values)]
    above = check(Gate("tacit", "m", "value", ">", number), results)
    assert (above.status == "bites") == any(value > number for value in values)
    below = check(Gate("tacit", "m", "value", "<=", number), results)
    assert (below.status == "bites") == any(value <= number for value in values)
    assert {above.status, below.status} <= {"bites", "passes"}


def test_every_part_can_be_asked_for():
    results = [result("a", {"m": (0.5, 0.9)})]
    for part, number in (
        *(("value", 0.5), ("lower", 0.4), ("upper", 0.6), ("null", 0.0), ("ceiling", 0.9)),
        ("trials", 10.0),
    ):
        assert check(Gate("tacit", "m", part, ">=", number - 1e-9), results).status == "bites"
        assert check(Gate("tacit", "m", part, ">", number + 1e-9), results).status == "passes"


@pytest.mark.parametrize(
    ("text", "results"),
    [
        ("nothing > 1", [result("a", {"m": (0.5, 1.0)})]),
        ("m > 1", []),
        ("m > 1", [result("a", {"m": (0.5, 1.0)}, defence="plain")]),
        ("m.ceiling > 1", [result("a", {"m": (0.5, None)})]),
        ("m > 1", [result("a", {"m": (0.5, 1.0)}), result("b", {}, failed=True)]),
        ("m > 1", [result("a", {"m": (0.5, 1.0)}), result("b", {})]),
        ("m.ceiling > 1", [result("a", {"m": (0.5, None)}), result("b", {"m": (0.5, 0.9)})]),
        (
            "m > 1",
            [
                result("a", {"m": (0.5, 1.0)}),
                result("b", {"m": (0.5, 1.0)}, defence="plain"),
                result("b", {"other": (0.5, 1.0)}),
            ],
        ),
    ],
)
def test_a_gate_fails_closed(text, results):
    assert check(Gate.parse(text), results).status == "not measured"


@pytest.mark.parametrize("condition", ["< 5", "> 5", ">= 0", "<= 0"])
def test_a_lower_bound_has_no_upper_end(condition):
    bound = Estimate(0.4, 0.4, math.inf, 0.0, 2.0, 10, "epsilon", "lower bound at 95%")
    bounded = CellResult("b", "membership", "tacit", 1.0, Findings("x", {"m": bound}))
    made = check(Gate.parse(f"m.upper {condition}"), [bounded])
    assert made.status == "not measured"
    assert "is a lower bound" in made.message
    assert check(Gate.parse("m > 0.5"), [bounded]).status == "passes"
    assert check(Gate.parse("m.lower > 0.3"), [bounded]).status == "bites"
    beside = check(Gate.parse("m.upper > 5"), [bounded, result("a", {"m": (0.5, 1.0)})])
    assert beside.status == "not measured"
    assert "is a lower bound" in beside.message


def test_an_unknown_metric_is_told_what_is_known():
    made = check(Gate.parse("nothing > 1"), [result("a", {"m": (0.5, 1.0), "auc": (0.5, 1.0)})])
    assert "measured are: auc, m" in made.message
    assert made.record()["observed"] is None


def test_a_failure_in_another_row_is_no_matter():
    results = [result("a", {"m": (0.5, 1.0)}), result("b", {}, row="poisoning", failed=True)]
    assert check(Gate.parse("m > 0.9"), results).status == "passes"


def test_what_is_known_to_be_bad_bites_whatever_else_failed():
    results = [result("a", {"m": (0.5, 1.0)}), result("b", {}, failed=True)]
    assert check(Gate.parse("m > 0.1"), results).status == "bites"
