"""Environments for other systems, each made on first use and kept under ``benchmarks/.venvs``."""

from __future__ import annotations

import subprocess
import sys
import venv
from pathlib import Path

from support.machine import say

FOLDER = Path(__file__).parents[1] / ".venvs"


def environment(release: str, *beside: str) -> Path:
    """The interpreter of an environment that holds a release of a peer.

    Args:
        release: The requirement that is measured, such as ``"flwr==1.41.0"``; names the folder.
        beside: Requirements that are installed with it.
    """
    folder = FOLDER / release
    python, ready = folder / "bin" / "python", folder / "ready"
    if not ready.exists():
        say(f"installing {release} into {folder}")
        venv.create(folder, clear=True, with_pip=True)
        install = [str(python), "-m", "pip", "install", "--quiet", *beside, release]
        subprocess.run(install, check=True, stdout=sys.stderr)
        ready.touch()
    return python
