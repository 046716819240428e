"""Verdicts and words follow the numbers, and no broken protection ends in a green table."""

from __future__ import annotations

import dataclasses
import json
import math
import re
from html.parser import HTMLParser

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from tacit.attack.cells import CellResult, Failure
from tacit.attack.defences import DEFENCES
from tacit.attack.drawings import _seen, draw_picture
from tacit.attack.findings import Attack, Curve, Findings, Picture, Roc
from tacit.attack.gate import Gate, check
from tacit.attack.measure import Ceiling, Estimate, difference, proportion
from tacit.attack.page import render
from tacit.attack.proven import Proven, prove
from tacit.attack.recipe import Recipe
from tacit.attack.registry import ROWS, Entry
from tacit.attack.report import Report, Setting, rows_of
from tacit.attack.suite import mirrored
from tacit.attack.verdict import AUDITED, PROMISED, bound_of, judge, unsettled, view_cell
from tacit.attack.words import at_least, at_most, interval, sentence, told
from tacit.testing.federation import write_small_federation

numbers = st.floats(-0.5, 1.0, width=32)


@st.composite
def estimates(draw, *, bounded=None):
    low, value, high = sorted(draw(st.tuples(numbers, numbers, numbers)))
    ceilings = numbers if bounded else st.none() | numbers | st.just(1.0) | st.just(math.inf)
    null = draw(st.none() | numbers)
    return Estimate(value, low, high, null, draw(ceilings), 100, "share", "by hand")


CHANCE = Estimate(0.01, -0.02, 0.03, 0.0, 0.2, 1000, "advantage", "by hand")
LEAK = Estimate(0.1, 0.05, 0.15, 0.0, 0.2, 1000, "advantage", "by hand")
BROKEN = Estimate(0.9, 0.8, 1.0, 0.0, None, 1000, "advantage", "by hand")


def result(row, defence, outcome=CHANCE, *, attack="", alarms=()):
    if isinstance(outcome, Estimate):
        outcome = Findings("the leader", {f"{row}.figure": outcome}, alarms=alarms)
    return CellResult(attack or row, row, defence, 1.0, outcome)


SETTING = Setting("small", "ab" * 32, "ef" * 32, "records", 100, 0, "quick", "cd" * 32)
PROVEN = Proven(1.0, 1e-5, Ceiling(1.0, 0.3, ((0.0, 0.3), (1.0, 1e-5))), ("Epsilon is 1.",))


def report(results=None, *, rows=tuple(ROWS), gates=()):
    if results is None:
        power = {"plain": BROKEN}
        results = [result(row, c, power.get(c, CHANCE)) for row in rows for c in DEFENCES]
    made = tuple(results)
    return Report(
        SETTING, rows, DEFENCES, made, PROVEN, tuple(check(Gate.parse(one), made) for one in gates)
    )


# --- verdicts --------------------------------------------------------------------------------------


@given(estimates())
def test_verdicts_follow_the_numbers(one):
    verdict, bound = judge(one), bound_of(one)
    assert bound is None or bound < 1.0
    if bound is not None and one.low > bound:
        assert verdict == "broken"
    elif one.null is None:
        assert verdict == "not measured"
    elif one.low <= one.null:
        assert verdict == "at chance"
    elif bound is not None:
        assert verdict == "leaks"
    else:
        assert verdict in ("leaks", "broken")


def test_a_bound_that_everything_keeps_is_none():
    certain = proportion(20, 20, null=0.0, ceiling=1.0)
    assert bound_of(certain) is None
    assert judge(certain) == "broken"
    endless = dataclasses.replace(BROKEN, unit="epsilon", ceiling=math.inf)
    assert judge(endless) == "broken"
    assert judge(dataclasses.replace(BROKEN, ceiling=0.99)) == "leaks"
    assert judge(dataclasses.replace(BROKEN, ceiling=0.5)) == "broken"


def test_barely_above_chance_is_not_called_broken():
    assert judge(Estimate(0.1, 0.01, 0.2, 0.0, None, 10, "advantage", "")) == "leaks"


def test_the_strongest_attack_stands_for_its_row():
    weak, strong = (
        result("membership", "tacit", CHANCE),
        result("membership", "tacit", LEAK, attack="b"),
    )
    cell = view_cell([weak, strong])
    assert (cell.attack, cell.verdict, cell.attacks) == ("b", "leaks", ("membership", "b"))
    auc = Estimate(0.99, 0.98, 1.0, 0.5, None, 10, "auc", "")
    cell = view_cell([result("membership", "tacit", auc, attack="c"), strong])
    assert cell.attack == "c"


# --- green or not ----------------------------------------------------------------------------------


def test_a_sound_system_is_green():
    made = report()
    assert made.verdict == ("green", ())
    assert made.exit_code == 0
    assert made.headline.startswith("Green. Of 8 rows under Tacit, 8 cannot be told from chance")


def test_a_leak_within_its_bound_is_named():
    results = [result(row, "tacit", LEAK if row == "membership" else CHANCE) for row in ROWS]
    made = report(results)
    assert made.verdict[0] == "green"
    assert "7 cannot be told from chance in these trials, 1 above chance." in made.headline


cells = st.tuples(st.sampled_from([*ROWS]), st.sampled_from(DEFENCES))


@given(cells, st.sampled_from([CHANCE, LEAK, BROKEN]))
def test_an_alarm_anywhere_is_never_green(where, estimate):
    made = [result(row, column) for row in ROWS for column in DEFENCES if (row, column) != where]
    made.append(result(*where, estimate, attack="other", alarms=("mask-reuse",)))
    made.append(result(*where))
    shown = report(made)
    assert shown.verdict[0] == "red"
    assert shown.exit_code == 1
    assert "mask-reuse" in " ".join(shown.verdict[1])
    assert shown.cells[where].verdict == "alarm"


BAD = [
    Failure("on purpose"),
    Findings("x", {}, notes=("does not apply",)),
    dataclasses.replace(CHANCE, null=None, ceiling=None),
    None,
]


@pytest.mark.parametrize("row", ROWS)
@pytest.mark.parametrize("bad", BAD)
@pytest.mark.parametrize("beside", [True, False])
def test_what_is_not_measured_is_never_green(row, bad, beside):
    made = [
        result(one, column)
        for one in ROWS
        for column in DEFENCES
        if (one, column) != (row, "tacit")
    ]
    if bad is not None:
        made.append(result(row, "tacit", bad, attack="bad"))
        if beside and not isinstance(bad, Estimate):
            made.append(result(row, "tacit"))
    shown = report(made)
    assert shown.verdict[0] == "red"
    assert shown.exit_code == 1
    assert shown.cells[row, "tacit"].verdict == "not measured"
    assert shown.headline.startswith("Not green")


@given(
    st.lists(st.sampled_from(["chance", "leak", "broken", "alarm", "fail"]), min_size=8, max_size=8)
)
def test_green_means_that_nothing_is_wrong_in_tacits_column(kinds):
    outcomes = {
        "chance": CHANCE,
        "leak": LEAK,
        "broken": BROKEN,
        "alarm": CHANCE,
        "fail": Failure("x"),
    }
    made = [
        result(row, "tacit", outcomes[kind], alarms=("a",) if kind == "alarm" else ())
        for row, kind in zip(ROWS, kinds, strict=True)
    ]
    status = report(made).verdict[0]
    bad = {row for row, kind in zip(ROWS, kinds, strict=True) if kind == "broken"}
    if {"alarm", "fail"} & set(kinds) or bad & (PROMISED - {AUDITED}):
        assert status == "red"
    else:
        assert status == ("open" if bad else "green")


def test_a_leak_that_nothing_bounds_is_not_green():
    wide = Estimate(1.0, 0.3, 1.0, 0.0, None, 2, "share", "")
    made = report([result(row, "tacit", wide if row == "membership" else CHANCE) for row in ROWS])
    assert made.verdict[0] == "open"
    assert "nothing bounds it" in made.verdict[1][0]


def test_a_check_speaks_by_alarms_alone():
    ratio = dataclasses.replace(BROKEN, unit="ratio")
    check_, attack = (
        result("membership", "tacit", ratio, attack="check"),
        result("membership", "tacit"),
    )
    assert view_cell([check_, attack]).attack == "membership"
    assert view_cell([check_, attack]).verdict == "at chance"
    assert view_cell([check_]).verdict == "not measured"
    alarmed = result("membership", "tacit", ratio, attack="check", alarms=("noise",))
    assert view_cell([alarmed, attack]).verdict == "alarm"
    failed = result("membership", "tacit", Failure("x"), attack="check")
    assert view_cell([failed, attack]).verdict == "not measured"


def test_too_few_trials_are_not_green():
    wide = proportion(1, 4, null=0.25)
    made = report([result(row, "tacit", wide if row == "metadata" else CHANCE) for row in ROWS])
    assert made.verdict[0] == "open"
    assert made.headline.startswith("Open: nothing that is promised was broken, but something")
    assert "too few trials" in made.verdict[1][0]
    assert unsettled(dataclasses.replace(wide, ceiling=0.3)), "the bound is what is being tried"
    assert not unsettled(CHANCE)


def test_an_attack_without_power_is_not_green():
    made = report([result(row, column) for row in ROWS for column in DEFENCES])
    assert made.verdict[0] == "open"
    assert "finds nothing without protection" in made.verdict[1][0]


def test_a_lower_bound_above_the_claim_is_red_by_its_alarm_alone():
    bound = Estimate(0.95, 0.95, 0.95, 0.0, 0.9, 1000, "epsilon", "")
    others = [result(row, "tacit") for row in ROWS if row != AUDITED]
    assert report([*others, result(AUDITED, "tacit", bound)]).verdict[0] == "open"
    alarmed = result(AUDITED, "tacit", bound, alarms=("epsilon-exceeded",))
    assert report([*others, alarmed]).verdict[0] == "red"


def test_the_sharper_figure_of_an_attack_decides():
    two = Findings("x", {"reconstruction.rate": CHANCE, "reconstruction.identification": BROKEN})
    other = Findings("x", {"reconstruction.rate": CHANCE, "reconstruction.columns": BROKEN})
    assert view_cell([result("reconstruction", "tacit", two)]).verdict == "broken"
    assert view_cell([result("reconstruction", "tacit", other)]).verdict == "at chance"


def test_outside_tacits_column_an_attack_may_stay_away_but_not_fail():
    none = Findings("x", {}, notes=("at this profile in Tacit's column only",))
    for defence, outcome, verdict in (
        ("noise", none, "at chance"),
        ("tacit", none, "not measured"),
        ("noise", Failure("x"), "not measured"),
    ):
        both = [result("membership", defence, outcome, attack="b"), result("membership", defence)]
        assert view_cell(both).verdict == verdict
        assert view_cell(both[:1]).verdict == "not measured"


def test_an_alarm_of_a_copied_cell_is_counted_once():
    entries = [Entry("here", Attack("metadata", "metadata", lambda *_: None, DEFENCES, alike=True))]
    own = result("metadata", "tacit", alarms=("sizes",))
    made = report(mirrored([own], entries, DEFENCES), rows=("metadata",))
    assert [made.cells["metadata", column].verdict for column in ("noise", "tacit")] == [
        "alarm"
    ] * 2
    assert [reason for reason in made.verdict[1] if "alarm" in reason] == [
        "alarm in metadata under tacit: sizes"
    ]
    flags = {one["column"]: one["mirrored"] for one in made.record()["attacks"]}
    assert flags == {"tacit": False, "noise": True}


def test_without_tacits_column_nothing_is_green():
    made = report([result(row, "plain") for row in ROWS])
    assert made.verdict[0] == "red"
    only = dataclasses.replace(report(), columns=("plain",))
    assert only.verdict[0] == "red"
    assert only.exit_code == 1


def test_a_part_of_the_suite_says_that_it_is_one():
    made = report(rows=rows_of(["metadata"]))
    assert made.verdict[0] == "green"
    assert "a part of the suite: 1 row." in made.headline


@pytest.mark.parametrize(
    ("gates", "code"),
    [
        ([], 0),
        (["membership.figure > 0.5"], 0),
        (["membership.figure.upper > 0.02"], 1),
        (["nothing > 0.5"], 2),
        (["nothing > 0.5", "membership.figure.upper > 0.02"], 1),
    ],
)
def test_gates_decide_the_exit_code(gates, code):
    assert report(gates=gates).exit_code == code


# --- words -----------------------------------------------------------------------------------------


@given(st.floats(allow_nan=False, allow_infinity=False, min_value=-1e6, max_value=1e6))
def test_rounding_never_narrows_an_interval(value):
    assert float(at_least(value)) <= value <= float(at_most(value))


@settings(max_examples=60)
@given(estimates(), st.sampled_from(DEFENCES), st.sampled_from([*ROWS]))
def test_a_sentence_never_says_more_than_the_interval(one, column, row):
    assume(one.null is not None)
    cell = view_cell([result(row, column, one)])
    text = sentence(column, cell)
    low, high = re.search(r"95% interval (-?[\d.]+) to (-?[\d.]+)", text).groups()
    assert float(low) <= one.low
    assert float(high) >= one.high
    rest = text.partition(": ")[2].replace("cannot be told from chance", "")
    assert not re.search(r"less than|below \d|under \d|safe|secure|cannot be|impossible", rest)
    if cell.verdict == "at chance" and one.high >= one.null:
        assert f"up to {at_most(one.high)} is not ruled out" in text
    if "lies above" in text:
        assert one.low > (one.null if "chance" in text else bound_of(one))
    if "below chance" in text:
        assert one.high < one.null


def test_a_wide_interval_is_not_called_less_than_a_percent():
    one = Estimate(0.003, -0.02, 0.026, 0.0, 0.281, 7188, "advantage", "")
    text = sentence("tacit", view_cell([result("membership", "tacit", one)]))
    assert "1%" not in text
    assert "0.0030 (95% interval -0.020 to 0.026, 7188 trials)" in text
    assert "up to 0.026 is not ruled out; theory allows at most 0.281" in text


AT_LEAST = Estimate(0.41239, 0.41239, math.inf, 0.0, 2.0, 4000, "epsilon", "lower bound at 95%")


def test_a_lower_bound_is_called_one():
    cell = view_cell([result(AUDITED, "tacit", AT_LEAST)])
    text = sentence("tacit", cell)
    assert "is at least 0.412 (95% confidence, 4000 trials) and lies above chance, 0.000" in text
    assert told(AT_LEAST) == interval(AT_LEAST) == "at least 0.412 (95% confidence)"
    page = render(report([result(AUDITED, "tacit", AT_LEAST)], rows=(AUDITED,)))
    assert page.count("at least 0.412 (95% confidence)") == 2
    nothing = dataclasses.replace(AT_LEAST, value=0.0, low=0.0)
    text = sentence("tacit", view_cell([result(AUDITED, "tacit", nothing)]))
    assert "a lower bound rules out nothing above it" in text
    for shown in (text, page):
        assert not re.search(r"infinity|0\.412[^.]{0,5}0\.412|not ruled out", shown)


def test_what_has_no_interval_shows_none():
    claimed = dataclasses.replace(AT_LEAST, high=0.41239)
    assert told(claimed) == "0.412 (no interval)"
    assert "0.412 (no interval, 4000 trials)" in sentence(
        "tacit", view_cell([result(AUDITED, "tacit", claimed)])
    )


def test_a_lower_bound_survives_record_and_curve():
    made = result(AUDITED, "tacit", AT_LEAST)
    assert CellResult.from_record(json.loads(json.dumps(made.record(), allow_nan=False))) == made
    record = json.loads(json.dumps(report([made], rows=(AUDITED,)).record(), allow_nan=False))
    assert record["rows"][0]["cells"]["tacit"]["estimate"]["high"] == "inf"
    curve = Curve("epsilon.audited", "rounds", ((1.0, AT_LEAST), (2.0, AT_LEAST)))
    findings = dataclasses.replace(made.findings, curves=(curve,))
    page = render(report([result(AUDITED, "tacit", findings)], rows=(AUDITED,)))
    assert "at least 0.412 (95% confidence) at 1" in page


def test_words_fit_their_row():
    made = report([result(row, "tacit", BROKEN) for row in ROWS]).record()["rows"]
    words = {row["row"]: row["cells"]["tacit"]["word"] for row in made}
    assert words["poisoning"] == "works"
    assert words["malicious-server"] == "succeeds"
    assert words["membership"] == "broken"


def test_several_attacks_are_said_to_be_several():
    cell = view_cell(
        [result("membership", "tacit"), result("membership", "tacit", LEAK, attack="b")]
    )
    assert "strongest of 2 attacks" in sentence("tacit", cell)


# --- the record ------------------------------------------------------------------------------------


def test_the_record_is_plain_json_and_the_same_every_time():
    made = report(gates=["membership.figure > 0.5"])
    record = made.record()
    assert json.loads(json.dumps(record, allow_nan=False)) == record
    assert {row["row"] for row in record["rows"]} == set(ROWS)
    for row in record["rows"]:
        assert set(row["cells"]) == set(DEFENCES)


def test_an_infinite_epsilon_is_text():
    proven = Proven(math.inf, 0.0, Ceiling(math.inf, 1.0, ((0.0, 1.0),)), ())
    assert dataclasses.replace(report(), proven=proven).record()["proven"]["epsilon"] == "inf"
    json.dumps(dataclasses.replace(report(), proven=proven).record(), allow_nan=False)


# --- the page --------------------------------------------------------------------------------------


class Reader(HTMLParser):
    """Collects tags, the addresses that a browser would load, and the text."""

    def __init__(self):
        super().__init__()
        self.tags, self.addresses, self.words = [], [], []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.addresses += [
            value for name, value in attrs if name in ("src", "href", "srcset", "action")
        ]
        assert not any(name.startswith("on") for name, _ in attrs)

    def handle_data(self, data):
        self.words.append(data)


HOSTILE = "<script>alert(1)</script>\u202e<img src=http://example.org/x onerror=y> $x^2$ &amp;"


def hostile():
    figures = {HOSTILE: CHANCE, "second": LEAK}
    findings = Findings(
        HOSTILE,
        figures,
        notes=(HOSTILE,),
        alarms=(HOSTILE,),
        pictures=(
            Picture((0.0, 1.0, 2.0, -1.0), (0.5,) * 4, (2, 2), HOSTILE),
            Picture((0.1,), (0.2,), (1, 1), ""),
        ),
        curves=(Curve(HOSTILE, HOSTILE, ((1.0, CHANCE), (2.0, LEAK))),),
        rocs=(Roc(HOSTILE, ((0.0, 0.0), (0.1, 0.4), (1.0, 1.0))),),
    )
    setting = dataclasses.replace(SETTING, job=HOSTILE, data=HOSTILE)
    made = [CellResult("one", "membership", column, 1.0, findings) for column in DEFENCES]
    made.append(CellResult("two", "property", "tacit", 1.0, Failure(HOSTILE)))
    proven = dataclasses.replace(PROVEN, lines=(HOSTILE,))
    return dataclasses.replace(report(made, gates=["x > 1"]), setting=setting, proven=proven)


def test_the_page_is_self_contained_and_escapes():
    text = render(hostile())
    reader = Reader()
    reader.feed(text)
    assert not {"script", "link", "iframe", "object", "base", "form"} & set(reader.tags)
    assert reader.addresses
    assert all(address.startswith("data:image/") for address in reader.addresses)
    assert "\u202e" not in text
    assert 'http-equiv="Content-Security-Policy" content="default-src \'none\'' in text
    assert not re.search(r"https?://", re.sub("&lt;img src=http://example.org/x", "", text))


def test_the_page_says_what_the_report_says():
    made = report()
    reader = Reader()
    reader.feed(render(made))
    text = " ".join(" ".join(reader.words).split())
    assert made.headline in text
    for sentences in made.measured().values():
        assert all(one in text for one in sentences)
    assert "What is not covered" in text


@settings(max_examples=10)
@given(st.lists(st.floats(-2, 2), min_size=6, max_size=6))
def test_a_picture_holds_its_levels(levels):
    matplotlib = pytest.importorskip("matplotlib.image")
    import base64
    import io

    import numpy as np

    data = base64.b64decode(draw_picture(levels, (2, 3)).removeprefix("data:image/png;base64,"))
    read = matplotlib.imread(io.BytesIO(data))
    assert read.shape == (2, 3)
    assert np.allclose(read.ravel(), np.clip(levels, 0, 1), atol=1 / 255)


# --- what is proven --------------------------------------------------------------------------------


def test_what_is_proven_is_the_jobs_own_promise(tmp_path):
    write_small_federation(tmp_path / "f", records=20)
    contract = tmp_path / "f" / "evaluation" / "contract.toml"
    bench = Recipe(str(tmp_path / "f" / "job.toml"), str(contract), 0, "demo").open()
    made = prove(bench, 3)
    assert 0 < made.epsilon <= 0.5
    assert 0 < made.ceiling.advantage < 0.5
    assert at_most(made.ceiling.advantage) in made.lines[0]
    plain = bench.job.model_dump()
    plain["privacy"] |= {"unit": "none", "sampling_rate": 1.0, "noise": "shared"}
    without = dataclasses.replace(bench, job=type(bench.job).model_validate(plain))
    assert prove(without, 3).epsilon == math.inf
    assert "Nothing is proven" in prove(without, 3).lines[0]


def test_measured_figures_of_the_estimators_get_their_verdicts():
    assert judge(difference((520, 1000), (500, 1000))) == "at chance"
    assert judge(difference((900, 1000), (500, 1000))) == "broken"
    assert judge(difference((900, 1000), (500, 1000), ceiling=0.1)) == "broken"
    assert judge(difference((600, 1000), (500, 1000), ceiling=0.3)) == "leaks"
    assert interval(difference((520, 1000), (500, 1000))).startswith("-")


def test_a_roc_is_drawn_from_where_it_was_measured():
    sharp = Roc("a", ((0.0, 0.0), (0.0, 0.4), (0.01, 0.4), (0.02, 0.6), (1.0, 1.0)))
    assert _seen(sharp, 0.001).tolist() == [[0.01, 0.4], [0.02, 0.6], [1.0, 1.0], [1.0, 1.0]]
    perfect = Roc("a", ((0.0, 0.0), (0.0, 1.0), (1.0, 1.0)))
    assert _seen(perfect, 0.005)[0].tolist() == [0.005, 1.0]
    assert _seen(perfect, 1.0)[0].tolist() == [0.01, 1.0]
    assert _seen(Roc("a", ()), 1.0).tolist() == [[0.01, 0.0], [1.0, 1.0]]
