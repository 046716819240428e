"""What the parts of a private run cost: masking, noise, accounting, a whole run, verification.

    .venv/bin/python benchmarks/foundation.py --json foundation.json

Medians of repeated calls in one process. Ratios are against the physical limit named in ``how``.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from tacit.api import Job, Run, train, verify
from tacit.demo import hospitals
from tacit.privacy.noise import discrete_gaussian
from tacit.secagg.masked import mask, mask_sum
from tacit.trust.identity import OsEntropy
from tacit.trust.sealing import HpkeSealing
from tacit.types import Digest, PartyName

ELEMENTS = 1_000_000
REPEATS = 7


def median_s(call: Callable[[], object], repeats: int = REPEATS) -> float:
    """Median wall time of ``call`` in seconds, after one call to warm up."""
    call()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def row(name: str, value: float, unit: str, how: str) -> dict[str, Any]:
    """One measured figure; the foundation sets no targets for speed."""
    return {
        "name": name,
        "value": round(value, 4),
        "unit": unit,
        "target": None,
        "met": None,
        "how": how,
    }


def masking() -> list[dict[str, Any]]:
    """Client and helper against the bare AES-256-CTR keystream of the same bytes."""
    entropy, sealing = OsEntropy(), HpkeSealing()
    context, client, helper = Digest(bytes(32)), PartyName("a"), PartyName("h")
    opener = sealing.generate()
    vector = np.frombuffer(entropy.draw(4 * ELEMENTS), dtype=np.uint32).copy()
    keys = [(helper, opener.public_key)]

    def client_side() -> Any:
        return mask(
            vector, context=context, client=client, keys=keys, sealing=sealing, entropy=entropy
        )

    seeds = [(client, client_side().seeds[0].sealed)]
    zeros, sink = bytes(4 * ELEMENTS), bytearray(4 * ELEMENTS + 16)

    def keystream() -> None:
        encryptor = Cipher(algorithms.AES(bytes(32)), modes.CTR(bytes(16))).encryptor()
        encryptor.update_into(zeros, sink)

    bare = median_s(keystream)
    own = median_s(client_side)
    helped = median_s(
        lambda: mask_sum(seeds, context=context, helper=helper, opener=opener, length=ELEMENTS)
    )
    how = f"{ELEMENTS} parameters, one helper, HPKE included; bare AES-256-CTR {bare * 1e3:.2f} ms"
    return [
        row("client: mask", own / bare, "x bare AES-256-CTR", how),
        row("helper: mask sum per client", helped / bare, "x bare AES-256-CTR", how),
    ]


def noise() -> list[dict[str, Any]]:
    """The discrete Gaussian sampler by variance."""
    entropy = OsEntropy()
    found = []
    for variance in (10**4, 10**8, 10**14):
        taken = median_s(lambda v=variance: discrete_gaussian(v, ELEMENTS, entropy), repeats=3)
        name = f"noise share, variance {variance:.0e}"
        found.append(row(name, taken / ELEMENTS * 1e9, "ns/draw", f"{ELEMENTS} draws, NumPy"))
    return found


def whole_run(folder: Path) -> list[dict[str, Any]]:
    """The breast-cancer job, four hospitals, 40 rounds, every site a helper."""
    times, runs = [], []
    for seed in range(3):
        base = folder / str(seed)
        job = Job.load(hospitals.write_federation(base, hospitals.split(seed)))
        start = time.perf_counter()
        runs.append(train(job, quiet=True))
        times.append(time.perf_counter() - start)
    run: Run = runs[-1]
    trust = run.folder / "trust.json"
    sent = max(n for name, n in run.outcome.traffic.sent.items() if name != "coordinator")
    return [
        row("first run, accountant cold", times[0], "s", "4 hospitals, 40 rounds, d = 31"),
        row("further run", statistics.median(times[1:]), "s", "the same, accountant warm"),
        row("sent by one hospital", sent / 1e3, "kB", "uploads, mask sums, keys and its log"),
        row("evidence bundle", run.evidence.stat().st_size / 1e3, "kB", "uncompressed zip"),
        row(
            "verify the bundle",
            median_s(lambda: verify(run.evidence, trust), repeats=3),
            "s",
            "all claims, offline",
        ),
    ]


def main() -> None:
    """Measures everything, prints a table, writes JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        rows = [*masking(), *noise(), *whole_run(Path(folder))]
    for entry in rows:
        print(f"{entry['name']:<32} {entry['value']:>10.3f} {entry['unit']:<20} {entry['how']}")
    if options.json:
        machine = {
            "cores": os.cpu_count() or 0,
            "processor": platform.machine(),
            "python": platform.python_version(),
        }
        options.json.write_text(json.dumps({"schema": 1, "machine": machine, "rows": rows}))


if __name__ == "__main__":
    main()
