"""The files in ``deploy``: accepted by the tools that read them, and hardened."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

DEPLOY = Path(__file__).parents[2] / "deploy"
UNITS = sorted((DEPLOY / "systemd").glob("*.service"))
HARDENED = ("NoNewPrivileges=yes", "ProtectSystem=strict", "CapabilityBoundingSet=", "User=tacit")


def run(*command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def test_every_role_has_a_unit() -> None:
    assert [unit.stem for unit in UNITS] == ["tacit-coordinator", "tacit-helper", "tacit-site"]


@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.stem)
def test_systemd_accepts_the_unit(unit: Path) -> None:
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd-analyze is not installed")
    found = run("systemd-analyze", "verify", "--man=no", str(unit))
    told = [line for line in found.stderr.splitlines() if unit.name in line]
    assert found.returncode == 0, found.stderr
    assert not told, told


@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.stem)
def test_the_unit_is_hardened(unit: Path) -> None:
    lines = unit.read_text().splitlines()
    assert set(HARDENED) <= set(lines)


def test_containers_are_hardened_and_publish_no_port() -> None:
    services = yaml.safe_load((DEPLOY / "container" / "compose.yaml").read_text())["services"]
    assert set(services) == {"coordinator", "site", "helper"}
    for service in services.values():
        assert service["read_only"] is True
        assert service["cap_drop"] == ["ALL"]
        assert service["security_opt"] == ["no-new-privileges:true"]
        assert "ports" not in service


def test_compose_accepts_the_file() -> None:
    if shutil.which("docker") is None or run("docker", "compose", "version").returncode:
        pytest.skip("docker compose is not installed")
    file = str(DEPLOY / "container" / "compose.yaml")
    found = run("docker", "compose", "-f", file, "--profile", "site", "config", "--quiet")
    assert found.returncode == 0, found.stderr


def test_docker_accepts_the_image() -> None:
    checked = ("docker", "build", "--check", "-f", str(DEPLOY / "container" / "Dockerfile"))
    if shutil.which("docker") is None or run("docker", "info").returncode:
        pytest.skip("no docker daemon runs here")
    found = run(*checked, str(DEPLOY.parent))
    if "unknown flag" in found.stderr:
        pytest.skip("this docker has no build checks")
    assert found.returncode == 0, found.stderr
