"""Eight clients that hold handwritten digits: 1,797 images of 8 x 8 pixels, a small network.

The images are real and public (scikit-learn bundles them). Each client writes some digits more often
than others, as people do.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tacit.demo.layout import (
    Place,
    Records,
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

__all__ = ["CLASSES", "CLIENTS", "FEDERATION", "Split", "load_records", "split", "write_federation"]

FEDERATION = "digit-writers"
CLASSES = tuple(range(10))
CLIENTS = tuple(
    Place(f"client-{i}", f"operator-{i}", "eu", "csv" if i % 2 else "parquet") for i in range(1, 9)
)

COMMENT = "Public records: scikit-learn, load_digits."
BOUNDS_SOURCE = "count of set pixels in a 4 x 4 block of a bitmap (UCI, optical digits, 1998)"
WIDTH = 8
TEST_SHARE = 0.25
CONCENTRATION = 2.0
"""Of the Dirichlet distribution of each digit over the clients: uneven, yet nobody stays empty."""


@dataclass(frozen=True, slots=True, eq=False)
class Split:
    """One division of the 1,797 images.

    Args:
        seed: What it follows from.
        train: Records of each client, by name.
        evaluation: The public test set of the job.
    """

    seed: int
    train: Mapping[str, Records]
    evaluation: Records


def split(seed: int) -> Split:
    """Divides the images: a quarter for evaluation, the rest label-skewed over the clients.

    Args:
        seed: Which records go where.

    Raises:
        ConfigError: scikit-learn is not installed.
    """
    everything = load_records()
    generator = np.random.default_rng(seed)
    evaluation: list[NDArray[np.int64]] = []
    train: dict[str, list[NDArray[np.int64]]] = {place.name: [] for place in CLIENTS}
    for label in CLASSES:
        rows = generator.permutation(np.flatnonzero(everything.labels == label))
        held_out = round(TEST_SHARE * len(rows))
        evaluation.append(rows[:held_out])
        rest = rows[held_out:]
        shares = generator.dirichlet([CONCENTRATION] * len(CLIENTS))
        cuts = np.rint(np.cumsum(shares)[:-1] * len(rest)).astype(np.int64)
        for place, part in zip(CLIENTS, np.split(rest, cuts), strict=True):
            train[place.name].append(part)
    shuffled = {
        client: everything.take(generator.permutation(np.concatenate(parts)))
        for client, parts in train.items()
    }
    return Split(seed, shuffled, everything.take(generator.permutation(np.concatenate(evaluation))))


def load_records() -> Records:
    """All 1,797 images as 64 grey levels from 0 to 16, row by row.

    Raises:
        ConfigError: scikit-learn is not installed.
    """
    data = bundled("load_digits")
    labels = np.asarray(data.target, dtype=np.int64)
    return Records(np.arange(len(labels)), np.asarray(data.data, dtype=np.float64), labels)


def write_federation(folder: Path, split: Split, *, entropy: Entropy | None = None) -> Path:
    """Writes a federation that can run at once: sites, keys, signed roster, job, model, test set.

    Args:
        folder: Destination; must not exist.
        split: Who holds what.
        entropy: Source of keys; the operating system's unless a test says otherwise.

    Returns:
        Path of the job file.

    Raises:
        ConfigError: The folder exists.
        TransportError: The disk refuses a write.
    """
    make_folder(folder)
    for place in CLIENTS:
        data = f"data/digits.{place.format}"
        head = {"name": "digits", "description": "Handwritten digits, 8 x 8 grey levels."}
        files = {
            "contracts/digits.toml": contract(head, (data, place.format), _columns(), COMMENT),
            "policies/train.cedar": template("digits/train.cedar"),
        }
        site = write_site(folder, place, files, variant="shared", sites=len(CLIENTS), epsilon=6.0)
        write_table(site / data, _table(split.train[place.name]))
    _write_public(
        folder / "evaluation", ("digits-evaluation", "Public test set."), split.evaluation
    )
    everything = ("digits-public", "All images as published, for 'tacit attack' to divide anew.")
    _write_public(folder / "attack", everything, load_records())
    write_keys(folder, FEDERATION, CLIENTS, entropy)
    write_atomic(folder / "model.py", template("digits/model.py.txt").encode())
    job = folder / "job.toml"
    write_atomic(job, template("digits/job.toml").encode())
    return job


def _write_public(folder: Path, name: tuple[str, str], records: Records) -> None:
    write_table(folder / "digits.csv", _table(records))
    head = {"name": name[0], "description": name[1], "public": True}
    text = contract(head, ("digits.csv", "csv"), _columns(), COMMENT)
    write_atomic(folder / "contract.toml", text.encode())


def _pixels() -> list[str]:
    return [f"pixel_{row}_{column}" for row in range(WIDTH) for column in range(WIDTH)]


def _columns() -> list[str]:
    bounds = {"minimum": 0, "maximum": 16, "bounds_source": BOUNDS_SOURCE}
    pixels = [column(name, "integer", "feature", "keep", **bounds) for name in _pixels()]
    return [*pixels, column("digit", "integer", "label", "keep", values=CLASSES)]


def _table(records: Records) -> dict[str, list[Any]]:
    grey = records.features.astype(np.int64)
    values = {name: grey[:, i].tolist() for i, name in enumerate(_pixels())}
    return {**values, "digit": records.labels.tolist()}
