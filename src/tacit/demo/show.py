"""``tacit demo``: from nothing to a verified, private run, with everything shown on the way."""

from __future__ import annotations

import json
from pathlib import Path

from tacit.demo.digits_demo import require_torch, run_digits
from tacit.demo.hospitals_demo import Setting, run_hospitals
from tacit.demo.layout import bundled
from tacit.demo.results import results_folder
from tacit.demo.screen import Screen

__all__ = ["run_demo"]

LOADERS = {"hospitals": "load_breast_cancer", "digits": "load_digits"}


def run_demo(data: str, out: Path | None, *, as_json: bool) -> int:
    """Runs a demonstration.

    Args:
        data: ``hospitals`` or ``digits``.
        out: Folder of the results, which must not exist; by default a new one below ``runs``.
        as_json: Print one JSON object instead of text and tables.

    Returns:
        Exit code: 0, or 1 when the evidence did not hold.

    Raises:
        ConfigError: The folder exists, or a package that the demonstration needs is missing.
        KeyboardInterrupt: Stopped by the person at the keyboard.
    """
    bundled(LOADERS[data])
    if data == "digits":
        require_torch()
    screen = Screen(quiet=as_json)
    folder = results_folder(out)
    if data == "digits":
        record, held = run_digits(folder, screen)
    else:
        record, held = run_hospitals(Setting(folder), screen)
    if as_json:
        print(json.dumps(record, indent=2, allow_nan=False))
    return 0 if held else 1
