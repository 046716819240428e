"""``tacit contract``: what a contract covers, a first draft of one, its export, token keys, rows set aside."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rich.text import Text

from tacit.config import parse_table
from tacit.connect import Inspection, KeyFolder, inspect
from tacit.connect.infer import infer
from tacit.connect.sources import read_secret
from tacit.engine.folder import DATA_KEYS, not_a_site
from tacit.engine.operators import log_key_erased
from tacit.errors import ConfigError
from tacit.files import write_atomic
from tacit.policy.contract import Contract
from tacit.policy.coverage import Coverage, Holding, Line, Verdict, coverage, warnings
from tacit.policy.odcs import to_odcs, to_odcs_yaml
from tacit.policy.server import Server
from tacit.show import console, plain, table
from tacit.types import Milliseconds

__all__ = ["check", "draft", "erase", "export", "keys", "quarantine", "server_of"]

SUFFIXES = {
    ".csv": "csv",
    ".csv.gz": "csv",
    ".parquet": "parquet",
    ".pq": "parquet",
    ".arrow": "arrow",
    ".feather": "arrow",
    ".ipc": "arrow",
}
OBJECT_SCHEMES = {"s3://": "s3", "gs://": "gcs", "abfs://": "azure"}
DATABASE_FILES = {"sqlite:": "sqlite", "duckdb:": "duckdb"}
POSTGRES = re.compile(
    r"^(?:postgres|postgresql)://(?P<host>[^/@:]+)(?::(?P<port>\d+))?/(?P<database>[^/?#]+)$"
)
STYLES: dict[Verdict, str] = {
    "absent": "dim",
    "removed": "green",
    "safe harbor": "green",
    "pseudonym": "yellow",
    "in use": "yellow",
    "exposed": "bold red",
    "suspected": "bold red",
}
TITLES = {
    "HIPAA": "HIPAA identifiers, 45 CFR 164.514(b)(2)(i)",
    "GDPR": "GDPR special categories, Art. 9(1) and 10",
}
LISTED = 20
"""Rows set aside that are shown one by one; --json has all."""


# --- check ------------------------------------------------------------------------------------------


def check(places: Sequence[Path], *, everything: bool = False, as_json: bool = False) -> bool:
    """Prints what contracts cover: HIPAA identifiers, GDPR special categories, and what to think about.

    Args:
        places: Contract files, and folders with ``contracts/*.toml``.
        everything: Whether to print the lines that no column is about, too.
        as_json: Whether to print one JSON object.

    Returns:
        Whether no identifier is exposed or suspected in a contract that is not public.

    Raises:
        ConfigError: A contract is missing or wrong; names file, key and remedy.
    """
    today = datetime.now(UTC).date()
    found = []
    for file in _files(places):
        contract = Contract.load(file)
        found.append((file, coverage(contract), warnings(contract, today)))
    passed = all(covered.passed for _, covered, _ in found)
    if as_json:
        _print_json(
            {
                "passed": passed,
                "contracts": [
                    {"file": str(file), **covered.record(), "warnings": list(advice)}
                    for file, covered, advice in found
                ],
            }
        )
        return passed
    for number, (file, covered, advice) in enumerate(found):
        if number:
            print()
        _show_coverage(file, covered, advice, everything=everything)
    return passed


def _files(places: Sequence[Path]) -> Iterator[Path]:
    for place in places:
        if not place.is_dir():
            yield place
            continue
        files = sorted((place / "contracts").glob("*.toml"))
        if not files:
            raise ConfigError(
                "contract.none",
                f"there is no contract in {place / 'contracts'}",
                remedy="name a contract file or the folder of a site; 'tacit contract infer' drafts one",
                file=str(place),
            )
        yield from files


def _show_coverage(
    file: Path, covered: Coverage, advice: tuple[str, ...], *, everything: bool
) -> None:
    out = console()
    lines = [line for line in covered.lines if everything or line.columns]
    out.print(plain(f"{file}: contract '{covered.contract}'", "bold"))
    for law, title in TITLES.items():
        rows = [_row(line) for line in lines if line.law == law]
        if rows:
            out.print(table(title, ("what", "verdict", "columns"), rows))
    holdings = [item for line in lines for item in line.columns]
    if not all(item.declared for item in holdings):
        out.print(plain("?: not declared; by its name, type or class", "dim"))
    explained = [] if covered.public else [item for item in holdings if item.note]
    for note in dict.fromkeys(item.note for item in explained):
        names = dict.fromkeys(item.column for item in explained if item.note == note)
        out.print(plain(f"- {', '.join(names)}: {note}"))
    for text in advice:
        out.print(Text.assemble(("warning: ", "yellow"), plain(text)))
    out.print(_summary(covered))


def _row(line: Line) -> tuple[str | Text, ...]:
    letter = line.reference[-2] if line.law == "HIPAA" else ""
    cells = [_cell(item, line.verdict) for item in line.columns]
    return (
        f"{letter} {line.title}".strip(),
        Text(line.verdict, style=STYLES[line.verdict]),
        Text("\n").join(cells) if cells else "-",
    )


def _cell(item: Holding, worst: Verdict) -> Text:
    mark = "" if item.declared else "?"
    text = plain(f"{item.column}{mark}: {item.treatment}")
    if item.verdict != worst:
        text.append(f" ({item.verdict})", style=STYLES[item.verdict])
    return text


def _summary(covered: Coverage) -> Text:
    absent = [
        sum(not x.columns for x in covered.lines if x.law == law) for law in ("HIPAA", "GDPR")
    ]
    rest = (
        f"{absent[0]} of 18 HIPAA identifiers and {absent[1]} of 9 GDPR categories are in no column"
    )
    if covered.public:
        return Text(f"public: anyone may see every record; {rest}", style="bold green")
    if covered.passed:
        return Text(f"no identifier is exposed or suspected; {rest}", style="bold green")
    names = dict.fromkeys(
        item.column
        for line in covered.faults
        for item in line.columns
        if item.verdict in ("exposed", "suspected")
    )
    return Text.assemble(("exposed or suspected: ", "bold red"), plain(", ".join(names)))


# --- infer ------------------------------------------------------------------------------------------


def draft(
    server: Server, site: Path, name: str, out: Path | None, *, as_json: bool = False
) -> None:
    """Writes a first draft of a contract, made from a sample, in which every column is dropped.

    Args:
        server: Where the records lie; paths are relative to ``site``.
        site: The site's folder; ``keys`` in it holds the login.
        name: Name of the contract.
        out: File to write, which must not exist; standard output if None.
        as_json: Whether to print one JSON object.

    Raises:
        ConfigError: The source cannot be read, or ``out`` exists.
        TransportError: The source cannot be reached, or ``out`` cannot be written.
    """
    secrets = read_secret(site, server.secret) if server.secret is not None else None
    text = infer(server, site, secrets, name=name)
    if out is not None:
        write_atomic(out, text.encode(), replace=False)
    if as_json:
        _print_json({"name": name, "file": None if out is None else str(out), "contract": text})
    elif out is None:
        print(text, end="")
    else:
        print(f"wrote {out}: a draft in which every column is dropped")
        print("next: follow the comments in it: choose the label and the features")
        print(f'then: tacit contract check {out}, and set status = "active"')


def server_of(
    source: str, site: Path, *, form: str | None = None, **more: str | None
) -> tuple[Server, str]:
    """The server that a source on the command line means, and a name for its contract.

    Args:
        source: File or pattern, URL of objects, ``sqlite:FILE``, ``duckdb:FILE`` or
            ``postgres://HOST:PORT/DATABASE``.
        site: Folder to which paths become relative.
        form: ``csv``, ``parquet`` or ``arrow``; by default the file's name tells.
        more: ``table``, ``schema`` and ``secret`` of the server.

    Raises:
        ConfigError: It is no such source; names what is missing, and never quotes the source, in which
            somebody may have written a login.
    """
    content: dict[str, Any] = {key: value for key, value in more.items() if value is not None}
    scheme = next((key for key in (*OBJECT_SCHEMES, *DATABASE_FILES) if source.startswith(key)), "")
    if "://" in source and not scheme:
        content |= _postgres(source)
    elif scheme in DATABASE_FILES:
        path = source.removeprefix(scheme)
        content |= {"type": DATABASE_FILES[scheme], "path": _relative(path, site)}
    elif scheme:
        content |= {
            "type": OBJECT_SCHEMES[scheme],
            "location": source,
            "format": _form(source, form),
        }
    else:
        content |= {"type": "local", "path": _relative(source, site), "format": _form(source, form)}
    if content["type"] in ("postgres", "sqlite", "duckdb") and "table" not in content:
        raise ConfigError(
            "infer.table", "which table of the database is meant?", remedy="add --table TABLE"
        )
    if content["type"] == "postgres" and "secret" not in content:
        raise ConfigError(
            "infer.secret",
            "which login to the database is meant?",
            remedy="write keys/NAME.toml (mode 0600) with 'user' and 'password', and add --secret NAME",
        )
    server = parse_table(content, Server, "SOURCE")
    return server, _name(content.get("table") or re.split(r"[/:]", source)[-1])


def _postgres(source: str) -> dict[str, Any]:
    match = POSTGRES.match(source)
    if match is None:
        raise ConfigError(
            "infer.source",
            "SOURCE is no file, and no URL of a kind that is known",
            remedy="use s3://, gs://, abfs:// or postgres://HOST:PORT/DATABASE; a login goes into --secret",
        )
    port = {"port": int(match["port"])} if match["port"] else {}
    return {"type": "postgres", "host": match["host"], "database": match["database"], **port}


def _relative(path: str, site: Path) -> str:
    return os.path.relpath(path, site)


def _form(source: str, form: str | None) -> str:
    if form is not None:
        return form
    for suffix, known in SUFFIXES.items():
        if source.lower().endswith(suffix):
            return known
    raise ConfigError(
        "infer.format",
        "the name of SOURCE does not tell how it is written",
        remedy="add --format csv, parquet or arrow",
    )


def _name(text: str) -> str:
    stem = re.split(r"[.*?\[]", text)[0]
    return re.sub(r"[^a-z0-9]+", "-", stem.lower()).strip("-")[:64] or "data"


# --- export, keys, rows set aside ---------------------------------------------------------------------


def export(file: Path, out: Path | None, *, as_json: bool = False) -> None:
    """Writes a contract as a document of the Open Data Contract Standard v3.1: YAML, or JSON.

    Raises:
        ConfigError: The contract is wrong, ``out`` exists, or PyYAML is not installed.
    """
    contract = Contract.load(file)
    text = json.dumps(to_odcs(contract), indent=2) + "\n" if as_json else to_odcs_yaml(contract)
    if out is None:
        print(text, end="")
        return
    write_atomic(out, text.encode(), replace=False)
    if not as_json:
        print(f"wrote {out}")


def keys(site: Path, *, as_json: bool = False) -> None:
    """Prints the names of the keys of a site's tokens; a key itself is never shown.

    Raises:
        ConfigError: Not a site folder.
    """
    names = _key_folder(site).names()
    if as_json:
        _print_json({"site": str(site), "keys": list(names)})
        return
    if not names:
        print(f"{site} has no token keys: they are made when data are first read")
        return
    rows = [(purpose, period) for purpose, period in map(_key_parts, names)]
    console().print(table(f"Token keys of {site}", ("key of purpose", "period"), rows))


def erase(
    site: Path, purpose: str, period: str, *, sure: bool = False, as_json: bool = False
) -> None:
    """Destroys one token key: what its tokens, encrypted cells and moved dates tell is then gone.

    Args:
        site: The site's folder.
        purpose: Purpose of the key.
        period: Its period: ``always``, or for example ``2026``, ``2026-Q4``, ``2026-11``.
        sure: Whether the operator has said so.
        as_json: Whether to print one JSON object.

    Raises:
        ConfigError: Not a site folder, no such key, or nobody said so.
    """
    folder = _key_folder(site)
    if not sure:
        raise ConfigError(
            "contract.erase",
            f"nothing was erased: destroying the key of purpose '{purpose}' and period '{period}' "
            "cannot be undone",
            remedy="add --yes; data sets that need this key can then not be read for it any more",
        )
    if folder.holds(purpose, period):
        log_key_erased(site, purpose, period)
    folder.destroy(purpose, period)
    if as_json:
        _print_json({"site": str(site), "purpose": purpose, "period": period, "erased": True})
        return
    print(f"erased the key of purpose '{purpose}' and period '{period}' of {site}")
    print("its tokens can neither be made again nor be traced back, in any copy of the results;")
    print("copies of the key file itself, for example in backups, must be deleted there")


def _key_folder(site: Path) -> KeyFolder:
    if not (site / "site.toml").is_file():
        raise not_a_site(site)
    return KeyFolder(site / DATA_KEYS)


def _key_parts(name: str) -> tuple[str, str]:
    """``research-1a2b3c4d@2026.key`` -> research, 2026."""
    purpose, _, period = name.removesuffix(".key").rpartition("@")
    return purpose.rpartition("-")[0], period


def quarantine(site: Path, contract: str, *, as_json: bool = False) -> None:
    """Prints which rows of a data set would be set aside, and why; never what they hold.

    Args:
        site: The site's folder.
        contract: Name of the data set, or its contract file.
        as_json: Whether to print one JSON object.

    Raises:
        ConfigError: No such contract, or the data are not what it says.
    """
    file = Path(contract) if contract.endswith(".toml") else _contract_file(site, contract)
    loaded = Contract.load(file)
    now = Milliseconds(int(datetime.now(UTC).timestamp() * 1000))
    _show_inspection(loaded, inspect(loaded, site, now), as_json)


def _contract_file(site: Path, name: str) -> Path:
    files = sorted((site / "contracts").glob("*.toml"))
    for file in files:
        if Contract.load(file).name == name:
            return file
    raise ConfigError(
        "contract.none",
        f"{site} has no contract '{name}'",
        remedy=f"its contract files are: {', '.join(file.name for file in files) or 'none'}",
        file=str(site),
    )


def _show_inspection(contract: Contract, found: Inspection, as_json: bool) -> None:
    rows = found.rows
    if as_json:
        _print_json(
            {
                "contract": contract.name,
                "rows": {"in": rows.in_, "out": rows.out, "quarantined": rows.quarantined},
                "quarantined": [
                    {"place": q.place, "row": q.row, "column": q.column, "problem": q.problem}
                    for q in found.quarantined
                ],
            }
        )
        return
    out = console()
    listed = found.quarantined[:LISTED]
    places = {item.place for item in listed}
    if listed:
        lines = [(q.place, str(q.row), q.column, f"the cell {q.problem}") for q in listed]
        columns, first = ("where", "row", "column", "why"), 1 if len(places) == 1 else 0
        title = "Rows set aside" + (f" of {lines[0][0]}" if first else "")
        out.print(table(title, columns[first:], [line[first:] for line in lines]))
        if len(found.quarantined) > LISTED:
            print(f"... and {rows.quarantined - LISTED} more: --json lists them")
    print(
        f"{rows.out} of {rows.in_} rows of '{contract.name}' would be used, {rows.quarantined} set aside"
    )


def _print_json(record: dict[str, Any]) -> None:
    print(json.dumps(record, indent=2))
