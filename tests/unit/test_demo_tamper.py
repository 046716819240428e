"""Tampering: every member and the zip's structure are tried, and an accepted flip would be shown."""

from __future__ import annotations

import pytest

from tacit.demo import tamper as module
from tacit.demo.evidence_part import show_tampering
from tacit.demo.screen import Screen
from tacit.demo.tamper import kind, tamper, trials_table
from tacit.evidence import Trust
from tacit.evidence.archive import unpack
from tacit.testing.bundles import SyntheticRun, sealed


@pytest.fixture(scope="module")
def run() -> SyntheticRun:
    return SyntheticRun().play()


@pytest.fixture(scope="module")
def bundle(run: SyntheticRun) -> bytes:
    return sealed(run, run.evidence())


@pytest.fixture(scope="module")
def trials(run: SyntheticRun, bundle: bytes) -> list[module.Trial]:
    trust = Trust.of(run.roster)
    assert module.verify_bundle(bundle, trust).exit_code == 0, "or nothing below would mean a thing"
    return tamper(bundle, trust)


def test_every_flip_is_refused(trials: list[module.Trial]) -> None:
    for trial in trials:
        assert trial.flips > 0
        assert trial.accepted == ()
        assert len(trial.reasons) == trial.flips == trial.record()["refused"]


def test_every_member_and_every_kind_is_tried(trials: list[module.Trial], bundle: bytes) -> None:
    members = {name: data for name, data in unpack(bundle).items() if data}
    in_members, in_structure, mended = trials
    assert set(in_members.reasons) == set(members)
    assert {kind(name) for name in mended.reasons} == {kind(name) for name in members}
    places = {place.split(",")[0] for place in in_structure.reasons}
    assert places == {"local header", "directory entry", "end record"}


def test_mended_archives_are_refused_for_what_they_hold(trials: list[module.Trial]) -> None:
    for place, reason in trials[2].reasons.items():
        assert "canonical archive" not in reason, place


def test_a_verifier_that_accepts_is_found_out(
    run: SyntheticRun, bundle: bytes, monkeypatch: pytest.MonkeyPatch, tmp_path
) -> None:
    (tmp_path / "bundle.zip").write_bytes(bundle)
    Trust.of(run.roster).write(tmp_path / "trust.json")
    good = module.verify_bundle(bundle, Trust.of(run.roster))
    monkeypatch.setattr(module, "verify_bundle", lambda _data, _trust: good)
    monkeypatch.setattr(module, "unpack", lambda _data: {"manifest.json": b"{}"})
    refused, figures = show_tampering(tmp_path, Screen(quiet=True))
    assert not refused
    assert [trial["refused"] for trial in figures] == [0, 0, 0]
    assert all(trial["accepted"] for trial in figures)


def test_the_table_counts(trials: list[module.Trial]) -> None:
    assert trials_table(trials).row_count == 3


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("manifest.json", "manifest.json"),
        ("transcript/r000007/upload-north.msg", "upload"),
        ("transcript/r000001/aggregate.bin", "aggregate"),
        ("logs/south.jsonl", "jsonl"),
        ("logs/south.checkpoint", "checkpoint"),
        ("transcript/accept-east.msg", "accept"),
    ],
)
def test_kinds(name: str, expected: str) -> None:
    assert kind(name) == expected
