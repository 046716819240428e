"""The connector's column kernels on one core: tokens, FF1 and the residual scan, on generated columns."""

from __future__ import annotations

import json
import random
import statistics
import subprocess
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa  # type: ignore[import-untyped]
from peers.environment import environment

from support.machine import Row, median_s, ratio, row, seconds
from tacit.connect.ff1 import ALPHABETS, encrypt
from tacit.connect.residual import scan
from tacit.connect.tokens import tokens

KEY = bytes(range(32))
FF3 = "ff3==1.0.3"

SENTENCES = (
    "Patient presents with {n} days of intermittent chest pain, worse on exertion.",
    "BP {b}/{n}0 mmHg, pulse {b} bpm, SpO2 9{d}% on room air.",
    "Started on metoprolol {n}5 mg twice daily; continue aspirin 81 mg.",
    "Labs: Na 13{d}, K {d}.{d}, creatinine 0.{n}, HbA1c {d}.{d}%, WBC {n}.{d}.",
    "Denies fever, chills, nausea or vomiting - no recent travel.",
    "Seen at 1{d}:{n} by the on-call team; family at bedside.",
    "Imaging shows no acute cardiopulmonary process, unchanged since the last study.",
    "Plan: repeat troponin in 6 hours, echocardiogram, cardiology follow-up (2-3 weeks).",
    "Ejection fraction {n}-{b}%; mild mitral regurgitation, grade 1/6 murmur.",
    "Allergic to penicillin (rash). Former smoker, {n} pack-years, quit in 20{n}.",
)
IDENTIFIERS = (
    "Seen on 2024-0{d}-1{d}.",
    "Call 212-555-1{n}{d}.",
    "MRN: 48{n}{n}{d}1.",
    "Contact j.doe{n}@example.org.",
    "Admitted 0{d}/1{d}/2023.",
    "SSN 123-{n}-67{n}.",
)
CATEGORIES = ("E11.9", "I10", "male", "female", "stage II", "never", "former", "positive", "J45.40",
              "negative", "not done", "Medicare", "outpatient", "ICU-2", "2nd floor", "N/A")  # fmt: skip


def identifiers(count: int) -> pa.Array:
    """Record numbers of ten characters, all different."""
    return pa.array([f"MRN{number * 7919 % 10**7:07}" for number in range(count)])


def digits(count: int, length: int) -> pa.Array:
    """Numbers of ``length`` digits."""
    drawn = np.random.default_rng(1).integers(48, 58, (count, length), dtype=np.uint8)
    offsets = np.arange(count + 1, dtype=np.int32) * length
    return pa.Array.from_buffers(
        pa.string(), count, [None, pa.py_buffer(offsets), pa.py_buffer(drawn)]
    )


def notes(size: int) -> pa.Array:
    """Clinical notes of about 250 bytes, ``size`` bytes in all, an identifier in every fourth."""
    generator = random.Random(1)
    distinct = []
    for number in range(4_000):
        parts = [generator.choice(SENTENCES) for _ in range(4)]
        if number % 4 == 0:
            parts[generator.randrange(4)] = generator.choice(IDENTIFIERS)
        values = {"d": generator.randrange(1, 9), "n": generator.randrange(10, 99)}
        distinct.append(" ".join(parts).format(b=generator.randrange(100, 160), **values))
    average = sum(map(len, distinct)) / len(distinct)
    return pa.array([distinct[i % len(distinct)] for i in range(int(size / average))])


def categories(size: int) -> pa.Array:
    """Short codes and words, ``size`` bytes in all."""
    average = sum(map(len, CATEGORIES)) / len(CATEGORIES)
    chosen = np.random.default_rng(1).integers(0, len(CATEGORIES), int(size / average))
    return pa.array(CATEGORIES).take(pa.array(chosen))


def token_rows(count: int) -> Iterator[Row]:
    """Tokens of ten-character record numbers."""
    cells = identifiers(count)
    rate = count / median_s(lambda: tokens(cells, KEY)) / 1e6
    how = f"AES-256, {count:,} values of 10 characters, all different; one core, median of 7"
    yield row("PRF tokens", rate, "M values/s", how, ">= 10")


def ff1_rows(length: int, count: int, compared: int) -> Iterator[Row]:
    """FF1 of numbers, and over PyPI's ``ff3`` where ``compared`` is not 0.

    Args:
        length: Digits of a number.
        count: How many numbers we encrypt.
        compared: How many the slower peer does.
    """
    cells = digits(count, length)
    what = f"{count:,} numbers of {length} digits, AES-256, one core"
    if not compared:
        rate = count / median_s(lambda: encrypt(cells, KEY, ALPHABETS["digits"]), repeats=5)
        yield row("FF1", rate / 1e3, "k values/s", f"{what}, median of 5", ">= 700")
        return
    python = environment(FF3)
    own, other = [], []
    for _ in range(5):
        own.append(count / seconds(lambda: encrypt(cells, KEY, ALPHABETS["digits"])))
        other.append(_ff3_rate(python, compared, length))
    theirs = statistics.median(other)
    how = f"{statistics.median(own):,.0f} against {theirs:,.0f} values/s; {what}, 5 in turns; {FF3}"
    yield row("FF1 / PyPI ff3", ratio(own, other), "x", how, ">= 50")


def _ff3_rate(python: Path, count: int, length: int) -> float:
    command = [str(python), "-m", "peers.ff3_rate", str(count), str(length)]
    folder = Path(__file__).parents[1]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True)
    return float(json.loads(done.stdout)["rate"])


def scan_rows(size: int) -> Iterator[Row]:
    """The residual scan with every detector."""
    columns = {"notes": notes(size), "categories": categories(size)}
    hits = {name: len(scan(cells)) for name, cells in columns.items()}
    what = {
        "notes": "notes of about 250 bytes",
        "categories": "codes and words of 2 to 10 bytes",
    }
    for name, cells in columns.items():
        held = cells.nbytes - 4 * (len(cells) + 1)
        rate = held / 1e6 / median_s(lambda cells=cells: scan(cells), repeats=5)
        per_kb = 1000 * hits[name] / held
        how = (
            f"{held / 1e6:.0f} MB of {what[name]}, {per_kb:.2g} hits per KB; one core, median of 5"
        )
        yield row(f"residual scan, {name}", rate, "MB/s", how, ">= 100")
