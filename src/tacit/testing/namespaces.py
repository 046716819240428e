"""A network namespace with one cable to this machine, which can be cut and mended; for root on Linux."""

from __future__ import annotations

import os
import shutil
import subprocess
from itertools import count
from typing import Self

__all__ = ["Namespace", "has_namespaces"]

WAIT_S = 10.0


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True, timeout=WAIT_S)  # noqa: S603, S607


def has_namespaces() -> bool:
    """Whether this process may make network namespaces."""
    if shutil.which("ip") is None or os.geteuid() != 0:
        return False
    try:
        with Namespace():
            return True
    except subprocess.CalledProcessError:
        return False


MADE = count()


class Namespace:
    """A namespace, removed with the block.

    Attributes:
        host: This machine's address at the near end of the cable.
        words: What to put before a command that shall run inside.
    """

    def __init__(self) -> None:
        # The kernel removes an earlier one in its own time: no name is used twice.
        number = (os.getpid() * 8 + next(MADE)) % 50_000
        self._name, self._near, self._far = f"tacit{number}", f"tn{number}", f"tf{number}"
        network = f"10.{77 + number // 250 // 250}.{number // 250 % 250}.{number % 250 // 4 * 4}"
        first, _, last = network.rpartition(".")
        self.host, self._inside = f"{first}.{int(last) + 1}", f"{first}.{int(last) + 2}"
        self.words = ("ip", "netns", "exec", self._name)

    def __enter__(self) -> Self:
        _ip("netns", "add", self._name)
        try:
            far = ("peer", "name", self._far, "netns", self._name)
            _ip("link", "add", self._near, "type", "veth", *far)
            _ip("addr", "add", f"{self.host}/30", "dev", self._near)
            _ip("link", "set", self._near, "up")
            inside = ("-n", self._name)
            _ip(*inside, "addr", "add", f"{self._inside}/30", "dev", self._far)
            _ip(*inside, "link", "set", "lo", "up")
            _ip(*inside, "link", "set", self._far, "up")
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        # The cable goes with its far end.
        _ip("netns", "del", self._name)

    def cut(self) -> None:
        """Nothing comes through, and nobody is told."""
        _ip("-n", self._name, "link", "set", self._far, "down")

    def mend(self) -> None:
        """As before."""
        _ip("-n", self._name, "link", "set", self._far, "up")
