"""The part of the command line that serves: ``tacit site`` and ``tacit helper``."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

__all__ = ["add_parties"]

Command = Callable[..., argparse.ArgumentParser]


def add_parties(commands: Any, command: Command) -> None:
    """Adds ``tacit site`` and ``tacit helper``.

    Args:
        commands: The sub-parsers of the command line.
        command: Adds one command: sub-parsers, name, function, help.
    """
    site = command(commands, "site", _site, "serve a site of a federation, until stopped")
    site.add_argument("folder", type=Path, metavar="DIR", help="the site's folder")
    helper = command(commands, "helper", _helper, "serve a party that is only a helper")
    helper.add_argument("folder", type=Path, metavar="DIR", help="the helper's folder")
    for parser in (site, helper):
        parser.add_argument(
            "--federation",
            type=Path,
            metavar="FILE",
            help="federation.toml (default: what service.toml says, or the nearest one)",
        )
        parser.add_argument(
            "--network", type=Path, metavar="FILE", help="network.toml, in the same way"
        )


def _site(options: argparse.Namespace) -> int:
    from tacit.service.site import serve  # noqa: PLC0415

    return serve(options.folder, **_given(options))


def _helper(options: argparse.Namespace) -> int:
    from tacit.service.helper import serve  # noqa: PLC0415

    return serve(options.folder, **_given(options))


def _given(options: argparse.Namespace) -> dict[str, Any]:
    return {
        "federation": options.federation,
        "network": options.network,
        "as_json": options.json,
    }
