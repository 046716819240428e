"""Four hospitals that hold the Wisconsin diagnostic breast-cancer records: 569 patients, 30 features.

The measurements and diagnoses are real and public (scikit-learn bundles them). Names and everything
else that identifies a patient are generated here, so that the contracts have something to remove.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tacit.demo.layout import (
    Place,
    Records,
    Variant,
    bundled,
    column,
    contract,
    template,
    write_keys,
    write_site,
    write_table,
)
from tacit.files import make_folder, write_atomic
from tacit.types import Entropy

__all__ = [
    "CLASSES",
    "FEDERATION",
    "HOSPITALS",
    "IDENTITY",
    "FeatureRange",
    "Split",
    "features",
    "load_records",
    "split",
    "write_federation",
]

FEDERATION = "breast-clinics"
CLASSES = ("benign", "malignant")
HOSPITALS = (
    Place("north", "north-hospital", "eu", "csv"),
    Place("south", "south-hospital", "eu", "parquet"),
    Place("east", "east-hospital", "eu", "csv"),
    Place("west", "west-hospital", "uk", "parquet"),
)

POLICIES: dict[Variant, tuple[str, ...]] = {
    "shared": ("train.cedar",),
    "own": ("train.cedar", "own-noise.cedar"),
    "plain": ("baseline.cedar",),
}
TEST_SHARE = 0.25
SHARES = {"benign": (0.20, 0.10, 0.40, 0.30), "malignant": (0.55, 0.25, 0.12, 0.08)}
"""Which part of a class each hospital holds: two cancer centres and two screening clinics."""

IDENTITY: dict[str, dict[str, Any]] = {
    "name": {
        "logical_type": "string",
        "classification": "identifier",
        "transform": "drop",
        "hipaa": "name",
    },
    "national_id": {
        "logical_type": "string",
        "classification": "identifier",
        "transform": "token",
        "hipaa": "other",
    },
    "zip_code": {
        "logical_type": "string",
        "classification": "quasi-identifier",
        "transform": "zip3",
        "hipaa": "geography",
    },
    "birth_date": {
        "logical_type": "date",
        "classification": "quasi-identifier",
        "transform": {"method": "age", "width": 10, "on": date(2026, 1, 1)},
        "hipaa": "date",
    },
    "phone": {
        "logical_type": "string",
        "classification": "identifier",
        "transform": "drop",
        "hipaa": "telephone",
    },
    "note": {"logical_type": "string", "classification": "free-text", "transform": "drop"},
}
"""The generated columns and what the contract does with each."""

SYNTHETIC = "synthetic: generated for this demonstration, no real person"
GIVEN = (
    "Ada",
    "Bela",
    "Cleo",
    "Dora",
    "Edda",
    "Fay",
    "Gail",
    "Hedy",
    "Iris",
    "June",
    "Kay",
    "Lena",
)
FAMILY = (
    "Adler",
    "Berg",
    "Conti",
    "Duval",
    "Evans",
    "Falk",
    "Grau",
    "Holm",
    "Iyer",
    "Jonas",
    "Kerr",
)
FIRST_BIRTH = date(1925, 1, 1)
BIRTH_DAYS = 50 * 365


@dataclass(frozen=True, slots=True)
class FeatureRange:
    """A feature's public range and where it comes from."""

    name: str
    lower: float
    upper: float
    unit: str
    source: str


@dataclass(frozen=True, slots=True, eq=False)
class Split:
    """One division of the 569 records.

    Args:
        seed: What it follows from.
        train: Records of each hospital, by name.
        evaluation: The public test set of the job.
    """

    seed: int
    train: Mapping[str, Records]
    evaluation: Records

    def pooled(self) -> Records:
        """What all hospitals hold together, for the baselines that need one trusted place."""
        parts = self.train.values()
        return Records(
            np.concatenate([part.rows for part in parts]),
            np.concatenate([part.features for part in parts]),
            np.concatenate([part.labels for part in parts]),
        )


def features() -> tuple[FeatureRange, ...]:
    """The 30 features in the order of scikit-learn: mean, standard error and worst of ten measures."""
    measures: list[dict[str, Any]] = tomllib.loads(template("hospitals/columns.toml"))["measure"]
    found = []
    for pattern in ("mean_{}", "{}_error", "worst_{}"):
        for item in measures:
            lower, upper, source = float(item["lower"]), float(item["upper"]), str(item["source"])
            if pattern == "{}_error":
                source = f"a sixth of the range of one nucleus, for 9 nuclei or more: {source}"
                lower, upper = 0.0, float(item["error_upper"])
            name = pattern.format(item["name"])
            found.append(FeatureRange(name, lower, upper, str(item["unit"]), source))
    return tuple(found)


def split(seed: int) -> Split:
    """Divides the records: a quarter for evaluation, the rest uneven and label-skewed.

    Args:
        seed: Which records go where; sizes are the same for every seed.

    Raises:
        ConfigError: scikit-learn is not installed.
    """
    everything = load_records()
    generator = np.random.default_rng(seed)
    evaluation: list[NDArray[np.int64]] = []
    train: dict[str, list[NDArray[np.int64]]] = {place.name: [] for place in HOSPITALS}
    for label, name in enumerate(CLASSES):
        rows = generator.permutation(np.flatnonzero(everything.labels == label))
        held_out = round(TEST_SHARE * len(rows))
        evaluation.append(rows[:held_out])
        rest = rows[held_out:]
        cuts = np.rint(np.cumsum(SHARES[name])[:-1] * len(rest)).astype(np.int64)
        for place, part in zip(HOSPITALS, np.split(rest, cuts), strict=True):
            train[place.name].append(part)
    shuffled = {
        place: everything.take(generator.permutation(np.concatenate(parts)))
        for place, parts in train.items()
    }
    return Split(seed, shuffled, everything.take(generator.permutation(np.concatenate(evaluation))))


def load_records() -> Records:
    """All 569 records, label 1 for malignant.

    Raises:
        ConfigError: scikit-learn is not installed.
    """
    data = bundled("load_breast_cancer")
    labels = 1 - np.asarray(data.target, dtype=np.int64)
    return Records(np.arange(len(labels)), np.asarray(data.data, dtype=np.float64), labels)


def write_federation(
    folder: Path, split: Split, *, variant: Variant = "shared", entropy: Entropy | None = None
) -> Path:
    """Writes a federation that can run at once: sites, keys, signed roster, job, evaluation set.

    Args:
        folder: Destination; must not exist.
        split: Who holds what.
        variant: ``shared`` and ``own`` train with record-level DP, ``plain`` is the baseline FedAvg.
        entropy: Source of keys; the operating system's unless a test says otherwise.

    Returns:
        Path of the job file.

    Raises:
        ConfigError: The folder exists.
        TransportError: The disk refuses a write.
    """
    make_folder(folder)
    for place in HOSPITALS:
        data = f"data/patients.{place.format}"
        files = {
            "contracts/diagnosis.toml": _site_contract(place, data),
            **{f"policies/{name}": template(f"hospitals/{name}") for name in POLICIES[variant]},
        }
        site = write_site(folder, place, files, variant=variant, sites=len(HOSPITALS))
        records = split.train[place.name]
        write_table(site / data, {**_identities(records), **_measurements(records)})
    held_out = ("diagnosis-evaluation", "Public test set of the job; no hospital trains on it.")
    _write_public(folder / "evaluation", held_out, split.evaluation)
    everything = (
        "diagnosis-public",
        "All records as published, for 'tacit attack' to divide anew.",
    )
    _write_public(folder / "attack", everything, load_records())
    write_keys(folder, FEDERATION, HOSPITALS, entropy)
    job = folder / "job.toml"
    write_atomic(job, _job(variant).encode())
    return job


def _job(variant: Variant) -> str:
    if variant == "plain":
        return template("hospitals/job-plain.toml")
    return template("hospitals/job.toml").replace('noise = "shared"', f'noise = "{variant}"')


def _measurements(records: Records) -> dict[str, list[Any]]:
    values = {item.name: records.features[:, i].tolist() for i, item in enumerate(features())}
    return {**values, "diagnosis": [CLASSES[label] for label in records.labels]}


def _identities(records: Records) -> dict[str, list[Any]]:
    """Generated identity columns. A patient's identity follows from the row alone, in any split."""
    table: dict[str, list[Any]] = {key: [] for key in IDENTITY}
    for row in records.rows.tolist():
        generator = np.random.default_rng([row, 569])
        name = f"{GIVEN[generator.integers(len(GIVEN))]} {FAMILY[generator.integers(len(FAMILY))]}"
        phone = (
            f"+44 7700 900{generator.integers(1000):03d}"  # a range that Ofcom keeps for fiction
        )
        cells = {
            "name": name,
            "national_id": f"SYN-{generator.integers(10**9):09d}",
            "zip_code": f"{generator.integers(10_000, 99_999)}",
            "birth_date": FIRST_BIRTH + timedelta(days=int(generator.integers(BIRTH_DAYS))),
            "phone": phone,
            "note": f"{name} rang from {phone}, asks for the result; seen by Dr {FAMILY[row % 11]}.",
        }
        for key, cell in cells.items():
            table[key].append(cell)
    return table


def _site_contract(place: Place, data: str) -> str:
    head = {
        "name": "diagnosis",
        "description": "Fine-needle aspirates: nuclear measurements and diagnosis. "
        f"Real public measurements; identity columns are {SYNTHETIC}.",
        "region": place.region,
        "allowed_regions": sorted({hospital.region for hospital in HOSPITALS}),
        "lawful_basis": "public-task",
        "retention": date(2099, 12, 31),
    }
    identity = [column(name, **keys, synthetic=True) for name, keys in IDENTITY.items()]
    comment = f"Identity columns are {SYNTHETIC}. Measurements: scikit-learn, load_breast_cancer."
    return contract(head, (data, place.format), identity + _measured_columns(), comment)


def _measured_columns() -> list[str]:
    measured = [
        column(
            item.name,
            "number",
            "feature",
            "keep",
            minimum=item.lower,
            maximum=item.upper,
            unit=item.unit,
            bounds_source=item.source,
        )
        for item in features()
    ]
    return [*measured, _label()]


def _label() -> str:
    return column("diagnosis", "string", "label", "keep", values=list(CLASSES), gdpr="health")


def _write_public(folder: Path, name: tuple[str, str], records: Records) -> None:
    write_table(folder / "patients.csv", _measurements(records))
    head = {"name": name[0], "description": name[1], "public": True}
    comment = "Public records: scikit-learn, load_breast_cancer."
    text = contract(head, ("patients.csv", "csv"), _measured_columns(), comment)
    write_atomic(folder / "contract.toml", text.encode())
