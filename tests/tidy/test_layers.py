"""The floors of the house and the import rules: import-linter keeps them, planted breaches show that it does."""

from __future__ import annotations

import ast
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SANS_IO = ("algebra", "wire", "secagg", "privacy", "ledger", "party")

PLANTED = {
    "algebra": ("import tacit.wire", "tacit.algebra.planted -> tacit.wire"),
    "secagg": ("import tacit.privacy", "tacit.secagg.planted -> tacit.privacy"),
    "wire": ("import tacit.testing", "tacit.wire.planted -> tacit.testing"),
    "privacy": ("import time", "tacit.privacy.planted -> time"),
    "party": ("import secrets", "tacit.party.planted -> secrets"),
    "ledger": ("import pickle", "tacit.ledger.planted -> pickle"),
    "connect": ("import torch", "tacit.connect.planted -> torch"),
    "engine": ("import nats", "tacit.engine.planted -> nats"),
    "evidence": ("import flwr", "tacit.evidence.planted -> flwr"),
    "policy": ("import fastapi", "tacit.policy.planted -> fastapi"),
}


def lint_imports(root: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [
            *(
                sys.executable,
                "-c",
                "from importlinter.cli import lint_imports_command as main; main()",
            ),
            *("--config", str(ROOT / "pyproject.toml"), "--no-cache", "--no-logo"),
        ],
        cwd=root,
        env={**os.environ, "PYTHONPATH": str(root / "src"), "COLUMNS": "200"},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture(scope="module")
def breaches(tmp_path_factory: pytest.TempPathFactory) -> str:
    """What import-linter says about a copy of the tree with one planted breach per rule."""
    root = tmp_path_factory.mktemp("house")
    shutil.copytree(
        ROOT / "src", root / "src", ignore=shutil.ignore_patterns("__pycache__", "*.egg-info")
    )
    for package, (line, _) in PLANTED.items():
        (root / "src" / "tacit" / package / "planted.py").write_text(f"{line}\n")
    (root / "src" / "tacit" / "stray.py").touch()
    with (root / "src" / "tacit" / "__init__.py").open("a") as file:
        file.write("\nimport tacit.testing\n")
    result = lint_imports(root)
    assert result.returncode == 1, result.stdout + result.stderr
    return " ".join(result.stdout.split())


def test_the_house_keeps_its_rules() -> None:
    result = lint_imports(ROOT)
    assert result.returncode == 0, result.stdout + result.stderr


@pytest.mark.parametrize("package", PLANTED)
def test_a_planted_import_is_reported(breaches: str, package: str) -> None:
    assert PLANTED[package][1] in breaches


def test_the_root_may_not_import_test_doubles_either(breaches: str) -> None:
    assert "tacit -> tacit.testing" in breaches


def test_a_module_outside_the_floors_is_reported(breaches: str) -> None:
    assert "tacit.stray" in breaches


def own_randomness(source: str) -> Iterator[int]:
    """Lines that reach for a generator which import-linter cannot see: numpy.random, os.urandom."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            if (node.value.id, node.attr) in (
                ("np", "random"),
                ("numpy", "random"),
                ("os", "urandom"),
            ):
                yield node.lineno
        elif isinstance(node, ast.ImportFrom):
            names = {alias.name for alias in node.names}
            from_numpy = node.module == "numpy" and "random" in names
            from_os = node.module == "os" and "urandom" in names
            if from_numpy or from_os or (node.module or "").startswith("numpy.random"):
                yield node.lineno
        elif isinstance(node, ast.Import) and any(
            alias.name.startswith("numpy.random") for alias in node.names
        ):
            yield node.lineno


def test_protocol_code_has_no_generator_of_its_own() -> None:
    found = [
        f"{path.relative_to(ROOT)}:{line}"
        for package in SANS_IO
        for path in sorted((ROOT / "src" / "tacit" / package).rglob("*.py"))
        for line in own_randomness(path.read_text("utf-8"))
    ]
    assert not found, "\n".join(found)


@pytest.mark.parametrize(
    "source",
    [
        "x = np.random.default_rng()",
        "import numpy.random",
        "from numpy import random",
        "from numpy.random import default_rng",
        "os.urandom(32)",
        "from os import urandom",
    ],
)
def test_a_planted_generator_is_found(source: str) -> None:
    assert list(own_randomness(source)) == [1]
