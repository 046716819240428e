"""Writing a bundle: deterministic, whole or absent, and only what belongs into it."""

from __future__ import annotations

import errno
import os
from dataclasses import replace

import pytest

from tacit.errors import DecodeError, LocalProtocolError, TransportError
from tacit.evidence import layout
from tacit.evidence.archive import unpack
from tacit.evidence.bundle import BundleWriter
from tacit.evidence.dsse import Statement, sign_statement
from tacit.evidence.head import Head
from tacit.ledger.record import LogRecord
from tacit.testing.bundles import SITES, SyntheticRun
from tacit.wire.envelope import digest


@pytest.fixture(scope="module")
def run() -> SyntheticRun:
    return SyntheticRun().begin().round(1).record()


def test_the_same_run_gives_the_same_bytes(run, tmp_path) -> None:
    first = run.write(tmp_path / "first.zip", complete=False)
    again = SyntheticRun().begin().round(1).record().write(tmp_path / "again.zip", complete=False)
    assert first.read_bytes() == again.read_bytes()


def test_manifest_lists_every_other_member(run, tmp_path) -> None:
    members = unpack(run.write(tmp_path / "bundle.zip", complete=False).read_bytes())
    head = Head.from_canonical(members[layout.MANIFEST])
    assert set(head.files) == set(members) - {layout.MANIFEST, layout.SIGNATURE}
    assert all(digest(members[name]).hex() == known for name, known in head.files.items())
    assert (head.status, head.model, head.run) == ("partial", "", run.run.hex())


@pytest.mark.parametrize("call", ["write", "fsync", "replace"])
def test_a_full_disk_leaves_nothing_behind(run, tmp_path, monkeypatch, call) -> None:
    def full(*_args, **_kwargs):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    if call == "write":
        real = os.fdopen

        def fdopen(*args, **kwargs):
            file = real(*args, **kwargs)

            class Full:
                def __enter__(self):
                    return self

                def __exit__(self, *_):
                    file.close()

                def write(self, data):
                    file.write(data[:100])
                    full()

            return Full()

        monkeypatch.setattr("tacit.files.os.fdopen", fdopen)
    else:
        monkeypatch.setattr(f"tacit.files.os.{call}", full)
    with pytest.raises(TransportError) as caught:
        run.write(tmp_path / "bundle.zip", complete=False)
    assert caught.value.code == "file.write"
    assert list(tmp_path.iterdir()) == []


def test_a_failed_write_keeps_the_bundle_that_was_there(run, tmp_path, monkeypatch) -> None:
    path = run.write(tmp_path / "bundle.zip", complete=False)
    before = path.read_bytes()

    def full(*_args):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("tacit.files.os.fsync", full)
    with pytest.raises(TransportError):
        run.write(path, complete=True)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    "name",
    ["other.txt", "manifest.json", "manifest.sig", "transcript/r1/key-a.msg", "logs/A.jsonl", ""],
)
def test_what_does_not_belong_is_refused(run, name: str) -> None:
    with pytest.raises(LocalProtocolError):
        BundleWriter(run.roster, run.run).add(name, b"")


@pytest.mark.parametrize(
    "simulated",
    [("a\x1b[2Jb",), ("two\nlines",), ("\u202eright to left",), ("x" * 501,), ("x",) * 65],
)
def test_what_was_simulated_is_told_in_plain_short_lines(run, tmp_path, simulated) -> None:
    with pytest.raises(LocalProtocolError):
        run.write(tmp_path / "bundle.zip", complete=False, simulated=simulated)
    assert list(tmp_path.iterdir()) == []
    head = Head("synthetic", run.run.hex(), "partial", "", "00" * 32, simulated, {})
    with pytest.raises(DecodeError):
        Head.from_canonical(head.canonical())
    told = ("the sites' data: synthetic, drawn from a seed",)
    assert Head.from_canonical(replace(head, simulated=told).canonical()).simulated == told


def test_a_member_is_added_once(run) -> None:
    writer = BundleWriter(run.roster, run.run)
    writer.add_log(SITES[0], LogRecord(b"events", b"proof"), b"checkpoint")
    writer.add_log(SITES[0], LogRecord(b"events", b"proof"), b"checkpoint")
    with pytest.raises(LocalProtocolError):
        writer.add_log(SITES[0], LogRecord(b"other", b"proof"), b"checkpoint")


def test_the_manifest_comes_before_its_signatures(run, tmp_path) -> None:
    writer = BundleWriter(run.roster, run.run)
    with pytest.raises(LocalProtocolError, match="before"):
        writer.write(tmp_path / "bundle.zip", [])
    assert list(tmp_path.iterdir()) == []


def test_reports_of_others_are_added_by_name(run) -> None:
    writer = BundleWriter(run.roster, run.run)
    keys = [(run.origin(SITES[0]), run.identities[SITES[0]])]
    report = sign_statement(Statement("attack-report", (("transcript", "00" * 32),), {}), keys)
    writer.add_statement("attack-report", report)
    assert writer.members[layout.statement("attack-report")] == report
    for name, envelope in (("run", report), ("audit", report)):
        with pytest.raises(LocalProtocolError):
            writer.add_statement(name, envelope)
    for name, envelope in (("attestation", report), ("attestation", b"{}")):
        with pytest.raises(DecodeError):
            writer.add_statement(name, envelope)
