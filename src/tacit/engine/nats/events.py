"""Where the engine says what happens: the methods of a structured log, and one that is silent."""

from __future__ import annotations

from typing import Any, Protocol

__all__ = ["Events", "Silence"]


class Events(Protocol):
    """A structured log; see ``tacit.service.logs``. Called from any thread."""

    def info(self, event: str, *, run: str = "", **fields: Any) -> None:
        """Something that happened as it should."""
        ...

    def warning(self, event: str, *, run: str = "", **fields: Any) -> None:
        """Something that an operator may want to look at."""
        ...

    def failure(self, event: str, error: BaseException, *, run: str = "", **fields: Any) -> None:
        """An exception."""
        ...


class Silence:
    """Writes nothing."""

    def info(self, event: str, *, run: str = "", **fields: Any) -> None:
        """Nothing."""

    def warning(self, event: str, *, run: str = "", **fields: Any) -> None:
        """Nothing."""

    def failure(self, event: str, error: BaseException, *, run: str = "", **fields: Any) -> None:
        """Nothing."""
