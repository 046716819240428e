"""The coverage-guided fuzzer: that guidance works, that it repeats, and one long search."""

from __future__ import annotations

import dataclasses
import random
import sys
from pathlib import Path

import pytest
from coverage_guided import Edges, fuzz, main, reproduction
from decoder_targets import Target, all_targets

from tacit.errors import DecodeError
from tacit.wire import envelope

HERE = str(Path(__file__).parent)
BUDGET = 20_000
SLOW_EXECUTIONS = 4_000


def maze(data: bytes) -> None:
    """A decoder whose bug lies behind five checks, each passed by one byte in sixteen."""
    if len(data) != 5:
        raise DecodeError("maze", "length")
    if data[0] >> 4 != 5:
        raise DecodeError("maze", "first")
    if data[1] >> 4 != 12:
        raise DecodeError("maze", "second")
    if data[2] >> 4 != 9:
        raise DecodeError("maze", "third")
    if data[3] >> 4 != 3:
        raise DecodeError("maze", "fourth")
    if data[4] >> 4 != 14:
        raise DecodeError("maze", "fifth")
    raise IndexError("planted")


MAZE = Target("maze", maze, (DecodeError,), (bytes(5),), "bytes")


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_guidance_finds_a_planted_bug(seed):
    search = fuzz(MAZE, executions=BUDGET, seed=seed, folder=HERE)
    assert isinstance(search.finding.error, IndexError)
    with pytest.raises(IndexError):
        maze(search.finding.data)


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_without_guidance_the_same_budget_finds_nothing(seed):
    assert fuzz(MAZE, executions=BUDGET, seed=seed, folder=HERE, guided=False).finding is None
    generator = random.Random(seed)
    for _ in range(BUDGET):
        with pytest.raises(DecodeError):
            maze(generator.randbytes(generator.randrange(9)))


def test_a_bug_planted_in_the_real_decoder_is_found(monkeypatch):
    """An unknown message type, deep inside a valid and signed message, lets a KeyError escape."""

    class Unchecked(dict):
        def get(self, name):
            return self[name]

    monkeypatch.setattr(envelope, "MESSAGES", Unchecked(envelope.MESSAGES))
    target = all_targets()["open-header"]
    search = fuzz(target, executions=2_000, seed=1)
    assert isinstance(search.finding.error, KeyError)
    generator = random.Random(1)
    for _ in range(2_000):
        with pytest.raises(DecodeError):
            target.run(generator.randbytes(1 + generator.randrange(300)))


def test_a_search_repeats_by_its_seed():
    target = all_targets()["note"]
    first, again, other = (fuzz(target, executions=150, seed=seed) for seed in (1, 1, 2))
    assert (first.corpus, first.edges) == (again.corpus, again.edges)
    assert first.corpus != other.corpus
    assert len(first.corpus) > len(target.seeds)


def test_edges_of_other_code_do_not_count_and_tracing_is_restored():
    before = sys.gettrace()
    assert Edges(HERE).of(lambda: maze_refuses(b"")) > set()
    assert Edges(HERE + "/elsewhere").of(lambda: maze_refuses(b"")) == set()
    assert sys.gettrace() is before


def maze_refuses(data):
    with pytest.raises(DecodeError):
        maze(data)


def test_a_finding_prints_one_line_that_reproduces_it(capsys):
    target = dataclasses.replace(all_targets()["address"], errors=())
    known = {"address": target}
    assert main(["--executions", "50", "--seed", "3"], known) == 1
    line = capsys.readouterr().out.splitlines()[-1]
    command = line.split()
    assert command[:2] == ["python", "tests/fuzz/coverage_guided.py"]
    assert main(command[2:], known) == 1
    assert "DecodeError" in capsys.readouterr().out
    finding = fuzz(target, executions=50, seed=3).finding
    assert line == reproduction(finding)
    assert main(command[2:]) == 0  # the real target documents that error


@pytest.mark.slow
@pytest.mark.parametrize("name", all_targets())
def test_a_long_search_finds_nothing(name):
    search = fuzz(all_targets()[name], executions=SLOW_EXECUTIONS, seed=20)
    assert search.finding is None, f"{search.finding.error!r}\n{reproduction(search.finding)}"
    assert len(search.edges) > 0
