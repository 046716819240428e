from __future__ import annotations

import stat
from datetime import UTC, datetime
from pathlib import Path

import pytest

from tacit.connect import KeyFolder, keys
from tacit.connect.keys import period_label
from tacit.errors import ConfigError
from tacit.trust.identity import read_private
from tacit.types import Milliseconds


def at(year: int, month: int) -> Milliseconds:
    return Milliseconds(int(datetime(year, month, 15, tzinfo=UTC).timestamp() * 1000))


def test_a_key_is_made_once_and_is_private(tmp_path: Path) -> None:
    folder = KeyFolder(tmp_path / "data")
    key = folder.key("research", "2026")
    assert len(key) == 32
    assert KeyFolder(tmp_path / "data").key("research", "2026") == key
    (path,) = (tmp_path / "data").iterdir()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert key.hex() not in repr(folder)


def test_purposes_and_periods_have_keys_of_their_own(tmp_path: Path) -> None:
    folder = KeyFolder(tmp_path)
    asked = [(p, t) for p in ("research", "Research!", "billing") for t in ("always", "2026-Q1")]
    keys = [folder.key(purpose, period) for purpose, period in asked]
    assert len(set(keys)) == len(asked)
    assert [folder.key(purpose, period) for purpose, period in asked] == keys
    assert len(folder.names()) == len(asked)


def test_a_destroyed_key_stays_destroyed(tmp_path: Path) -> None:
    folder = KeyFolder(tmp_path)
    folder.key("research", "always")
    kept = folder.key("billing", "always")
    folder.destroy("research", "always")
    for _ in range(2):
        with pytest.raises(ConfigError, match="was destroyed on purpose"):
            KeyFolder(tmp_path).key("research", "always")
    assert folder.key("billing", "always") == kept
    with pytest.raises(ConfigError, match="there is no key"):
        folder.destroy("research", "always")


def test_a_damaged_key_is_refused(tmp_path: Path) -> None:
    folder = KeyFolder(tmp_path)
    folder.key("research", "always")
    (path,) = tmp_path.iterdir()
    path.write_bytes(b"short")
    with pytest.raises(ConfigError, match="must hold exactly 32 bytes"):
        folder.key("research", "always")
    path.chmod(0o644)
    with pytest.raises(ConfigError):
        folder.key("research", "always")


def test_periods_follow_the_calendar_in_utc() -> None:
    assert period_label("none", at(2026, 5)) == "always"
    assert period_label("year", at(2026, 5)) == "2026"
    assert [period_label("quarter", at(2026, month)) for month in (1, 3, 4, 12)] == [
        "2026-Q1",
        "2026-Q1",
        "2026-Q2",
        "2026-Q4",
    ]
    assert period_label("month", at(2026, 5)) == "2026-05"


def test_a_key_that_is_destroyed_while_another_is_made_is_not_used(tmp_path: Path) -> None:
    def draw(size: int) -> bytes:
        # Another process makes the key, and an operator destroys it.
        other = KeyFolder(tmp_path)
        other.key("research", "always")
        other.destroy("research", "always")
        return bytes(range(size))

    with pytest.raises(ConfigError, match="was destroyed on purpose"):
        KeyFolder(tmp_path, draw).key("research", "always")


def test_the_zeros_over_a_destroyed_key_are_no_key(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = KeyFolder(tmp_path)
    folder.key("research", "always")

    def late(path: Path) -> bytes:
        # In the middle of ``destroy``: the mark is there, the file is not removed yet.
        path.with_suffix(".destroyed").touch()
        path.write_bytes(bytes(32))
        return read_private(path)

    monkeypatch.setattr(keys, "read_private", late)
    with pytest.raises(ConfigError, match="was destroyed on purpose"):
        folder.key("research", "always")
