"""The golden bundle: what was evidence once stays evidence."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from pathlib import Path

from safetensors import safe_open

import tacit
from tacit.evidence.archive import unpack
from tacit.evidence.report import CLAIMS

ROOT = Path(__file__).parents[2]
FOLDER = Path(__file__).parent / "bundle"
BUNDLE, TRUST, MODEL = (FOLDER / name for name in ("bundle.zip", "trust.json", "model.safetensors"))


def test_the_library_goes_on_accepting_it() -> None:
    report = tacit.verify(BUNDLE, TRUST)
    assert {claim.id: claim.status.value for claim in report.claims} == dict.fromkeys(
        CLAIMS, "PASS"
    )
    assert report.exit_code == 0


def test_the_single_file_goes_on_accepting_it() -> None:
    command = [sys.executable, "-I", str(ROOT / "verifier" / "verify.py"), str(BUNDLE)]
    done = subprocess.run(
        [*command, "--trust", str(TRUST), "--json"], capture_output=True, text=True, check=False
    )
    statuses = {claim["id"]: claim["status"] for claim in json.loads(done.stdout)["claims"]}
    # Which epsilon is right between its bounds, only the exact accountant decides.
    assert statuses.pop("epsilon") in ("PASS", "NOT PROVEN")
    assert set(statuses.values()) == {"PASS"}
    assert set(statuses) == set(CLAIMS) - {"epsilon"}


def test_model_and_bundle_name_each_other() -> None:
    manifest = json.loads(unpack(BUNDLE.read_bytes())["manifest.json"])
    assert manifest["model"] == hashlib.sha256(MODEL.read_bytes()).hexdigest()
    with safe_open(MODEL, "numpy") as model:
        assert model.metadata() == {"run": manifest["run"], "transcript": manifest["transcript"]}
