"""A training child that misbehaves on request: what a hostile model's code could do to its site.

The number of participations that the site hands over chooses the misdeed; without any it behaves.
"""

from __future__ import annotations

import os
import socket
import struct
import sys
import time
from typing import Any
from unittest import mock

from tacit.engine.training import child
from tacit.engine.training.protocol import Channel, Made, Train

__all__ = ["MISDEEDS"]

MISDEEDS = (
    *("behave", "crash", "hang", "garbage", "oversize", "draws", "raise", "short", "many-draws"),
)
"""By number of participations."""


class BadDesk(child.Desk):
    """A desk that trains badly."""

    def _train(self, asked: Train, arrays: tuple[bytearray, ...]) -> tuple[Any, list[Any]]:
        kind = MISDEEDS[asked.participations]
        channel: Channel = self._channel
        connection: socket.socket = channel._socket  # noqa: SLF001 - it speaks past the channel
        if kind == "crash":
            os._exit(3)
        if kind == "hang":
            time.sleep(1000)
        if kind == "garbage":
            connection.sendall(bytes(range(256)) * 4)
        if kind == "oversize":
            connection.sendall(struct.pack("<BBIQQQQ", 8, 1, 10, 2**50, 0, 0, 0))
        if kind == "raise":
            raise ValueError(f"a record: {self._data}")
        if kind == "short":
            return Made(True, asked.participations, False), [b"12"]
        if kind == "draws":
            child.AskedEntropy(channel).draw(2**30)
        if kind == "many-draws":
            for _ in range(10_000):
                child.AskedEntropy(channel).draw(0)
        return super()._train(asked, arrays)


if __name__ == "__main__":
    with mock.patch.object(child, "Desk", BadDesk):
        sys.exit(child.main())
