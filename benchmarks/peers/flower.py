"""Makes an environment for Flower, runs ``flower_secagg.py`` there, and keeps what it measured."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from support.machine import describe, load, say

from peers.environment import FOLDER, environment

RELEASE = "flwr==1.41.0"
HERE = Path(__file__).parent
DROPPED = 0.1


def cost(clients: int, dimension: int, *, refresh: bool) -> dict[str, Any]:
    """What one round of Flower's SecAgg+ costs, measured here or kept from an earlier run.

    Args:
        clients: Of the round, a tenth of which drop out.
        dimension: Length of the vector.
        refresh: Measure again even if a result is kept.

    Returns:
        The result of ``flower_secagg.py``, with ``machine`` and ``load`` of that time.
    """
    kept = FOLDER / f"flower-{clients}x{dimension}.json"
    if kept.exists() and not refresh:
        result: dict[str, Any] = json.loads(kept.read_text())
        say(f"Flower: kept figures of {result['machine']['date']}; --refresh measures again")
        return result
    python = environment(RELEASE)
    say(f"Flower: one round, {clients} clients, {dimension:,} parameters; this takes minutes")
    machine = describe()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "result.json"
        size = ["--clients", str(clients), "--dimension", str(dimension), "--drop", str(DROPPED)]
        script = [str(python), str(HERE / "flower_secagg.py"), *size, "--json", str(path)]
        subprocess.run(script, check=True, stdout=sys.stderr)
        result = json.loads(path.read_text())
    result |= {"machine": {**machine, "load_at_end": load()}}
    kept.write_text(json.dumps(result, indent=1) + "\n")
    return result
