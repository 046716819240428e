"""The suite keeps what is done, survives what goes wrong, and calls nothing measured that was not."""

from __future__ import annotations

import dataclasses
import json
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tacit.attack import recipe
from tacit.attack.cells import CellResult, CellStore, Failure
from tacit.attack.codec import FORMAT, decode, encode
from tacit.attack.crew import Crew
from tacit.attack.findings import Attack, Curve, Findings, Picture, Roc
from tacit.attack.lock import NAME, held
from tacit.attack.measure import Estimate, proportion
from tacit.attack.recipe import Recipe, digest_of
from tacit.attack.registry import Entry, attacks_of, load_attacks
from tacit.attack.suite import Suite, Watcher, cells_of, mirrored, run_cell
from tacit.attacks import Request, attack_job
from tacit.errors import ConfigError, DecodeError, PolicyDenied, RoundAborted
from tacit.testing.federation import write_small_federation

HERE = Path(__file__).parent
pytestmark = pytest.mark.usefixtures("attack_modules")


def recipe_of(attacked, seed=0):
    contract = attacked / "evaluation" / "contract.toml"
    return Recipe(str(attacked / "job.toml"), str(contract), seed, "demo")


def suite(
    attacked, folder, modules, *, columns=("plain", "masking"), recipe=True, jobs=2, **options
):
    made = recipe_of(attacked)
    bench = made.open()
    store = CellStore(folder / "cells", digest_of(bench).hex())
    cells = cells_of(load_attacks(modules=modules), columns)
    return Suite(bench, cells, store, made if recipe else None, jobs, **options)


def test_attacks_run_in_worker_processes_and_find_what_is_there(attacked, tmp_path):
    shares = []
    told = Watcher(progress=lambda cell, share: shares.append((cell.name, share)))
    made = suite(attacked, tmp_path, ["tiny_attacks"], watcher=told)
    results = {(one.attack, one.defence): one for one in made.run()}
    assert set(results) == {
        *(("ratio", "plain"), ("ratio", "masking"), ("guess", "plain"), ("guess", "masking")),
        ("sizes", "masking"),
    }
    assert results["ratio", "plain"].findings.measured["reconstruction.share"].value == 1.0
    assert results["ratio", "masking"].findings.measured["reconstruction.share"].value == 0.0
    assert results["ratio", "plain"].findings.details == {"hits": 8}
    assert all(0 <= share <= 1 for _, share in shares)
    kept = sorted(path.name for path in (tmp_path / "cells").iterdir())
    assert kept == sorted(f"{attack}-{defence}.json" for attack, defence in results)
    # Another process draws the attacker's very choices.
    for cell in made.cells:
        if cell.name == "guess-plain":
            again = run_cell(made.bench, cell, lambda _: None)
            assert again.findings.notes == results["guess", "plain"].findings.notes


def test_what_is_alike_is_attacked_once_and_stands_in_both_columns(attacked, tmp_path):
    ran = []

    def run(bench, defence, on_progress):
        ran.append(defence)
        return Findings("nobody", {"m": proportion(1, 2, null=0.5)})

    columns = ("masking", "noise", "tacit")
    entries = [
        Entry("here", Attack("metadata", "same", run, columns, alike=True)),
        Entry("here", Attack("metadata", "other", run, columns)),
    ]
    bench = recipe_of(attacked).open()
    store = CellStore(tmp_path / "cells", digest_of(bench).hex())
    results = Suite(bench, cells_of(entries, columns), store).run()
    assert sorted(ran) == ["masking", "masking", "noise", "tacit", "tacit"]
    whole = {(one.attack, one.defence): one for one in mirrored(results, entries, columns)}
    assert len(whole) == 6
    copy, own = whole["same", "noise"], whole["same", "tacit"]
    assert copy.findings.measured == own.findings.measured
    assert [key for key, one in whole.items() if one.mirrored] == [("same", "noise")]
    assert "not run again" in copy.findings.adversary
    assert own.findings.adversary == "nobody"
    assert not (tmp_path / "cells" / "same-noise.json").exists()
    # Without the other column there is nothing to share.
    assert {cell.defence for cell in cells_of(entries[:1], ("noise",))} == {"noise"}
    assert mirrored((), entries, ("noise",)) == ()


class Stop(KeyboardInterrupt):
    pass


def test_an_interrupted_suite_goes_on(attacked, tmp_path):
    ran = []

    def attack(name):
        def run(bench, defence, on_progress):
            ran.append(name)
            if name == "second" and ran.count(name) == 1:
                raise Stop
            return Findings("nobody", {"m": proportion(1, 2, null=0.5)})

        return Attack("membership", name, run, ("tacit",))

    bench = recipe_of(attacked).open()
    cells = cells_of(
        [Entry("here", attack(name)) for name in ("first", "second", "third")], ("tacit",)
    )
    kept = []
    told = Watcher(done=lambda cell, _result, before: kept.append((cell.name, before)))

    def again(digest="d", seed=0):
        store = CellStore(tmp_path / "cells", digest)
        return Suite(dataclasses.replace(bench, seed=seed), cells, store, watcher=told).run()

    with pytest.raises(Stop):
        again()
    assert ran == ["first", "second"]
    assert [one.attack for one in again()] == ["first", "second", "third"]
    assert ran == ["first", "second", "second", "third"]
    assert ("first-tacit", True) in kept
    again()
    assert len(ran) == 4
    again(digest="another setting")
    assert len(ran) == 7
    (tmp_path / "cells" / "third-tacit.json").write_text("{")
    again(digest="another setting")
    assert ran[7:] == ["third"]


def test_ctrl_c_leaves_what_is_done_and_no_process(attacked, tmp_path):
    code = f"""
import os, signal, sys
from pathlib import Path
sys.path.insert(0, {str(HERE)!r})
from test_suite import suite
from tacit.attack.suite import Watcher
stop = Watcher(done=lambda *_: os.kill(os.getpid(), signal.SIGINT))
try:
    suite(Path({str(attacked)!r}), Path({str(tmp_path)!r}), ["tiny_attacks"], jobs=1, watcher=stop).run()
except KeyboardInterrupt:
    print("interrupted")
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout == "interrupted\n", done.stderr
    kept = list((tmp_path / "cells").iterdir())
    assert 1 <= len(kept) < 5
    assert all(CellResult.from_record(json.loads(one.read_text())["result"]) for one in kept)


def test_a_failing_attack_is_not_measured(attacked, tmp_path):
    made = suite(attacked, tmp_path, ["broken_attacks"], columns=("tacit",), jobs=1)
    results = {one.attack: one for one in made.run()}
    assert results["crash"].reason == "ZeroDivisionError: on purpose"
    assert "broken_attacks.py" in results["crash"].outcome.trace
    assert results["refused"].reason == "nobody took part (round.refused)"
    assert "exit code 3" in results["leave"].reason
    assert "not plain JSON" in results["strange"].reason
    assert results["babble"].findings.measured["babble"].trials == 4
    assert "noise" in (tmp_path / "workers.log").read_text()
    # Failures are written down, and tried again.
    assert json.loads((tmp_path / "cells" / "crash-tacit.json").read_text())["result"]["failure"]
    assert made.store.read(next(c for c in made.cells if c.name == "crash-tacit")) is None
    assert made.store.read(next(c for c in made.cells if c.name == "babble-tacit")) is not None


def test_the_digest_covers_whatever_a_result_depends_on(attacked, tmp_path):
    bench = recipe_of(attacked).open()
    other = tmp_path / "other"
    write_small_federation(other, records=20)
    text = (other / "evaluation" / "records.csv").read_text()
    (other / "evaluation" / "records.csv").write_text(text.replace("yes", "no", 1))
    changed = [
        dataclasses.replace(bench, seed=1),
        dataclasses.replace(bench, profile="quick"),
        dataclasses.replace(bench, job=bench.job.model_copy(update={"rounds": 7})),
        dataclasses.replace(bench, data=recipe_of(other).open().data),
    ]
    digests = [digest_of(one) for one in (bench, *changed)]
    assert len(set(digests)) == 5
    assert digest_of(recipe_of(attacked).open()) == digests[0]


def test_the_digest_covers_how_records_lie_and_whose_they_are(attacked):
    bench = recipe_of(attacked).open()
    batch = bench.data.batch

    def digest(**changes):
        names = ("features", "labels", "entities", "schema")
        fake = SimpleNamespace(**{name: getattr(batch, name) for name in names} | changes)
        data = SimpleNamespace(contract=bench.data.contract, batch=fake)
        made = dataclasses.replace(bench, data=data)
        made._loaded.append(bench.model)
        return digest_of(made)

    entities = np.arange(len(batch), dtype=np.uint64) // 2
    flat = batch.features.T.reshape(batch.features.shape)
    digests = [
        digest(),
        digest(entities=entities),
        digest(entities=np.roll(entities, 1)),
        digest(features=np.ascontiguousarray(batch.features)),
        digest(features=np.asfortranarray(flat)),
        digest(labels=batch.labels.astype(np.int32)),
    ]
    assert len(set(digests)) == len(digests)
    # Pseudonyms are drawn anew with every key: what counts is who shares one.
    assert digest(entities=entities * np.uint64(7919) + np.uint64(3)) == digests[1]


def test_the_digest_covers_code_outside_the_package(attacked, tmp_path, monkeypatch):
    other = tmp_path / "other"
    write_small_federation(other, records=20)
    bench = recipe_of(other).open()
    own = dataclasses.replace(bench, job=bench.job.model_copy(update={"model": "net.py:Net"}))
    own._loaded.append(bench.model)
    (other / "net.py").write_text("import parts")
    (other / "parts.py").write_text("A = 1")
    (other / "more").mkdir()
    (other / "more" / "__init__.py").write_text("A = 1")
    (tmp_path / "others_attacks.py").write_text("ATTACKS = ()")
    monkeypatch.syspath_prepend(str(tmp_path))

    def digest():
        return digest_of(own, ["others_attacks"])

    digests = [digest(), digest_of(own)]
    assert digest() == digests[0]
    for path in (
        other / "parts.py",
        other / "more" / "__init__.py",
        tmp_path / "others_attacks.py",
    ):
        path.write_text("A = 2")
        digests.append(digest())
    version = recipe._version
    monkeypatch.setattr(recipe, "_version", lambda name: version(name) + "9" * (name == "numpy"))
    digests.append(digest())
    assert len(set(digests)) == len(digests)


def test_parent_and_worker_agree_on_attacks_from_elsewhere(attacked, tmp_path):
    made = dataclasses.replace(recipe_of(attacked), modules=("tiny_attacks",))
    bench = made.open()
    digest = digest_of(bench, made.modules).hex()
    assert Recipe.from_record(json.loads(json.dumps(made.record()))) == made
    cells = cells_of(load_attacks(["metadata"], ["tiny_attacks"]), ("masking",))
    store = CellStore(tmp_path / "cells", digest)
    (result,) = Suite(bench, cells, store, made, 1).run()
    assert result.reason == ""


def test_data_that_are_not_public_are_refused(attacked):
    contract = attacked / "sites" / "north" / "contracts" / "small.toml"
    with pytest.raises(PolicyDenied):
        dataclasses.replace(recipe_of(attacked), contract=str(contract)).open()
    with pytest.raises(ConfigError, match="profile"):
        dataclasses.replace(recipe_of(attacked), profile="huge").open()


def test_a_missing_package_is_named_with_its_remedy(tmp_path, monkeypatch):
    (tmp_path / "needs_more.py").write_text("import jinja2.nothing_like_it\nATTACKS = ()\n")
    (tmp_path / "mistaken.py").write_text("import nothing_like_it\nATTACKS = ()\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(ConfigError) as caught:
        attacks_of("needs_more")
    assert caught.value.remedy == "pip install 'tacit[torch,report]'"
    with pytest.raises(ModuleNotFoundError):
        attacks_of("mistaken")
    with pytest.raises(ConfigError, match=r"no module 'tacit\.attack\.no_such_package'"):
        attacks_of("tacit.attack.no_such_package")
    with pytest.raises(ConfigError, match="no row"):
        load_attacks(["nonsense"])


def test_two_attacks_never_share_a_name():
    with pytest.raises(ConfigError, match="does not fit"):
        load_attacks(modules=["tiny_attacks", "tiny_attacks"])


# --- JSON --------------------------------------------------------------------------------------------

numbers = st.floats(allow_nan=False, allow_infinity=False, width=32)


@st.composite
def estimates(draw):
    low, value, high = sorted(draw(st.tuples(numbers, numbers, numbers)))
    wide = draw(st.booleans())
    maybe = st.none() | numbers | st.just(float("inf"))
    return Estimate(
        value,
        float("-inf") if wide else low,
        float("inf") if wide else high,
        draw(st.none() | numbers),
        draw(maybe),
        draw(st.integers(0, 1 << 40)),
        draw(st.sampled_from(["share", "auc", "epsilon"])),
        draw(st.text(max_size=20)),
    )


@st.composite
def all_findings(draw):
    some = st.lists(st.text(max_size=10), max_size=2).map(tuple)
    levels = st.tuples(*[numbers] * 6)
    points = st.lists(st.tuples(numbers, numbers), max_size=3).map(tuple)
    curve = st.builds(
        Curve, st.text(max_size=5), st.text(max_size=5), st.tuples(st.tuples(numbers, estimates()))
    )
    return Findings(
        adversary=draw(st.text(max_size=10)),
        measured=draw(st.dictionaries(st.text(max_size=10), estimates(), max_size=3)),
        notes=draw(some),
        alarms=draw(some),
        pictures=draw(
            st.lists(
                st.builds(Picture, levels, levels, st.just((2, 3)), st.text(max_size=5)), max_size=2
            )
        ),
        curves=draw(st.lists(curve, max_size=2).map(tuple)),
        rocs=draw(st.lists(st.builds(Roc, st.text(max_size=5), points), max_size=2).map(tuple)),
        details=draw(
            st.dictionaries(st.text(max_size=5), st.none() | st.integers() | st.text(), max_size=3)
        ),
    )


@settings(max_examples=40)
@given(all_findings())
def test_findings_go_through_json_unchanged(findings):
    findings = dataclasses.replace(findings, pictures=tuple(findings.pictures))
    text = json.dumps(encode(findings), allow_nan=False)
    assert decode(json.loads(text)) == findings
    result = CellResult("a", "membership", "tacit", 1.5, findings)
    assert CellResult.from_record(json.loads(json.dumps(result.record()))) == result


def test_a_failure_goes_through_json_unchanged():
    result = CellResult("a", "membership", "tacit", 1.5, Failure("why", "trace"))
    assert CellResult.from_record(json.loads(json.dumps(result.record()))) == result


def spoiled():
    good = encode(Findings("x", {"m": proportion(1, 2, null=0.5)}))
    yield {**good, "format": FORMAT + 1}
    yield {**good, "more": 1}
    yield {name: value for name, value in good.items() if name != "notes"}
    yield {**good, "notes": "text"}
    for change in ({"value": 2.0}, {"value": "nan"}, {"trials": True}, {"low": None}, {"how": 1}):
        yield {**good, "measured": {"m": {**good["measured"]["m"], **change}}}
    picture = {"original": [0.0], "found": [0.0, 1.0], "shape": [1, 2], "caption": ""}
    yield {**good, "pictures": [picture]}
    yield []


@pytest.mark.parametrize("record", [*spoiled()])
def test_anything_else_is_refused(record):
    with pytest.raises(DecodeError):
        decode(record)


def test_a_figure_that_is_no_number_is_no_result(attacked):
    nan = Findings("x", {"m": Estimate(0.0, 0.0, 0.0, float("nan"), None, 1, "share", "")})
    attack = Attack("membership", "nan", lambda *_: nan, ("tacit",))
    (cell,) = cells_of([Entry("here", attack)], ("tacit",))
    assert "not a number" in run_cell(recipe_of(attacked).open(), cell, lambda _: None).reason


@pytest.mark.parametrize("content", ["[" * 100_000, '{"digest": "%s", "result": {"seconds": 1%s}}'])
def test_a_damaged_result_is_measured_anew(attacked, tmp_path, content):
    made = suite(attacked, tmp_path, ["tiny_attacks"], columns=("masking",), recipe=False)
    cell = made.cells[0]
    made.store.folder.mkdir(parents=True)
    text = content if "%" not in content else content % (made.store.digest, "0" * 400)
    (made.store.folder / f"{cell.name}.json").write_text(text)
    assert made.store.read(cell) is None


def test_a_folder_is_one_suites_at_a_time(attacked, tmp_path):
    request = Request(attacked / "job.toml", "demo", out=tmp_path, modules=["tiny_attacks"], jobs=1)
    request = dataclasses.replace(request, only=["membership"], columns=["tacit"])
    with held(tmp_path):
        with pytest.raises(RoundAborted, match=re.escape(str(tmp_path))) as caught:
            attack_job(request, quiet=True)
        assert (caught.value.code, caught.value.retryable) == ("attack.busy", True)
        assert "--out" in caught.value.remedy
        assert [path.name for path in tmp_path.iterdir()] == [NAME]
    attack_job(request, quiet=True)
    assert (tmp_path / "report.json").exists()
    with pytest.raises(ConfigError, match="cannot lock"), held(tmp_path / "nowhere"):
        pass


def test_two_suites_in_one_folder_do_not_disturb_each_other(tmp_path):
    log = tmp_path / "workers.log"
    with Crew(None, "", log), Crew(None, "", log):
        pass
    assert not log.exists()
