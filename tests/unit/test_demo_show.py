"""Tables, progress, results and worker of the demonstrations."""

from __future__ import annotations

import io
import json
import os
import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace

import pytest
from rich.console import Console

from tacit.demo import results, splits
from tacit.demo.results import results_folder, write_plot, write_results
from tacit.demo.scoreboard import Row, Score, coalitions, gap, gap_line, scoreboard
from tacit.demo.screen import Screen, steps
from tacit.demo.splits import SplitResult, SplitTask, run_splits, work
from tacit.errors import ConfigError, RoundAborted


def score(auc: float, epsilon: float | None = 0.9, traffic: float | None = 2e6) -> Score:
    return Score(accuracy=0.9, auc=auc, epsilon=epsilon, traffic=traffic, seconds=1.25)


POOLED = Row("pooled", "pooled records", (score(0.99, None, None), score(0.97, None, None)))
TACIT = Row("shared", "Tacit", (score(0.98), score(0.97)))


def text(item: object, width: int = 80) -> str:
    console = Console(width=width, record=True, file=io.StringIO())
    console.print(item)
    return console.export_text()


def test_the_scoreboard_shows_mean_spread_and_cost_in_80_columns() -> None:
    wide = Row("own", "Tacit, own noise", tuple(score(auc) for auc in (0.99, 0.97)))
    shown = text(scoreboard([POOLED, wide]))
    assert "0.9800 ± 0.014" in shown
    assert "0.900 ± 0.000" in shown
    assert "none" in shown
    assert "records" in shown
    assert "2.00" in shown
    assert "1.2 s" in shown
    assert len(shown.splitlines()) == 6, "no cell is folded"
    assert "±" not in text(scoreboard([Row("one", "one", (score(0.9),))]))


@pytest.mark.parametrize(
    ("auc", "points", "words"),
    [(0.975, 0.5, ("0.50 points below", "met")), (0.96, 2.0, ("2.00 points below", "MISSED"))],
)
def test_the_gap_is_held_against_the_target(
    auc: float, points: float, words: tuple[str, str]
) -> None:
    row = Row("shared", "Tacit", (score(auc),))
    assert gap(row, POOLED) == pytest.approx(points)
    assert all(word in gap_line(row, POOLED) for word in words)


def test_a_better_private_model_is_above() -> None:
    assert "1.00 points above" in gap_line(Row("x", "Tacit", (score(0.99),)), POOLED)


def test_coalitions_are_columns() -> None:
    shown = text(coalitions([("Tacit", (0.7, 0.9)), ("Tacit, own noise", (0.4, 0.5))]))
    assert "0.700" in shown
    assert "0.500" in shown


def test_plain_progress_is_a_line_per_step(capsys: pytest.CaptureFixture[str]) -> None:
    with steps("all", 2, quiet=False) as progress:
        for part, share, label in ((0, 0.0, "a"), (0, 0.5, "a"), (1, 0.0, "b"), (0, 0.6, "c")):
            progress.update(part, share, label)
    assert capsys.readouterr().err.splitlines() == ["a", "b", "c"]
    with steps("all", 1, quiet=True) as progress:
        progress.update(0, 0.0, "a")
    captured = capsys.readouterr()
    assert captured.err == captured.out == ""


def test_a_quiet_screen_prints_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    screen = Screen(quiet=True)
    screen.heading("a")
    screen.say("b")
    screen.line("c")
    screen.facts([("d", "e")])
    assert capsys.readouterr().out == ""


def test_a_screen_breaks_prose_and_never_a_path(capsys: pytest.CaptureFixture[str]) -> None:
    screen = Screen(quiet=False)
    screen.line("p" * 300)
    screen.say("word " * 60)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "p" * 300
    assert len(lines) > 2
    assert all(len(line) <= 120 for line in lines[1:])


def test_every_demonstration_gets_its_own_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(results.time, "strftime", lambda form: form.replace("%", ""))
    first, second = results_folder(None), results_folder(None)
    assert first != second
    assert {path.parent for path in (first, second)} == {Path("runs")}
    assert second.is_dir()
    with pytest.raises(ConfigError, match="exists already"):
        results_folder(second)


def test_results_are_json_and_a_picture(tmp_path: Path) -> None:
    path = write_results(tmp_path, {"rows": [POOLED.record(), TACIT.record()]})
    rows = json.loads(path.read_text())["rows"]
    assert rows[0]["splits"][1]["epsilon"] is None
    assert rows[1]["auc"]["mean"] == pytest.approx(0.975)
    picture = write_plot(tmp_path, [POOLED, TACIT], [("Tacit", (0.7, 0.9))])
    assert picture is not None
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_without_matplotlib_there_is_no_picture(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(name: str) -> object:
        if name.startswith("matplotlib"):
            raise ImportError(name)
        return import_module(name)

    monkeypatch.setattr(results, "import_module", refuse)
    assert write_plot(tmp_path, [TACIT], [("Tacit", (0.7, 0.9))]) is None
    assert list(tmp_path.iterdir()) == []


def test_a_result_survives_json() -> None:
    result = SplitResult({"shared": score(0.9, None)}, {"shared": [0.7, 0.9]}, None)
    assert SplitResult.from_record(json.loads(json.dumps(asdict(result)))) == result


def test_a_worker_names_what_stopped_it(tmp_path: Path) -> None:
    (tmp_path / "blocked").write_text("a file where a folder should be")
    task = SplitTask(str(tmp_path / "blocked"), 4, ("plain",))
    answers: list[dict[str, object]] = []
    work([json.dumps(asdict(task))], answers.append)
    assert "error" in answers[-1]
    with pytest.raises(RoundAborted, match="split 4") as caught:
        splits._result(answers[-1], task)
    assert caught.value.remedy


def test_a_worker_that_dies_is_named() -> None:
    waiting = deque([(3, SplitTask("folder", 4, ("plain",)))])
    dead = SimpleNamespace(
        stdin=io.StringIO(), stdout=io.StringIO('{"share": 0.5, "label": "x"}\n')
    )
    seen: list[tuple[int, float, str]] = []
    with pytest.raises(RoundAborted, match="split 4: its process ended"):
        splits._hand_out(waiting, dead, lambda *at: seen.append(at))  # type: ignore[arg-type]
    assert seen == [(3, 0.5, "x")]


def test_tasks_are_shared_and_results_keep_their_order(monkeypatch: pytest.MonkeyPatch) -> None:
    """The worker here is a thread of this process, on pipes that speak the same lines."""
    tasks = [SplitTask("folder", seed, ("plain",)) for seed in range(6)]
    done: list[int] = []

    def run(task: SplitTask, on_progress: object) -> SplitResult:
        done.append(task.seed)
        return SplitResult({"plain": score(task.seed / 10)}, {}, None)

    monkeypatch.setattr(splits, "run_split", run)
    for cores in (1, 2):
        monkeypatch.setattr(splits.os, "cpu_count", lambda count=cores: count)
        monkeypatch.setattr(splits, "_worker", in_thread)
        found = run_splits(tasks, lambda *_: None)
        assert [result.scores["plain"].auc for result in found] == [s / 10 for s in range(6)]
    assert sorted(done) == sorted([*range(6), *range(6)])


@contextmanager
def in_thread() -> Iterator[object]:
    ends = [os.pipe(), os.pipe()]
    (task_in, task_out), (answer_in, answer_out) = ends
    reader, writer = os.fdopen(task_in), os.fdopen(answer_out, "w")

    def serve() -> None:
        work(reader, lambda value: print(json.dumps(value), file=writer, flush=True))

    thread = threading.Thread(target=serve)
    thread.start()
    with os.fdopen(task_out, "w") as stdin, os.fdopen(answer_in) as stdout:
        yield SimpleNamespace(stdin=stdin, stdout=stdout)
    thread.join()
    reader.close()
    writer.close()
