"""Writes tests/vectors/bundle: the evidence of one small run, which every later verifier must accept.

Run ``python tests/vectors/make_bundle.py`` when the format changes, and never otherwise. Keys and
times are new each time.
"""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

import tacit
from tacit.testing.federation import write_small_federation

FOLDER = Path(__file__).parent / "bundle"
FILES = ("bundle.zip", "trust.json", "model.safetensors")
JOB = {"rounds": 2}


def main() -> None:
    """One run of two rounds."""
    with tempfile.TemporaryDirectory() as folder:
        job = write_small_federation(Path(folder, "small"), job=JOB)
        run = tacit.train(tacit.Job.load(job), quiet=True)
        assert run.verify().exit_code == 0
        FOLDER.mkdir(exist_ok=True)
        for name in FILES:
            shutil.copy(run.folder / name, FOLDER / name)


if __name__ == "__main__":
    main()
