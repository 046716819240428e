"""A ``Store`` in memory that can refuse writes and survive crashes, for tests."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from tacit.errors import LocalProtocolError, TransportError

__all__ = ["MemoryStore"]

Spaces = dict[str, dict[str, bytes]]


class MemoryStore:
    """Byte values by space and key, durable across ``crash``.

    A nested transaction joins the outer one; an exception undoes the writes of every block that it
    leaves.

    Args:
        fail_after: How many further steps succeed, where a step is a put, a delete or the commit of
            a transaction that wrote; later ones raise ``TransportError``. None: all succeed. May be
            set at any time; counting it up from 0 visits every point at which a disk can fail.

    Attributes:
        commits: How many transactions that wrote were committed.
    """

    def __init__(self, *, fail_after: int | None = None) -> None:
        self.fail_after = fail_after
        self.commits = 0
        self._committed: Spaces = {}
        self._working: Spaces | None = None
        self._written = False

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """One atomic unit of work; nested blocks join the outer one."""
        outer, written = self._working, self._written
        self._working = _copy(self._committed if outer is None else outer)
        try:
            yield
            if outer is None and self._written:
                self._step()
                self._committed = self._working
                self.commits += 1
        except BaseException:
            self._working, self._written = outer, written
            raise
        if outer is None:
            self._working, self._written = None, False

    def get(self, space: str, key: str) -> bytes | None:
        """The value, or None; inside a transaction its own writes are visible."""
        return self._current().get(space, {}).get(key)

    def put(self, space: str, key: str, value: bytes) -> None:
        """Writes one value.

        Raises:
            LocalProtocolError: Outside a transaction.
            TransportError: The injected fault.
        """
        self._open().setdefault(space, {})[key] = bytes(value)

    def delete(self, space: str, key: str) -> None:
        """Removes one value, if present.

        Raises:
            LocalProtocolError: Outside a transaction.
            TransportError: The injected fault.
        """
        self._open().get(space, {}).pop(key, None)

    def items(self, space: str, prefix: str = "") -> Iterator[tuple[str, bytes]]:
        """The pairs whose key begins with ``prefix``, in key order, as they were at the call."""
        pairs = self._current().get(space, {}).items()
        return iter(sorted(pair for pair in pairs if pair[0].startswith(prefix)))

    def crash(self) -> MemoryStore:
        """What a restarted process finds: the committed values only, on a medium that works."""
        survivor = MemoryStore()
        survivor._committed = _copy(self._committed)
        return survivor

    def dump(self) -> list[bytes]:
        """Every committed value: what a thief finds on the disk."""
        return [value for space in self._committed.values() for value in space.values()]

    def _current(self) -> Spaces:
        return self._committed if self._working is None else self._working

    def _open(self) -> Spaces:
        if self._working is None:
            raise LocalProtocolError("store.no-transaction", "a write outside a transaction")
        self._step()
        self._written = True
        return self._working

    def _step(self) -> None:
        if self.fail_after is None:
            return
        if self.fail_after <= 0:
            raise TransportError("store.write", "the store refused a write (injected fault)")
        self.fail_after -= 1


def _copy(spaces: Spaces) -> Spaces:
    return {space: dict(values) for space, values in spaces.items()}
