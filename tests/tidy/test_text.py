"""What no text of the project may hold: unfinished marks and paths of somebody's machine."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SKIPPED = {".git", ".venv", ".venvs", "__pycache__", "build", "dist", "runs"}
SUFFIXES = {"", ".cedar", ".cfg", ".json", ".md", ".py", ".sh", ".toml", ".txt", ".yaml", ".yml"}
UNFINISHED = re.compile(rf"\b({'TO' + 'DO'}|{'FIX' + 'ME'}|{'X' * 3})\b")
MACHINE_PATH = re.compile(r"(?<![\w.}/:])/(?:work|home|root|Users|mnt)/\w|\b[A-Z]:\\Users")


def texts(root: Path) -> Iterator[Path]:
    for path in sorted(root.iterdir()):
        hidden_cache = path.name.startswith(".") and path.name.endswith("_cache")
        if path.name in SKIPPED or hidden_cache or path.name == ".hypothesis":
            continue
        if path.is_dir():
            yield from texts(path)
        elif path.suffix in SUFFIXES:
            yield path


def marks(text: str, pattern: re.Pattern[str]) -> list[int]:
    """The lines that hold ``pattern``, from 1."""
    return [number for number, line in enumerate(text.splitlines(), 1) if pattern.search(line)]


@pytest.mark.parametrize("pattern", [UNFINISHED, MACHINE_PATH], ids=["unfinished", "machine-path"])
def test_no_text_holds(pattern: re.Pattern[str]) -> None:
    found = [
        f"{path.relative_to(ROOT)}:{line}"
        for path in texts(ROOT)
        if path != Path(__file__)
        for line in marks(path.read_text("utf-8"), pattern)
    ]
    assert not found, "\n".join(found)


def test_every_kind_of_text_is_read() -> None:
    read = {path.relative_to(ROOT).as_posix() for path in texts(ROOT)}
    assert {"Makefile", "README.md", ".ci/run", "src/tacit/errors.py", "pyproject.toml"} <= read
    assert not any(path.startswith(".venv/") for path in read)


@pytest.mark.parametrize("line", ["# " + "TO" + "DO later", "x = 1  # " + "FIX" + "ME"])
def test_a_planted_mark_is_found(line: str) -> None:
    assert marks(f"x = 1\n{line}\n", UNFINISHED) == [2]


@pytest.mark.parametrize(
    "line", ['open("/home/ada/data.csv")', "see /work/main/x", r"C:\Users", "`/Users/ada`"]
)
def test_a_planted_machine_path_is_found(line: str) -> None:
    assert marks(line, MACHINE_PATH) == [1]


@pytest.mark.parametrize("line", ["tree/root/leaf", "https://example.org/home/x", "../work/x"])
def test_other_paths_are_left_alone(line: str) -> None:
    assert marks(line, MACHINE_PATH) == []
