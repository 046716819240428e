"""What became of one attack under one defence, and the folder that keeps it: an interrupted suite goes on."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tacit.attack.codec import decode, encode
from tacit.attack.defences import DEFENCES, Defence
from tacit.attack.findings import Findings
from tacit.attack.registry import Cell
from tacit.errors import ConfigError, DecodeError, TransportError
from tacit.files import read_limited, write_atomic

__all__ = ["CellResult", "CellStore", "Failure"]

LIMIT = 64 * 1024 * 1024
FORMAT = 1


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a cell has no findings.

    Args:
        reason: One line for people.
        trace: The whole story for developers; may be empty.
    """

    reason: str
    trace: str = ""


@dataclass(frozen=True, slots=True)
class CellResult:
    """One attack under one defence: its findings, or why there are none.

    ``mirrored`` if it was not run there: the column shares a run with another one, and who looks makes no
    difference to the attack. It is never kept on its own.
    """

    attack: str
    row: str
    defence: Defence
    seconds: float
    outcome: Findings | Failure
    mirrored: bool = False

    @property
    def findings(self) -> Findings | None:
        """The findings, if there are any."""
        return self.outcome if isinstance(self.outcome, Findings) else None

    @property
    def reason(self) -> str:
        """Why nothing was measured; empty where something was."""
        if isinstance(self.outcome, Failure):
            return self.outcome.reason
        if self.outcome.measured:
            return ""
        return " ".join(self.outcome.notes) or "the attack returned no figure"

    def record(self) -> dict[str, Any]:
        """As plain JSON.

        Raises:
            ValueError: Findings that JSON has no form for.
        """
        failure = self.outcome if isinstance(self.outcome, Failure) else None
        return {
            "format": FORMAT,
            "attack": self.attack,
            "row": self.row,
            "defence": self.defence,
            "seconds": self.seconds,
            "findings": None if self.findings is None else encode(self.findings),
            "failure": None
            if failure is None
            else {"reason": failure.reason, "trace": failure.trace},
        }

    @classmethod
    def from_record(cls, record: Any) -> CellResult:
        """Reads what ``record`` made.

        Raises:
            DecodeError: It is anything else.
        """
        try:
            if record["format"] != FORMAT or record["defence"] not in DEFENCES:
                raise ValueError("an unknown format or defence")
            failure = record["failure"]
            return cls(
                attack=str(record["attack"]),
                row=str(record["row"]),
                defence=record["defence"],
                seconds=float(record["seconds"]),
                outcome=decode(record["findings"])
                if failure is None
                else Failure(str(failure["reason"]), str(failure["trace"])),
            )
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise DecodeError("attack.cell", f"not the result of an attack: {error}") from error


@dataclass(frozen=True, slots=True)
class CellStore:
    """A folder with one file a cell, each whole or absent.

    Args:
        folder: The folder; made with the first result.
        digest: What results must agree on to be used again, as hexadecimal digits.
        private: Whether only the owner may read what is kept.
    """

    folder: Path
    digest: str
    private: bool = False

    def read(self, cell: Cell) -> CellResult | None:
        """The kept findings of a cell; None where there are none of this very setting.

        A failure is not kept: the next run tries again.
        """
        try:
            content = json.loads(read_limited(self._path(cell.name), LIMIT))
            if not isinstance(content, Mapping) or content.get("digest") != self.digest:
                return None
            result = CellResult.from_record(content["result"])
        except (ConfigError, DecodeError, KeyError, ValueError, RecursionError):
            return None
        attack = cell.entry.attack
        same = (result.attack, result.row, result.defence) == (
            attack.name,
            attack.row,
            cell.defence,
        )
        return result if same and result.findings is not None else None

    def write(self, result: CellResult) -> None:
        """Keeps a result.

        Raises:
            TransportError: The disk refuses the write; nothing is left behind.
        """
        content = {"digest": self.digest, "result": result.record()}
        try:
            self.folder.mkdir(mode=0o700 if self.private else 0o777, parents=True, exist_ok=True)
        except OSError as error:
            raise TransportError(
                "file.write",
                f"cannot make {self.folder}: {error.strerror}",
                remedy="check the folder, its permissions and its free space, then try again",
                file=str(self.folder),
            ) from error
        data = json.dumps(content, allow_nan=False).encode()
        path = self._path(f"{result.attack}-{result.defence}")
        write_atomic(path, data, private=self.private)

    def _path(self, name: str) -> Path:
        return self.folder / f"{name}.json"
