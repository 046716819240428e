"""A party as a process with seeded entropy: ``python -m tacit.testing.party --seed S ROLE DIR``.

It serves as ``tacit coordinator``, ``tacit site`` and ``tacit helper`` do, and takes their options; no
shipped command takes a seed, or a clock that is wrong. A restarted party needs another seed, or it would draw the same again.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from tacit.engine.clock import wall_clock
from tacit.errors import TacitError
from tacit.testing.federation import seeded_world
from tacit.types import Milliseconds

__all__ = ["main"]

ROLES = ("coordinator", "site", "helper")
FAILED = 1


def main(arguments: Sequence[str] | None = None) -> int:
    """Serves one party; returns the exit code."""
    parser = argparse.ArgumentParser(prog="tacit.testing.party")
    parser.add_argument("--seed", required=True)
    parser.add_argument("--skew", type=int, default=0, help="milliseconds that its clock is ahead")
    parser.add_argument("role", choices=ROLES)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--federation", type=Path)
    parser.add_argument("--network", type=Path)
    options = parser.parse_args(arguments)
    world = dataclasses.replace(
        seeded_world(options.seed), clock=lambda: Milliseconds(wall_clock() + options.skew)
    )
    serve: Any = import_module(f"tacit.service.{options.role}").serve
    try:
        code: int = serve(
            options.folder,
            world,
            federation=options.federation,
            network=options.network,
        )
    except TacitError as error:
        print(f"{error.code}: {error}", file=sys.stderr)
        return FAILED
    return code


if __name__ == "__main__":
    sys.exit(main())
