from __future__ import annotations

from pathlib import Path

import pytest

from tacit.demo.layout import Place, lock_site, write_keys
from tacit.engine.folder import SiteFolder, World
from tacit.errors import ConfigError
from tacit.testing.federation import seeded_world
from tacit.testing.policies import write_site_folder
from tacit.trust.roster import Roster
from tacit.types import Milliseconds


def open_site(folder: Path) -> tuple[SiteFolder, Roster, World]:
    """A site of a federation of one, with its policy approved by its operator."""
    site = folder / "sites" / "north"
    write_site_folder(site)
    text = (site / "site.toml").read_text()
    (site / "site.toml").write_text(text[: text.index("[policy]")])
    roster = write_keys(folder, "small", [Place("north", "clinic", "eu", "csv")])
    return SiteFolder.load(site), roster, seeded_world(0)


def no_model(*_: object) -> object:
    raise AssertionError("no model is loaded")


def test_a_run_needs_the_approved_policy(tmp_path: Path) -> None:
    folder, roster, world = open_site(tmp_path)
    site, _ = folder.parties(roster, no_model, world)  # type: ignore[arg-type]
    assert site.address.party == "north"
    rules = folder.path / "policies" / "rules.cedar"
    rules.write_text(rules.read_text().replace("2000", "9000"))
    altered = SiteFolder.load(folder.path)
    with pytest.raises(ConfigError) as caught:
        altered.parties(roster, no_model, world)  # type: ignore[arg-type]
    assert caught.value.code == "policy.altered"
    lock_site(folder.path)
    altered.parties(roster, no_model, world)  # type: ignore[arg-type]
    (folder.path / "policy.lock").unlink()
    with pytest.raises(ConfigError) as caught:
        altered.parties(roster, no_model, world)  # type: ignore[arg-type]
    assert caught.value.code == "policy.unlocked"


def test_a_clock_before_the_lock_is_refused(tmp_path: Path) -> None:
    folder, roster, world = open_site(tmp_path)
    early = World(world.entropy, world.sealing, clock=lambda: Milliseconds(0))
    with pytest.raises(ConfigError) as caught:
        folder.parties(roster, no_model, early)  # type: ignore[arg-type]
    assert caught.value.code == "policy.clock"


def test_a_site_file_without_approvers_is_refused(tmp_path: Path) -> None:
    folder, _, _ = open_site(tmp_path)
    text = (folder.path / "site.toml").read_text()
    (folder.path / "site.toml").write_text(
        text[: text.index("[policy]")] + text[text.index("[budget]") :]
    )
    with pytest.raises(ConfigError, match="key 'policy' is missing"):
        SiteFolder.load(folder.path)
