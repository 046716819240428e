"""How good models are under privacy: accuracy by epsilon against the same task with central trust.

    .venv/bin/python benchmarks/privacy_utility.py --json utility.json --figure utility.png

Fashion-MNIST at record level (10 sites) and at client level (3,000 clients of 20 records, each with class
proportions of its own), heart disease at four hospitals, and the breast-cancer demonstration. Noise comes
from helpers, who are not trusted one by one; beside it stand one trusted curator, Flower's accounting, local
DP and no privacy. Every row says how it was measured. Rows called ``simulated`` run the library's own
sampling, training, integers, noise and server steps (``tacit.engine.direct``), without masks and signatures.

Settings were chosen on the last 10,000 training images (``--validation`` scores there), the hospitals' on
splits that are not reported, and none on the test images. At record level without a prior 150 rounds had
been scored on the test images once before 300 rounds, better on validation, took their place. Details:
``support/utility/settings.py``. The data are public, so nobody paid for this search.

The data lie in ``fashion_mnist/fashion_mnist.npz`` and ``heart_disease_4site/processed.NAME.data`` in a folder
that ``--data`` or the variable ``TACIT_DATA`` names, ``../shared/data`` by default. Features are kept
in ``benchmarks/.cache``. Two processes train side by side.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path

from support.machine import Parts, Row, describe, measure, options, report
from support.utility import hospitals, settings
from support.utility.figure import draw
from support.utility.images import Prior, Source, digits, fashion
from support.utility.settings import Setting
from support.utility.side_by_side import processes
from support.utility.study import Study, demo_rows, heart_rows, image_rows
from support.utility.trials import Method

from tacit.demo.hospitals_demo import SPLITS

ROOT = Path(__file__).parents[1]
CACHE = Path(__file__).parent / ".cache"

SEEDS = 5
EVERYBODY: tuple[Method, ...] = (
    "Tacit",
    "central DP-SGD",
    "Flower's accounting",
    "local DP",
    "no privacy",
)
TRUSTED: tuple[Method, ...] = ("Tacit", "central DP-SGD", "no privacy")


def full(chosen: argparse.Namespace, study: Study) -> Parts:
    """The tasks of the table."""

    @cache
    def source() -> Source:
        return fashion(chosen.data, CACHE)

    def rows(setting: Setting, methods: tuple[Method, ...]) -> Iterator[Row]:
        images = source().images(setting.prior, validation=chosen.validation)
        if chosen.validation:
            setting = setting.on_fewer(len(images.train.labels))
        return image_rows(study, setting, images, methods)

    splits = hospitals.OTHER_SPLITS if chosen.validation else hospitals.SPLITS
    return {
        "record-prior": lambda: rows(settings.RECORD_PRIOR, TRUSTED),
        "client-no-prior": lambda: rows(settings.CLIENT, EVERYBODY),
        "client-prior": lambda: rows(settings.CLIENT_PRIOR, TRUSTED),
        "heart": lambda: heart_rows(study, hospitals.heart(chosen.data), splits),
        "breast": lambda: demo_rows(study, SPLITS),
        "record-no-prior": lambda: rows(settings.RECORD, EVERYBODY),  # the longest
    }


def quick(study: Study, folder: Path) -> Parts:
    """Sizes and stand-ins that show that everything runs; the figures mean nothing."""
    study.seeds = range(2)
    rounds = 3

    def rows(setting: Setting, holders: int, size: int) -> Iterator[Row]:
        if setting.prior is not None:
            setting = replace(setting, prior=Prior(300, rank=100, power=0.8))
        setting = replace(setting, holders=holders, size=size, rounds=rounds)
        setting = replace(setting, cap=min(setting.cap, 2), sampling_rate=0.5)
        images = digits(folder).images(setting.prior, validation=False)
        return image_rows(study, setting, images, EVERYBODY)

    patients = hospitals.made_up()
    return {
        "record-no-prior": lambda: rows(settings.RECORD, 10, 140),
        "record-prior": lambda: rows(settings.RECORD_PRIOR, 10, 140),
        "client-no-prior": lambda: rows(settings.CLIENT, 70, 20),
        "client-prior": lambda: rows(settings.CLIENT_PRIOR, 70, 20),
        "heart": lambda: heart_rows(study, patients, range(3), rounds=rounds),
        "breast": lambda: demo_rows(study, SPLITS[:1], rounds=2),
    }


def main() -> None:
    """Measures, prints a table, writes JSON and the figure."""
    parser = options(__doc__)
    parser.add_argument("--figure", type=Path, metavar="FILE.png", help="draw accuracy by epsilon")
    parser.add_argument("--seeds", type=int, default=SEEDS, help="of the image tasks")
    parser.add_argument(
        "--data",
        type=Path,
        metavar="FOLDER",
        default=Path(os.environ.get("TACIT_DATA", ROOT.parent / "shared" / "data")),
        help="folder of the data sets",
    )
    parser.add_argument(
        "--validation",
        action="store_true",
        help="score where settings are chosen, not on the test data",
    )
    chosen = parser.parse_args()
    machine = describe()
    with tempfile.TemporaryDirectory() as folder, processes() as pool:
        study = Study(pool, range(chosen.seeds))
        parts = quick(study, Path(folder)) if chosen.quick else full(chosen, study)
        judged = not (chosen.quick or chosen.validation)
        rows = measure(parts, chosen.only, judged=judged)
    report(rows, machine, chosen.json)
    if chosen.figure is not None:
        draw(study, chosen.figure, machine)


if __name__ == "__main__":
    main()
