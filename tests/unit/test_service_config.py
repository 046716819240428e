"""``service.toml``: defaults, where the federation's files are found, and one process for a folder."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tacit.errors import ConfigError
from tacit.service.config import ServiceConfig, only_process

HOLDER = """
import sys
from pathlib import Path
from tacit.service.config import only_process
with only_process(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


def federation(base: Path, folder: str) -> Path:
    party = base / folder
    party.mkdir(parents=True)
    (base / "federation.toml").touch()
    (base / "network.toml").touch()
    return party


@pytest.mark.parametrize("place", ["coordinator", "sites/north", "."])
def test_the_files_of_the_federation_are_found_in_the_folders_above(
    tmp_path: Path, place: str
) -> None:
    (tmp_path / "f").mkdir()
    party = (
        federation(tmp_path / "f", place) if place != "." else federation(tmp_path / "f" / "x", "")
    )
    config = ServiceConfig.load(party)
    assert config.federation.samefile(config.network.parent / "federation.toml")
    assert config.address is None
    assert config.file.limits.runs == 4


def test_three_folders_above_nothing_is_found(tmp_path: Path) -> None:
    party = federation(tmp_path, "a/b/c")
    with pytest.raises(ConfigError) as caught:
        ServiceConfig.load(party)
    assert caught.value.code == "service.file"


def test_named_files_come_before_near_ones_and_given_ones_before_both(tmp_path: Path) -> None:
    party = federation(tmp_path, "coordinator")
    for name in ("named.toml", "given.toml"):
        (party / name).touch()
    (party / "service.toml").write_text('federation = "named.toml"\nlisten = "[::1]:79"\n')
    config = ServiceConfig.load(party, network=party / "given.toml")
    assert (config.federation.name, config.network.name) == ("named.toml", "given.toml")
    assert config.address == ("::1", 79)
    (party / "named.toml").unlink()
    with pytest.raises(ConfigError, match=r"named\.toml"):
        ServiceConfig.load(party)


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ('listen = "7979"', "service.listen"),
        ('listen = "host:99999"', "service.listen"),
        ("port = 1", "config.unknown-key"),
        ("[limits]\nruns = 0", "config.value"),
        ("version = 2", "config.value"),
    ],
)
def test_wrong_keys_are_named(tmp_path: Path, text: str, code: str) -> None:
    party = federation(tmp_path, "coordinator")
    (party / "service.toml").write_text(text)
    with pytest.raises(ConfigError) as caught:
        ServiceConfig.load(party)
    assert caught.value.code == code


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        ServiceConfig.load(tmp_path / "nowhere")
    assert caught.value.code == "service.folder"


def test_a_folder_is_served_by_one_process(tmp_path: Path) -> None:
    command = [sys.executable, "-c", HOLDER, str(tmp_path)]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "held\n"
        with pytest.raises(ConfigError, match="another process serves"), only_process(tmp_path):
            pass
        other.kill()
    with only_process(tmp_path):
        pass
    with only_process(tmp_path):
        pass
