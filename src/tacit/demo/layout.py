"""A demonstration federation on disk: the files that operators and a researcher would write by hand."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from importlib import import_module, resources
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa  # type: ignore[import-untyped]
from numpy.typing import NDArray
from pyarrow import parquet

from tacit.engine.folder import SiteFolder
from tacit.engine.local import wall_clock
from tacit.errors import ConfigError
from tacit.files import write_atomic
from tacit.policy.lock import LOCK_FILE, PolicyLock
from tacit.trust.identity import Identity, OsEntropy
from tacit.trust.roster import Member, Roster, write_roster
from tacit.types import Entropy, PartyName

__all__ = [
    "Place",
    "Records",
    "Variant",
    "bundled",
    "column",
    "contract",
    "lock_site",
    "template",
    "toml",
    "write_keys",
    "write_site",
    "write_table",
]

Variant = Literal["shared", "own", "plain"]
"""Which run a federation is set up for: DP with shared noise, DP with full noise per site, none."""

LEADER = PartyName("coordinator")
APPROVER = "operator"


@dataclass(frozen=True, slots=True, eq=False)
class Records:
    """Some records of a public data set.

    Args:
        rows: ``int64[n]``, index of each record in the whole data set.
        features: ``float64[n, k]``, as published.
        labels: ``int64[n]``, class indices.
    """

    rows: NDArray[np.int64]
    features: NDArray[np.float64]
    labels: NDArray[np.int64]

    def take(self, index: NDArray[np.int64]) -> Records:
        """The records at ``index``, in that order."""
        return Records(self.rows[index], self.features[index], self.labels[index])

    def __len__(self) -> int:
        return len(self.rows)


@dataclass(frozen=True, slots=True)
class Place:
    """A site: who operates it, where it is and how its data file is written."""

    name: str
    operator: str
    region: str
    format: Literal["csv", "parquet"]


def bundled(loader: str) -> Any:
    """A data set that scikit-learn carries with it.

    Args:
        loader: Name of a function of ``sklearn.datasets``.

    Raises:
        ConfigError: scikit-learn is not installed.
    """
    try:
        datasets = import_module("sklearn.datasets")
    except ImportError as error:
        raise ConfigError(
            "demo.scikit-learn",
            "the demonstration data are part of scikit-learn, which is not installed",
            remedy="run: pip install 'tacit[demo]'",
        ) from error
    return getattr(datasets, loader)()


def template(name: str) -> str:
    """The text of a file below ``tacit/demo/templates``."""
    return resources.files("tacit.demo").joinpath("templates", name).read_text("utf-8")


def toml(value: Any) -> str:
    """One TOML value on one line."""
    if isinstance(value, Mapping):
        return "{ " + ", ".join(f"{key} = {toml(item)}" for key, item in value.items()) + " }"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(toml(item) for item in value) + "]"
    if isinstance(value, bool | str):
        return json.dumps(value, ensure_ascii=False)
    return value.isoformat() if isinstance(value, date) else repr(value)


def column(
    name: str,
    logical_type: str,
    classification: str,
    transform: str | Mapping[str, Any],
    **more: Any,
) -> str:
    """One ``[[properties]]`` table of a contract.

    Args:
        name: The column.
        logical_type: Its type.
        classification: Its class.
        transform: The method, or the whole table with its parameters.
        more: Further keys; ``minimum`` and ``maximum`` go where the standard has them.
    """
    options = {key: more.pop(key) for key in ("minimum", "maximum") if key in more}
    keys = {
        "name": name,
        "logicalType": logical_type,
        "classification": classification,
        "transform": {"method": transform} if isinstance(transform, str) else transform,
        **({"logicalTypeOptions": options} if options else {}),
        **more,
    }
    return "\n".join(["[[properties]]", *(f"{key} = {toml(value)}" for key, value in keys.items())])


def contract(
    head: Mapping[str, Any], source: tuple[str, str], columns: Sequence[str], comment: str
) -> str:
    """A contract file.

    Args:
        head: Top-level keys after ``apiVersion``.
        source: Path of the data file below its base folder, and its format.
        columns: What ``column`` returned.
        comment: First line of the file, for people.
    """
    lines = [
        f"# {comment}",
        'apiVersion = "v3.1.0"',
        *(f"{key} = {toml(value)}" for key, value in head.items()),
    ]
    path, form = source
    lines += ["", "[server]", 'type = "local"', f"path = {toml(path)}", f"format = {toml(form)}"]
    return "\n\n".join(["\n".join(lines), *columns]) + "\n"


def write_table(path: Path, table: Mapping[str, Sequence[Any]]) -> None:
    """Writes columns as ``.csv`` or ``.parquet``, by the path's ending; decimals keep every digit."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".parquet":
        sink = pa.BufferOutputStream()
        parquet.write_table(pa.table(dict(table)), sink)
        write_atomic(path, sink.getvalue().to_pybytes())
        return
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(table)
    writer.writerows(zip(*table.values(), strict=True))
    write_atomic(path, text.getvalue().encode())


def write_site(
    folder: Path,
    place: Place,
    files: Mapping[str, str],
    *,
    variant: Variant,
    sites: int,
    epsilon: float = 2.0,
) -> Path:
    """Writes ``sites/NAME`` with ``site.toml`` and the given text files; returns the site's folder.

    ``write_keys`` completes ``site.toml``: approvers are known by their keys.

    Args:
        folder: The federation's folder.
        place: The site.
        files: Text by path below the site's folder.
        variant: Decides what the site tolerates.
        sites: How many sites, hence helpers, there are.
        epsilon: Lifetime budget of the site: room for two runs.
    """
    site = folder / "sites" / place.name
    colluding = {"shared": 1, "own": sites - 1, "plain": 0}[variant]
    head = _site_file(place, colluding, epsilon, plain=variant == "plain")
    for path, text in {"site.toml": head, **files}.items():
        (site / path).parent.mkdir(parents=True, exist_ok=True)
        write_atomic(site / path, text.encode())
    return site


def write_keys(
    folder: Path, federation: str, places: Sequence[Place], entropy: Entropy | None = None
) -> Roster:
    """Makes the keys of leader and sites, and the roster that all of them sign.

    Each site also gets an approver of its policy, ``operator``, who approves it as it is: contracts,
    policies and tests must have been written.

    Args:
        folder: The federation's folder.
        federation: Name of the federation.
        places: The sites; each is a client and a helper.
        entropy: Source of the keys; the operating system's unless a test says otherwise.
    """
    source = OsEntropy() if entropy is None else entropy
    leader = Place(LEADER, "trial-office", places[0].region, "csv")
    members, signers = [], {}
    for place in (leader, *places):
        is_leader = place is leader
        keys = (folder / LEADER if is_leader else folder / "sites" / place.name) / "keys"
        keys.mkdir(parents=True, exist_ok=True, mode=0o700)
        identity = Identity.generate(source)
        identity.save(keys / "identity.key")
        if not is_leader:
            _add_approver(keys.parent, Identity.generate(source))
            lock_site(keys.parent)
        name = PartyName(place.name)
        members.append(
            Member(
                name=name,
                operator=place.operator,
                region=place.region,
                roles=("leader",) if is_leader else ("client", "helper"),
                key=identity.public_key,
            )
        )
        signers[name] = identity
    roster = Roster(federation, tuple(members))
    write_roster(folder / "federation.toml", roster, signers)
    return roster


def lock_site(site: Path) -> None:
    """Approves the policy of a written site as it is now, in the name of its approver ``operator``."""
    opened = SiteFolder.load(site)
    approver = Identity.load(_approver_key(site))
    lock = PolicyLock.new(opened.name, opened.parts, wall_clock())
    lock.approved(APPROVER, approver).write(site / LOCK_FILE)


def _approver_key(site: Path) -> Path:
    return site / "keys" / f"approver-{APPROVER}.key"


def _add_approver(site: Path, approver: Identity) -> None:
    approver.save(_approver_key(site))
    table = (
        "[policy]",
        "approvals = 1",
        "",
        "[policy.approvers]",
        f"{APPROVER} = {toml(approver.public_key.hex())}",
        "",
        "[budget]",
    )
    text = (site / "site.toml").read_text("utf-8").replace("[budget]", "\n".join(table), 1)
    write_atomic(site / "site.toml", text.encode())


def _site_file(place: Place, colluding: int, epsilon: float, *, plain: bool) -> str:
    lines = [
        "version = 1",
        f"name = {toml(place.name)}",
        f"operator = {toml(place.operator)}",
        f"region = {toml(place.region)}",
        "",
        "[budget]",
        f"epsilon = {toml(epsilon)}",
        "delta = 5e-5",
        *(["# A baseline on public data, in a federation of its own."] if plain else []),
        *(["allow_without_dp = true"] if plain else []),
        "",
        "[limits]",
        "max_uncompleted_rounds = 3",
        f"max_colluding_helpers = {colluding}",
        f"require_own_helper = {toml(not plain)}",
    ]
    return "\n".join(lines) + "\n"
