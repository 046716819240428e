"""The federations that the attack suite is measured on: two bundled jobs, and Fashion-MNIST where it is there."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from tacit.demo import digits, hospitals
from tacit.demo.layout import column, contract, write_table
from tacit.files import write_atomic

__all__ = ["fashion", "write_digits", "write_hospitals"]

ROOT = Path(__file__).parents[2]
IMAGES = 2_000
SIDE = 28
COMMENT = "Public images: Fashion-MNIST (Xiao, Rasul, Vollgraf 2017), MIT licence."

JOB = """version = 1
name = "fashion"
purpose = "research"
rounds = 40
model = "logistic"

[data]
contract = "fashion"

[evaluation]
contract = "attack/contract.toml"

[privacy]
unit = "record"
epsilon = 3.0
delta = 1e-5
clip_norm = 1.0
sampling_rate = 0.25
expected_units = 1500
max_colluding = 1

[aggregation]
min_cohort = 4

[training]
learning_rate = 1.0
micro_batch = 64

[features]
norm = 8.0
"""


def write_hospitals(folder: Path) -> Path:
    """The breast-cancer job; returns its file."""
    return hospitals.write_federation(folder, hospitals.split(0))


def write_digits(folder: Path) -> Path:
    """The digits job; returns its file."""
    return digits.write_federation(folder, digits.split(0))


def fashion(folder: Path) -> Path | None:
    """A job over 2,000 images of Fashion-MNIST; None where the data are not there.

    They are looked for where ``TACIT_DATA`` says, ``../shared/data`` by default. Nothing but what attacks
    need is written: the job and its public data.
    """
    place = Path(os.environ.get("TACIT_DATA", ROOT.parent / "shared" / "data"))
    path = place / "fashion_mnist" / "fashion_mnist.npz"
    if not path.exists():
        return None
    with np.load(path) as data:
        images = data["x_train"][:IMAGES].reshape(IMAGES, SIDE * SIDE).astype(np.int64)
        labels = data["y_train"][:IMAGES]
    names = [f"pixel_{row}_{place}" for row in range(SIDE) for place in range(SIDE)]
    bounds = {"minimum": 0, "maximum": 255, "bounds_source": "8-bit grey levels"}
    columns = [column(name, "integer", "feature", "keep", **bounds) for name in names]
    columns.append(column("garment", "integer", "label", "keep", values=list(range(10))))
    head = {"name": "fashion-public", "description": "Fashion-MNIST, 2,000 images.", "public": True}
    table = {name: images[:, index].tolist() for index, name in enumerate(names)}
    (folder / "attack").mkdir(parents=True)
    write_table(folder / "attack" / "images.parquet", {**table, "garment": labels.tolist()})
    text = contract(head, ("images.parquet", "parquet"), columns, COMMENT)
    write_atomic(folder / "attack" / "contract.toml", text.encode())
    write_atomic(folder / "job.toml", JOB.encode())
    return folder / "job.toml"
