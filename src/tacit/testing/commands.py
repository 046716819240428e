"""The command line in this process, for tests: what it printed, and how it ended."""

from __future__ import annotations

import json
from typing import Any

from tacit.cli import main

__all__ = ["as_json", "edit", "tacit"]


def tacit(capsys: Any, *arguments: object) -> tuple[object, str, str]:
    """Exit code, standard output and standard error of one command; a traceback is a failure.

    Args:
        capsys: pytest's fixture.
        arguments: Words of the command line after ``tacit``.
    """
    capsys.readouterr()
    code: object
    try:
        code = main([str(argument) for argument in arguments])
    except SystemExit as exit_:
        code = exit_.code
    captured = capsys.readouterr()
    assert "Traceback" not in captured.err
    return code, captured.out, captured.err


def as_json(capsys: Any, *arguments: object) -> tuple[object, dict[str, Any]]:
    """Exit code and the one JSON object on standard output."""
    code, out, _ = tacit(capsys, *arguments, "--json")
    record = json.loads(out)
    assert isinstance(record, dict)
    return code, record


def edit(path: Any, old: str, new: str) -> None:
    """Replaces a text in a file, which must be there."""
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))
