"""The verifier in one file, loaded as a module and run as a command."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

from tacit.evidence import Trust, verify_bundle

FILE = Path(__file__).parents[2] / "verifier" / "verify.py"


def load() -> ModuleType:
    """The file as a module, without running its command."""
    spec = importlib.util.spec_from_file_location("standalone_verifier", FILE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


verifier = load()


def command(*arguments: str | Path, timeout: float = 60) -> subprocess.CompletedProcess[str]:
    """Runs the file as an auditor does: isolated, so that nothing beside it can be imported."""
    return subprocess.run(
        [sys.executable, "-I", str(FILE), *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )


def record(*arguments: str | Path) -> dict[str, Any]:
    """What the command prints for scripts."""
    found: dict[str, Any] = json.loads(command(*arguments, "--json").stdout)
    return found


def disagreements(data: bytes, trust: Trust | None) -> list[str]:
    """Claims of which the two verifiers say different things, but for what the file cannot decide.

    It has no exact accountant, so that it may leave ``epsilon`` open.
    """
    theirs = verify_bundle(data, trust)
    known = verifier.read_trust(trust.canonical()) if trust is not None else None
    ours = verifier.verify(data, known)
    told = (theirs.bundle, theirs.federation, theirs.run, theirs.status, theirs.simulated)
    found = [] if told == (ours.bundle, *_head(ours)) else [f"head: {told}, {_head(ours)}"]
    for library, own in zip(theirs.claims, ours.claims, strict=True):
        assert library.id == own.id
        left_open = own.id == "epsilon" and own.status == verifier.NOT_PROVEN
        if library.status.value != own.status and not left_open:
            found.append(
                f"{own.id}: {library.status.value} ({library.reason}), {own.status} ({own.reason})"
            )
    return found


def _head(report: Any) -> tuple[Any, ...]:
    return report.federation, report.run, report.status, report.simulated
