"""``tacit contract receipts | verify``: what a site's data went through in a run, shown and checked."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rich.text import Text

from tacit.config import load_toml
from tacit.engine.folder import STATE, not_a_site
from tacit.engine.operators import erase_run_receipts
from tacit.engine.store import SqliteStore
from tacit.errors import ConfigError
from tacit.evidence.receipts import ShownReceipts, check_receipts
from tacit.evidence.report import Claim, Status
from tacit.evidence.trust import Trust
from tacit.files import read_limited, write_atomic
from tacit.party.config import SiteConfig
from tacit.party.data import RECEIPTS
from tacit.show import console, plain, table
from tacit.types import PartyName

__all__ = ["erase", "receipts", "verify"]

FILE_LIMIT = 256 * 1024 * 1024
STYLES = {Status.PASS: "green", Status.FAIL: "bold red", Status.NOT_PROVEN: "yellow"}


def receipts(site: Path, run: str, out: Path | None, *, as_json: bool = False) -> None:
    """Prints the receipts of a run at a site, or of its last one; or writes them for an auditor.

    Args:
        site: The site's folder.
        run: The run id, or the first digits of it; empty for the last run.
        out: File to write, with the salt that opens the commitment in the evidence.
        as_json: Whether to print the file's content.

    Raises:
        ConfigError: Not a site folder, or no run or several begin with these digits.
    """
    if not (site / "site.toml").is_file():
        raise not_a_site(site)
    name = PartyName(load_toml(site / "site.toml", SiteConfig).name)
    shown, at = _stored(site, name, run)
    if out is not None:
        write_atomic(out, shown.canonical(), private=True, replace=False)
    if as_json:
        print(json.dumps(json.loads(shown.canonical()), indent=2))
        return
    _show(shown, at)
    if out is not None:
        print(f"wrote {out}; it tells exact counts: for whom you would tell them")
        print(f"check it: tacit contract verify {out} BUNDLE --trust TRUST")


def erase(site: Path, run: str, *, sure: bool = False, as_json: bool = False) -> None:
    """Destroys the salt and the receipts of a run: its evidence then tells nothing of the data.

    Args:
        site: The site's folder.
        run: The run id, or the first digits of it.
        sure: Whether the operator has said so.
        as_json: Whether to print one JSON object.

    Raises:
        ConfigError: Not a site folder, no run or several begin with these digits, or nobody said so.
        LocalProtocolError: The run is not closed at the site.
    """
    if not (site / "site.toml").is_file():
        raise not_a_site(site)
    if not sure:
        raise ConfigError(
            "receipts.erase",
            f"nothing was erased: destroying the receipts of run '{run}' cannot be undone",
            remedy="add --yes; nobody can then show what the site's data went through in the run",
        )
    erased = erase_run_receipts(site, run)
    if as_json:
        print(json.dumps({"site": str(site), "run": erased, "erased": True}, indent=2))
        return
    print(f"erased salt and receipts of run {erased[:12]} of {site}; its bundle verifies as before")
    print("copies of the state, for example in backups, must be deleted there")


def verify(file: Path, bundle: Path, trust: Path | None, *, as_json: bool = False) -> int:
    """Checks receipts against the evidence bundle of their run.

    Returns:
        The exit code: 1 if a check fails, 2 if one is not proven, otherwise 0.

    Raises:
        ConfigError: A file is missing.
        DecodeError: The file does not hold a site's receipts.
    """
    shown = ShownReceipts.from_canonical(read_limited(file, FILE_LIMIT))
    trusted = Trust.load(trust) if trust is not None else None
    claims = check_receipts(shown, bundle, trusted)
    statuses = {claim.status for claim in claims}
    code = 1 if Status.FAIL in statuses else 2 if Status.NOT_PROVEN in statuses else 0
    if as_json:
        record = {
            "site": shown.site,
            "run": shown.run,
            "exit_code": code,
            "claims": [
                {"claim": c.id, "status": c.status.value, "reason": c.reason} for c in claims
            ],
        }
        print(json.dumps(record, indent=2))
        return code
    _show(shown, None)
    _show_claims(claims, code)
    return code


def _stored(site: Path, name: PartyName, run: str) -> tuple[ShownReceipts, int]:
    store = SqliteStore(site / STATE)
    try:
        known = {found: json.loads(raw) for found, raw in store.items(RECEIPTS)}
        chosen = _chosen(site, known, run)
        space = f"{RECEIPTS}/{chosen}"
        signed = [store.get(space, str(number)) for number in range(known[chosen]["count"])]
    finally:
        store.close()
    records = tuple(json.loads(raw) for raw in signed if raw is not None)
    shown = ShownReceipts(name, chosen, bytes.fromhex(known[chosen]["salt"]), records)
    return shown, known[chosen]["at"]


def _chosen(site: Path, known: dict[str, dict[str, Any]], run: str) -> str:
    if not known:
        raise ConfigError(
            "receipts.none",
            f"{site} has read data for no run yet",
            remedy="a site issues receipts when it accepts a run",
            file=str(site),
        )
    if not run:
        return max(known, key=lambda item: (known[item]["at"], item))
    matching = [item for item in known if item.startswith(run)]
    if len(matching) != 1:
        raise ConfigError(
            "receipts.run",
            f"{len(matching)} runs at {site} begin with '{run}'",
            remedy=f"its runs are: {', '.join(sorted(item[:12] for item in known))}",
            file=str(site),
        )
    return matching[0]


def _show(shown: ShownReceipts, at: int | None) -> None:
    whole, out = shown.whole, console()
    columns = [tuple(column) for column in whole["columns"]]
    plain_features = [c for c in columns if (c[1], c[2]) == ("feature", "keep")]
    rows = [
        (str(name), str(class_), str(detail), str(cells) if cells else "not read")
        for name, class_, method, detail, cells, _synthetic in columns
        if (class_, method) != ("feature", "keep")
    ]
    if plain_features:
        cells = str(sum(column[4] for column in plain_features))
        rows.append((f"({len(plain_features)} columns)", "feature", "kept within bounds", cells))
    title = f"data set '{whole['name']}' of site '{shown.site}' in run {shown.run[:12]}"
    out.print(table(title, ("column", "class", "what became of it", "cells"), rows))
    counts = whole["rows"]
    out.print(
        plain(
            f"{counts['in']} rows in, {counts['out']} out, {counts['quarantined']} set aside, in "
            f"{len(shown.receipts) - 1} batch{'es' if len(shown.receipts) > 2 else ''}; residual scan: {_residual(shown)}"
        )
    )
    digests = ", ".join(f"{key} {whole[key][:12]}" for key in ("contract", "policy", "plan"))
    when = (
        "" if at is None else f"; read {datetime.fromtimestamp(at / 1000, UTC):%Y-%m-%d %H:%M} UTC"
    )
    out.print(plain(f"{digests}{when}", "dim"))


def _residual(shown: ShownReceipts) -> str:
    hits = [hit for item in shown.receipts for hit in item["receipt"]["residual"]]
    return ", ".join(f"{count} x {detector}" for detector, count in hits) or "nothing found"


def _show_claims(claims: Sequence[Claim], code: int) -> None:
    out = console()
    for claim in claims:
        status = Text(f"{claim.status.value:<11}", style=STYLES[claim.status])
        out.print(Text.assemble(f"{claim.id:<12}", status, claim.reason))
    verdicts = {
        0: ("verified: these are the receipts that the site committed to", "bold green"),
        1: ("REFUSED: a check failed", "bold red"),
        2: ("not proven", "bold yellow"),
    }
    text, style = verdicts[code]
    out.print(Text(text, style=style))
