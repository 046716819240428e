"""A clock that moves only when it is read, for tests."""

from __future__ import annotations

from tacit.types import Milliseconds

__all__ = ["FixedClock"]


class FixedClock:
    """Returns ``start``, ``start + step``, ... milliseconds since 1970-01-01 UTC."""

    def __init__(self, start: int = 1_700_000_000_000, step: int = 0) -> None:
        self._now = start
        self._step = step

    def __call__(self) -> Milliseconds:
        """The time now."""
        now, self._now = self._now, self._now + self._step
        return Milliseconds(now)

    def advance(self, milliseconds: int) -> None:
        """Moves the clock forward."""
        self._now += milliseconds
