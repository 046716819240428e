"""One flipped byte at a time, all over a bundle: the verifier must refuse every one.

Flips in the file show that nothing in it is without meaning. An attacker who knows the format would
also mend the archive's checksums; that is tried on one member of every kind, so that the refusal has
to come from digests and signatures.
"""

from __future__ import annotations

import io
import zipfile
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from rich.table import Table

from tacit.errors import DecodeError
from tacit.evidence import layout
from tacit.evidence.archive import pack, unpack
from tacit.evidence.report import Status
from tacit.evidence.trust import Trust
from tacit.evidence.verify import verify_bundle
from tacit.show import table

__all__ = ["Trial", "kind", "tamper", "trials_table"]

LOCAL_HEADER, DIRECTORY_ENTRY, END_RECORD = 30, 46, 22
"""Sizes without the name, PKWARE APPNOTE 6.3 sections 4.3.7, 4.3.12 and 4.3.16."""

FLIP = 0x01


@dataclass(frozen=True, slots=True)
class Trial:
    """All flips in one part of the bundle.

    Args:
        part: What was changed, in words.
        flips: How many single bytes were flipped, each in a fresh copy.
        accepted: Where the verifier noticed nothing; empty if all is well.
        reasons: What the verifier said, by place.
    """

    part: str
    flips: int
    accepted: tuple[str, ...]
    reasons: Mapping[str, str]

    def record(self) -> dict[str, Any]:
        """For scripts."""
        return {
            "part": self.part,
            "flips": self.flips,
            "refused": self.flips - len(self.accepted),
            "accepted": list(self.accepted),
            "first_refusal": next(iter(self.reasons.values()), ""),
        }


def tamper(
    bundle: bytes,
    trust: Trust,
    on_progress: Callable[[float, str], None] = lambda _share, _part: None,
) -> list[Trial]:
    """Flips one byte in every member and in every byte of the zip structure around the first one.

    Args:
        bundle: A bundle that verifies.
        trust: The auditor's trust file.
        on_progress: Called with the share done, 0 to 1, and the part that comes.
    """
    members = unpack(bundle)
    parts = {
        "each member": _in_members(bundle),
        "zip structure": _in_structure(bundle),
        "each kind, checksums mended": _mended(members),
    }
    trials = []
    for number, (part, variants) in enumerate(parts.items()):
        on_progress(number / len(parts), f"one byte flipped in {part}")
        trials.append(_try(part, variants, trust))
    return trials


def trials_table(trials: Iterable[Trial]) -> Table:
    """The result for people."""
    rows = [
        (
            trial.part,
            str(trial.flips),
            str(trial.flips - len(trial.accepted)),
            next(iter(trial.reasons.values()), "-"),
        )
        for trial in trials
    ]
    return table("", ("one byte flipped in", "flips", "refused", "first refusal"), rows)


def kind(name: str) -> str:
    """What sort of member this is: the same for all parties and rounds."""
    place = layout.place(name)
    if place is not None:
        return place.type
    if layout.closed_round(name) is not None:
        return "aggregate"
    return name.rpartition(".")[2] if layout.log_party(name) is not None else name


Variants = Iterable[tuple[str, bytes]]


def _try(part: str, variants: Variants, trust: Trust) -> Trial:
    flips, accepted, reasons = 0, [], {}
    for place, data in variants:
        flips += 1
        reason = _refusal(data, trust)
        if reason is None:
            accepted.append(place)
        else:
            reasons[place] = reason
    return Trial(part, flips, tuple(accepted), reasons)


def _refusal(data: bytes, trust: Trust) -> str | None:
    """Why the verifier refuses a bundle; None if it does not.

    Unpacking is the verifier's first step, and decides alone when it fails; so it comes first here.
    """
    try:
        unpack(data)
    except DecodeError as error:
        return f"integrity: {error.message}"
    report = verify_bundle(data, trust)
    if report.exit_code == 0:
        return None
    failed = [claim for claim in report.claims if claim.status is Status.FAIL]
    failed += [claim for claim in report.claims if claim.id in report.required]
    return f"{failed[0].id}: {failed[0].reason}"


def _flipped(data: bytes, offset: int) -> bytes:
    changed = bytearray(data)
    changed[offset] ^= FLIP
    return bytes(changed)


def _in_members(bundle: bytes) -> Variants:
    """The middle byte of every member."""
    for info in _directory(bundle).infolist():
        start = info.header_offset + LOCAL_HEADER + len(info.filename)
        if info.file_size:
            yield info.filename, _flipped(bundle, start + info.file_size // 2)


def _in_structure(bundle: bytes) -> Variants:
    """Every byte of the first local header, of the first directory entry and of the end record."""
    archive = _directory(bundle)
    first = archive.infolist()[0]
    name = len(first.filename)
    spans = (
        ("local header", first.header_offset, LOCAL_HEADER + name),
        ("directory entry", archive.start_dir, DIRECTORY_ENTRY + name),
        ("end record", len(bundle) - END_RECORD, END_RECORD),
    )
    for part, start, size in spans:
        for offset in range(size):
            yield f"{part}, byte {offset}", _flipped(bundle, start + offset)


def _mended(members: Mapping[str, bytes]) -> Variants:
    """The middle byte of the first member of every kind, in an archive that is canonical again."""
    seen: set[str] = set()
    for name, data in members.items():
        if kind(name) not in seen and data:
            seen.add(kind(name))
            yield name, pack({**members, name: _flipped(data, len(data) // 2)})


def _directory(bundle: bytes) -> zipfile.ZipFile:
    return zipfile.ZipFile(io.BytesIO(bundle))
