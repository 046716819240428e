"""A small coverage-guided fuzzer for the decoders.

It keeps every input that reaches a new edge, which is a line of Tacit after another one, and mutates what
it kept. One seed gives one sequence of inputs. From the command line::

    python tests/fuzz/coverage_guided.py --executions 100000 --seed 7 open-message note
    python tests/fuzz/coverage_guided.py note --input 0a0b

The first searches; the second is what a finding prints to reproduce itself.
"""

from __future__ import annotations

import argparse
import random
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

from byte_mutations import mutate
from decoder_targets import Target, all_targets

import tacit

__all__ = ["Edges", "Finding", "Search", "fuzz", "main", "reproduction"]

SOURCE = str(Path(tacit.__file__).parent)
MAX_INPUT = 2**15
MAX_MUTATIONS = 4
LINE_BITS = 20


class Edges:
    """Which pairs of successive lines below a folder a call runs through.

    Args:
        folder: Only code in files below it counts.
    """

    def __init__(self, folder: str) -> None:
        self._folder = folder
        self._files: dict[str, int] = {}
        self._codes: dict[CodeType, int | None] = {}
        self._found: set[int] = set()
        self._previous = 0

    def of(self, call: Callable[[], object]) -> set[int]:
        """The edges of one call, whatever it raises; the caller's own tracing is restored."""
        self._found, self._previous = set(), 0
        before = sys.gettrace()
        sys.settrace(self._enter)
        try:
            call()
        finally:
            sys.settrace(before)
        return self._found

    @property
    def last(self) -> set[int]:
        """The edges of the last call, also when it raised."""
        return self._found

    def _enter(self, frame: FrameType, event: str, argument: Any) -> Any:
        code = frame.f_code
        if code not in self._codes:
            name = code.co_filename
            inside = name.startswith(self._folder)
            self._codes[code] = self._files.setdefault(name, len(self._files)) if inside else None
        if self._codes[code] is None:
            return None
        frame.f_trace_opcodes = False
        return self._step

    def _step(self, frame: FrameType, event: str, argument: Any) -> Any:
        if event == "line":
            file = self._codes[frame.f_code] or 0
            place = file << LINE_BITS | frame.f_lineno
            self._found.add(place << 2 * LINE_BITS | self._previous)
            self._previous = place
        return self._step


@dataclass(frozen=True, slots=True)
class Finding:
    """An input for which a decoder raised an error that it does not document."""

    target: str
    data: bytes
    error: Exception


@dataclass(frozen=True, slots=True)
class Search:
    """What a search did: inputs run, inputs kept, edges reached, and the first finding if any."""

    executions: int
    corpus: tuple[bytes, ...]
    edges: frozenset[int]
    finding: Finding | None


def fuzz(
    target: Target,
    *,
    executions: int,
    seed: int,
    folder: str = SOURCE,
    guided: bool = True,
) -> Search:
    """Searches for an input that makes ``target`` raise an undocumented error.

    Args:
        target: The decoder.
        executions: Inputs to run at most, the target's valid ones included.
        seed: What every choice follows from.
        folder: Whose lines count as coverage.
        guided: False keeps nothing: the baseline that guidance has to beat.
    """
    generator = random.Random(seed)
    edges, corpus, seen = Edges(folder), list(target.seeds), set[int]()
    for number in range(executions):
        start = number < len(target.seeds)
        data = corpus[number] if start else _next(generator, corpus, target)
        error = _run(target, edges, data)
        fresh = not edges.last <= seen
        seen |= edges.last
        if error is not None:
            finding = Finding(target.name, data, error)
            return Search(number + 1, tuple(corpus), frozenset(seen), finding)
        if guided and fresh and not start:
            corpus.append(data)
    return Search(executions, tuple(corpus), frozenset(seen), None)


def _run(target: Target, edges: Edges, data: bytes) -> Exception | None:
    try:
        edges.of(lambda: target.run(data))
    except target.errors:
        return None
    except Exception as error:  # noqa: BLE001 - any other error is what the search is for
        return error
    return None


def _next(generator: random.Random, corpus: Sequence[bytes], target: Target) -> bytes:
    """A mutation of an input that was kept; later ones, which went further, more often."""
    recent = generator.random() < 0.5
    first = len(corpus) * 3 // 4 if recent else 0
    data = corpus[generator.randrange(first, len(corpus))]
    for _ in range(1 + generator.randrange(MAX_MUTATIONS)):
        data = mutate(data, generator.randrange, corpus, target.shape)
    return data[:MAX_INPUT]


def reproduction(finding: Finding) -> str:
    """One line for a shell that runs the input of a finding again."""
    return f"python tests/fuzz/coverage_guided.py {finding.target} --input {finding.data.hex()}"


def main(arguments: Sequence[str] | None = None, targets: dict[str, Target] | None = None) -> int:
    """The command line; returns 1 if an undocumented error was found."""
    known = all_targets() if targets is None else targets
    parser = argparse.ArgumentParser(description="Coverage-guided fuzzing of every decoder.")
    parser.add_argument("target", nargs="*", help=f"by default all of: {', '.join(known)}")
    parser.add_argument("--executions", type=int, default=10_000, help="inputs for every target")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--input", help="run one input, in hexadecimal, instead of searching")
    options = parser.parse_args(arguments)
    unknown = set(options.target) - set(known)
    if unknown:
        parser.error(f"unknown target {min(unknown)}")
    found = 0
    for name in options.target or known:
        if options.input is not None:
            data = bytes.fromhex(options.input)
            error = _run(known[name], Edges(SOURCE), data)
            finding = None if error is None else Finding(name, data, error)
            print(f"{name}: {'no undocumented error' if error is None else repr(error)}")
        else:
            search = fuzz(known[name], executions=options.executions, seed=options.seed)
            finding = search.finding
            print(
                f"{name}: {search.executions} executions, {len(search.corpus)} inputs kept, "
                f"{len(search.edges)} edges"
            )
            if finding is not None:
                print(f"{finding.error!r}\n{reproduction(finding)}")
        found += finding is not None
    return int(found > 0)


if __name__ == "__main__":
    sys.exit(main())
