"""An independent witness as a process of its own, for tests."""

from __future__ import annotations

import http.client
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

from tacit.engine.witnesses import WitnessTable
from tacit.ledger.submission import Submission
from tacit.types import Digest

__all__ = ["Running"]

SOURCE = Path(__file__).parents[2]


class Running:
    """A witness that runs, and what it says."""

    def __init__(self, folder: Path, *rosters: Path) -> None:
        self.folder = folder
        options = [word for roster in rosters for word in ("--roster", str(roster))]
        command = [sys.executable, "-m", "tacit.cli", "witness", str(folder), *options]
        command += ["--listen", "127.0.0.1:0", "--json"]
        environment = {**os.environ, "PYTHONPATH": str(SOURCE)}
        self.process = subprocess.Popen(  # noqa: S603 - this interpreter
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
        )
        self.who = self.said()
        self.table = WitnessTable(name=self.who["name"], url=self.who["url"], key=self.who["key"])

    def said(self) -> dict[str, Any]:
        """The next line of what it says."""
        assert self.process.stdout is not None
        line: dict[str, Any] = json.loads(self.process.stdout.readline())
        return line

    def ask(
        self, method: str, path: str, body: bytes = b"", **headers: str
    ) -> tuple[int, str, bytes]:
        """Status, type and body of an answer."""
        connection = http.client.HTTPConnection(self.who["url"].removeprefix("http://"), timeout=10)
        connection.request(method, path, body, headers)
        answer = connection.getresponse()
        found = answer.status, answer.getheader("Content-Type", ""), answer.read()
        connection.close()
        return found

    def add(self, old: int, proof: tuple[bytes, ...], note: bytes) -> tuple[int, str, bytes]:
        """Submits a checkpoint."""
        return self.ask(
            "POST", "/add-checkpoint", Submission(old, tuple(map(Digest, proof)), note).encode()
        )

    def end(self, number: int = signal.SIGTERM) -> tuple[int, str]:
        """Sends a signal; exit code and what stands on standard error."""
        self.process.send_signal(number)
        _, errors = self.process.communicate(timeout=20)
        return self.process.returncode, errors
