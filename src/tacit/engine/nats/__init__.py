"""The distributed engine: parties as processes, connected by NATS with JetStream."""

from __future__ import annotations

import contextlib
import sys

__all__: list[str] = []


def _without_websockets() -> None:
    """Imports the client without what only its WebSocket transport needs.

    That is a fifth of the time in which a process starts, and Tacit's connections are TCP and TLS.
    """
    if "nats" in sys.modules or "aiohttp" in sys.modules:
        return
    sys.modules["aiohttp"] = None  # type: ignore[assignment]
    try:
        with contextlib.suppress(ImportError):
            import nats.aio.transport  # noqa: F401, PLC0415
    finally:
        del sys.modules["aiohttp"]


_without_websockets()
