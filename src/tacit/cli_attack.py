"""The part of the command line that attacks: ``tacit attack``."""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tacit.errors import TacitError

__all__ = ["add_attack"]

COLUMNS = ("plain", "clipping", "masking", "noise", "tacit")
ROWS = (
    *("reconstruction", "inversion", "membership", "property", "malicious-server", "poisoning"),
    *("metadata", "formal-epsilon"),
)
INSIDE = ("kind", "format", "job", "site", "status", "headline", "whole", "gates", "folder")
"""What ``--json`` says of attacks inside a site: the rest lies in the site's folder."""
Command = Callable[..., argparse.ArgumentParser]


def add_attack(commands: Any, command: Command) -> None:
    """Adds ``tacit attack``.

    Args:
        commands: The sub-parsers of the command line.
        command: Adds one command: sub-parsers, name, function, help.
    """
    text = "run what an adversary would run against a job, and say what it achieves"
    attack = command(commands, "attack", _attack, text)
    attack.add_argument(
        "job", type=Path, nargs="?", default=Path("job.toml"), help="job file (default: job.toml)"
    )
    attack.add_argument(
        "--profile",
        choices=("demo", "quick", "full"),
        default="quick",
        help="how much to do: seconds, minutes or an hour (default: quick)",
    )
    attack.add_argument(
        "--data",
        type=Path,
        metavar="CONTRACT",
        help="contract of public records (default: attack/contract.toml beside the job, or the job's "
        "evaluation data)",
    )
    attack.add_argument(
        "--site",
        type=Path,
        metavar="FOLDER",
        help="attack the site's own records, inside it, if its policy permits; results stay in its folder",
    )
    attack.add_argument(
        "--seed", type=int, default=0, help="seed of the attacker's choices (default: 0)"
    )
    attack.add_argument(
        "--out", type=Path, metavar="DIR", help="folder for the result (default: attacks/ID)"
    )
    attack.add_argument(
        "--only",
        nargs="+",
        choices=ROWS,
        default=[],
        metavar="ROW",
        help=f"rows: {', '.join(ROWS)}",
    )
    attack.add_argument(
        "--column",
        nargs="+",
        choices=COLUMNS,
        default=[],
        metavar="COLUMN",
        help=f"columns: {', '.join(COLUMNS)}",
    )
    attack.add_argument(
        "--jobs", type=_count, metavar="N", help="worker processes (default: one a core, at most 4)"
    )
    attack.add_argument(
        "--fail-if",
        type=_gate,
        action="append",
        default=[],
        metavar="EXPR",
        help="fail if this holds, for example 'membership.advantage.upper > 0.10'; may be repeated",
    )


def _count(text: str) -> int:
    count = int(text)
    if count < 1:
        raise ValueError(text)
    return count


_count.__name__ = "number above 0"


def _gate(text: str) -> Any:
    from tacit.attack.gate import Gate  # noqa: PLC0415

    try:
        return Gate.parse(text)
    except TacitError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def _attack(options: argparse.Namespace) -> int:
    from tacit.attacks import Request, attack_job, attack_site, show_report  # noqa: PLC0415

    request = Request(
        job=options.job,
        profile=options.profile,
        data=options.data,
        seed=options.seed,
        out=options.out,
        only=options.only,
        columns=options.column,
        jobs=options.jobs,
        gates=options.fail_if,
    )
    if options.site is None:
        report, folder = attack_job(request, quiet=options.json)
    else:
        # What attacks or the model's code print is not for this output, nor are figures of single records.
        with contextlib.redirect_stdout(sys.stderr):
            report, folder = attack_site(options.site, request, quiet=options.json)
    if options.json:
        record = {**report.record(), "folder": str(folder)}
        shown = record if options.site is None else {key: record[key] for key in INSIDE}
        print(json.dumps(shown, indent=2, allow_nan=False))
    else:
        show_report(report, folder)
    return report.exit_code
