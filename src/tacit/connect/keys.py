"""Keys of tokens, format-preserving encryption and date shifts: one for each purpose and period.

A key is random, belongs to nothing else and is derived from nothing: destroying it destroys what its
tokens tell, in every copy of the data.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Protocol

from tacit.errors import ConfigError
from tacit.files import write_atomic
from tacit.policy.transform import Period
from tacit.trust.identity import read_private
from tacit.types import Milliseconds

__all__ = ["KEY_BYTES", "DataKeys", "KeyFolder", "period_label"]

KEY_BYTES = 32
_SLUG = re.compile(r"[^a-z0-9]+")


class DataKeys(Protocol):
    """Where the keys of keyed methods come from."""

    def key(self, purpose: str, period: str) -> bytes:
        """The key of one purpose and period, 32 bytes; the same whenever it is asked for.

        Raises:
            ConfigError: It was destroyed, or cannot be read.
        """
        ...


def period_label(period: Period, at: Milliseconds) -> str:
    """The period that a time falls into: ``always``, ``2026``, ``2026-Q4`` or ``2026-11`` (UTC)."""
    day = datetime.fromtimestamp(at / 1000, UTC)
    match period:
        case "year":
            return f"{day.year}"
        case "quarter":
            return f"{day.year}-Q{(day.month + 2) // 3}"
        case "month":
            return f"{day.year}-{day.month:02}"
        case _:
            return "always"


class KeyFolder:
    """Keys as files ``PURPOSE-DIGEST@PERIOD.key`` (mode 0600) of one folder, made when first needed.

    Args:
        folder: Where they lie; made when the first key is.
        draw: Source of new keys; the operating system's generator unless a test says otherwise.

    Guarantee:
        A destroyed key is never made again: to whoever holds tokens and everything else, they are then
        random names (HMAC and AES under a lost random key).
        Checked by tests/unit/test_connect_keys.py::test_a_destroyed_key_stays_destroyed.
    """

    def __init__(self, folder: Path, draw: Callable[[int], bytes] = os.urandom) -> None:
        self._folder = folder
        self._draw = draw

    def __repr__(self) -> str:
        return f"KeyFolder({self._folder})"

    def key(self, purpose: str, period: str) -> bytes:
        """See ``DataKeys.key``."""
        path = self._path(purpose, period)
        if _tombstone(path).exists():
            raise _destroyed(path, purpose, period)
        if not path.exists():
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            try:
                write_atomic(path, self._draw(KEY_BYTES), private=True, replace=False)
            except ConfigError:
                if not path.exists():  # Otherwise another process was faster: its key counts.
                    raise
        key = read_private(path)
        if _tombstone(path).exists():
            # Destroyed meanwhile: these may be the zeros that were written over it, or a key made since.
            raise _destroyed(path, purpose, period)
        if len(key) != KEY_BYTES:
            raise ConfigError(
                "connect.key",
                f"{path} must hold exactly {KEY_BYTES} bytes",
                remedy="restore it from a backup; a new key makes new tokens",
                file=str(path),
            )
        return key

    def holds(self, purpose: str, period: str) -> bool:
        """Whether there is such a key."""
        return self._path(purpose, period).exists()

    def names(self) -> tuple[str, ...]:
        """File names of the keys that exist, sorted."""
        return tuple(sorted(path.name for path in self._folder.glob("*.key")))

    def destroy(self, purpose: str, period: str) -> None:
        """Destroys one key for good and leaves a mark that it was.

        The file's content is overwritten before it is removed; what a disk or a backup keeps is
        beyond this program.

        Raises:
            ConfigError: There is no such key.
        """
        path = self._path(purpose, period)
        if not path.exists():
            raise ConfigError(
                "connect.no-key",
                f"there is no key of purpose '{purpose}' and period '{period}'",
                remedy=f"the keys are: {', '.join(self.names()) or 'none'}",
                file=str(path),
            )
        write_atomic(_tombstone(path), b"")
        with path.open("r+b") as file:
            file.write(bytes(KEY_BYTES))
            file.flush()
            os.fsync(file.fileno())
        path.unlink()

    def _path(self, purpose: str, period: str) -> Path:
        slug = _SLUG.sub("-", purpose.lower()).strip("-")[:40] or "purpose"
        unique = hashlib.sha256(purpose.encode()).hexdigest()[:32]
        return self._folder / f"{slug}-{unique}@{period}.key"


def _destroyed(path: Path, purpose: str, period: str) -> ConfigError:
    return ConfigError(
        "connect.key-destroyed",
        f"the key of purpose '{purpose}' and period '{period}' was destroyed on purpose",
        remedy="ask for another purpose or period; old tokens cannot be made again",
        file=str(path),
    )


def _tombstone(path: Path) -> Path:
    return path.with_suffix(".destroyed")
