"""The part of the command line that is about data: ``tacit contract`` and its inner commands."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from tacit.errors import ConfigError

__all__ = ["add_contract"]

FAILED = 1
Command = Callable[..., argparse.ArgumentParser]


def add_contract(commands: Any, command: Command) -> None:
    """Adds ``tacit contract`` and its inner commands.

    Args:
        commands: The sub-parsers of the command line.
        command: Adds one command: sub-parsers, name, function, help, and whether it is an inner one.
    """
    text = "what data contracts cover, a first draft of one, token keys"
    contract = command(commands, "contract", _check, text)
    contract.set_defaults(places=[], all=False)
    inner = contract.add_subparsers(title="commands (default: check)", metavar="[COMMAND]")

    text = "show which HIPAA identifiers and GDPR categories contracts hold, and their fate"
    check = command(inner, "check", _check, text, inner=True)
    check.add_argument(
        "places",
        type=Path,
        nargs="*",
        metavar="CONTRACT | SITE",
        help="contract files or site folders (default: sites/*)",
    )
    check.add_argument("--all", action="store_true", help="also show what no column is about")

    text = "draft a contract from a sample of the data, with every column dropped"
    infer = command(inner, "infer", _infer, text, inner=True)
    infer.add_argument(
        "source",
        help="file, pattern such as 'data/*.parquet', s3://, gs:// or abfs:// URL, sqlite:FILE, "
        "duckdb:FILE, or postgres://HOST:PORT/DATABASE",
    )
    infer.add_argument(
        "--format", choices=("csv", "parquet", "arrow"), help="of files (default: by their name)"
    )
    infer.add_argument("--table", help="table or view of a database")
    infer.add_argument("--schema", help="schema of the table (PostgreSQL)")
    infer.add_argument("--secret", metavar="NAME", help="login, in SITE/keys/NAME.toml")
    infer.add_argument(
        "--site",
        type=Path,
        default=Path(),
        help="folder of the site, which paths in the contract are relative to (default: here)",
    )
    infer.add_argument("--name", help="name of the contract (default: by the source)")
    infer.add_argument("--out", type=Path, metavar="FILE", help="file to write (default: print it)")

    text = "write a contract as a document of the Open Data Contract Standard v3.1"
    export = command(inner, "export", _export, text, inner=True)
    export.add_argument("contract", type=Path, help="contract file")
    export.add_argument(
        "--odcs", action="store_true", required=True, help="the standard; the only one so far"
    )
    export.add_argument(
        "--out", type=Path, metavar="FILE", help="file to write (default: print it)"
    )
    _add_keys(inner, command)
    _add_receipts(inner, command)


def _add_keys(inner: Any, command: Command) -> None:
    keys = command(inner, "keys", _keys, "list a site's token keys by name", inner=True)
    keys.add_argument("site", type=Path, help="site folder")

    text = "destroy a token key: what its tokens tell is then gone"
    erase = command(inner, "erase", _erase, text, inner=True)
    erase.add_argument("site", type=Path, help="site folder")
    erase.add_argument("--purpose", required=True, help="purpose of the key")
    erase.add_argument(
        "--period", default="always", help="its period, for example 2026-Q4 (default: always)"
    )
    erase.add_argument("--yes", action="store_true", help="do it: this cannot be undone")

    text = "list the rows that a contract sets aside, without their values"
    quarantine = command(inner, "quarantine", _quarantine, text, inner=True)
    quarantine.add_argument("site", type=Path, help="site folder")
    quarantine.add_argument("contract", help="name of the data set, or its contract file")


def _add_receipts(inner: Any, command: Command) -> None:
    text = "show what a site's data went through in a run, or write it for an auditor"
    shown = command(inner, "receipts", _receipts, text, inner=True)
    shown.add_argument("site", type=Path, help="site folder")
    shown.add_argument(
        "run", nargs="?", default="", help="run id, or its first digits (default: last)"
    )
    shown.add_argument("--out", type=Path, metavar="FILE", help="file to write")
    shown.add_argument(
        "--erase", action="store_true", help="destroy them, and the salt of their commitment"
    )
    shown.add_argument("--yes", action="store_true", help="do it: this cannot be undone")

    text = "check receipts that a site handed over against the evidence of their run"
    verify = command(inner, "verify", _verify, text, inner=True)
    verify.add_argument("file", type=Path, help="what 'tacit contract receipts --out' wrote")
    verify.add_argument("bundle", type=Path, help="the bundle.zip of the run")
    verify.add_argument(
        "--trust",
        type=Path,
        help="trust.json: whose keys count; never from whoever sent the bundle",
    )


def _check(options: argparse.Namespace) -> int:
    from tacit.contracts import check  # noqa: PLC0415

    places = options.places or _all_sites()
    return 0 if check(places, everything=options.all, as_json=options.json) else FAILED


def _infer(options: argparse.Namespace) -> int:
    from tacit.contracts import draft, server_of  # noqa: PLC0415

    more = {"table": options.table, "schema": options.schema, "secret": options.secret}
    server, name = server_of(options.source, options.site, form=options.format, **more)
    draft(server, options.site, options.name or name, options.out, as_json=options.json)
    return 0


def _export(options: argparse.Namespace) -> int:
    from tacit.contracts import export  # noqa: PLC0415

    export(options.contract, options.out, as_json=options.json)
    return 0


def _keys(options: argparse.Namespace) -> int:
    from tacit.contracts import keys  # noqa: PLC0415

    keys(options.site, as_json=options.json)
    return 0


def _erase(options: argparse.Namespace) -> int:
    from tacit.contracts import erase  # noqa: PLC0415

    how = {"sure": options.yes, "as_json": options.json}
    erase(options.site, options.purpose, options.period, **how)
    return 0


def _quarantine(options: argparse.Namespace) -> int:
    from tacit.contracts import quarantine  # noqa: PLC0415

    quarantine(options.site, options.contract, as_json=options.json)
    return 0


def _receipts(options: argparse.Namespace) -> int:
    from tacit.receipts import erase, receipts  # noqa: PLC0415

    if options.erase:
        erase(options.site, options.run, sure=options.yes, as_json=options.json)
        return 0
    receipts(options.site, options.run, options.out, as_json=options.json)
    return 0


def _verify(options: argparse.Namespace) -> int:
    from tacit.receipts import verify  # noqa: PLC0415

    return verify(options.file, options.bundle, options.trust, as_json=options.json)


def _all_sites() -> Sequence[Path]:
    from tacit.api import default_sites  # noqa: PLC0415

    paths = default_sites(Path())
    if not paths:
        raise ConfigError(
            "contract.none",
            "no site folder was found in sites/",
            remedy="name a contract file or the folder of a site",
        )
    return paths
