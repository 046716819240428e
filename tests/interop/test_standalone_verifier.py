"""The verifier in one file: it needs nothing of Tacit, and decides as the library does."""

from __future__ import annotations

import ast
import json
import os
import random
import re
import subprocess
import sys

import pytest
from standalone import FILE, command, disagreements, record, verifier

from tacit.evidence import CLAIMS, Status, Trust, verify_bundle
from tacit.evidence.archive import pack
from tacit.ledger import note
from tacit.testing.bundles import LEADER, SITES, SyntheticRun, reseal, sealed
from tacit.testing.tampering import BREAKS, CASES, SyntheticBundle

ALLOWED = {
    "__future__", "argparse", "array", "base64", "binascii", "bisect", "collections", "cryptography",
    "dataclasses", "decimal", "fractions", "functools", "gc", "hashlib", "itertools", "json", "math",
    "operator", "os", "pathlib", "re", "shutil", "struct", "sys", "textwrap", "typing", "urllib", "zlib",
}  # fmt: skip


@pytest.fixture(scope="module")
def honest() -> SyntheticBundle:
    return SyntheticBundle.make()


@pytest.fixture
def files(honest, tmp_path):
    (tmp_path / "bundle.zip").write_bytes(honest.data)
    honest.trust.write(tmp_path / "trust.json")
    return tmp_path / "bundle.zip", tmp_path / "trust.json"


# --- it stands alone ------------------------------------------------------------------------------


def test_it_imports_the_standard_library_and_cryptography_alone():
    found = set()
    for node in ast.walk(ast.parse(FILE.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0
            found.add(str(node.module).partition(".")[0])
        elif isinstance(node, ast.Name):
            assert node.id not in ("__import__", "exec", "eval", "compile", "open")
    assert found <= ALLOWED
    assert "cryptography" in found


def test_it_runs_where_tacit_cannot_be_imported(files, tmp_path):
    """An audit hook in the very process refuses every package but ``cryptography``, and the network."""
    runner = tmp_path / "runner.py"
    runner.write_text(
        "import runpy, sys\n"
        "def hook(event, args):\n"
        "    if event == 'import' and args[0].partition('.')[0] in BANNED:\n"
        "        raise SystemExit('imported ' + args[0])\n"
        "    if event.startswith('socket.'):\n"
        "        raise SystemExit('used the network')\n"
        "BANNED = {'tacit', 'numpy', 'cbor2', 'rfc8785', 'pydantic', 'safetensors', 'dp_accounting'}\n"
        "sys.addaudithook(hook)\n"
        f"sys.argv = ['verify.py', {str(files[0])!r}, '--trust', {str(files[1])!r}]\n"
        f"runpy.run_path({str(FILE)!r}, run_name='__main__')\n"
    )
    done = subprocess.run(
        [sys.executable, "-I", str(runner)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2, done.stderr  # epsilon is left open
    assert "model-chain         PASS" in done.stdout


# --- the command ----------------------------------------------------------------------------------


def test_the_record_for_scripts_is_that_of_tacit_verify(honest, files):
    ours = record(*files[:1], "--trust", files[1])
    theirs = verify_bundle(honest.data, honest.trust).to_record()
    assert ours.keys() == theirs.keys()
    for name in ("version", "bundle", "federation", "run", "status", "simulated"):
        assert ours[name] == theirs[name]
    assert [claim["id"] for claim in ours["claims"]] == list(CLAIMS)
    assert all(claim.keys() == {"id", "status", "reason", "required"} for claim in ours["claims"])
    assert {claim["status"] for claim in ours["claims"] if claim["id"] != "epsilon"} == {"PASS"}


def test_exit_statuses(honest, files, tmp_path):
    bundle, trust = files
    without = Trust.of(honest.run.roster, [claim for claim in CLAIMS if claim != "epsilon"])
    without.write(tmp_path / "without.json")
    assert command(bundle, "--trust", tmp_path / "without.json").returncode == 0
    assert command(bundle, "--trust", trust).returncode == 2
    broken = tmp_path / "broken.zip"
    broken.write_bytes(bundle.read_bytes()[:-1])
    assert command(broken, "--trust", trust).returncode == 1


@pytest.mark.parametrize(
    "arguments",
    [[], ["--nothing"], ["no-such-file.zip"], ["FILE", "--trust", "no-such-file.json"]],
)
def test_wrong_usage_has_a_status_of_its_own(files, arguments):
    done = command(*[files[0] if word == "FILE" else word for word in arguments])
    assert done.returncode == 64
    assert "Traceback" not in done.stderr
    assert done.stdout == ""


@pytest.mark.parametrize("place", [0, 1])
def test_a_pipe_is_refused_rather_than_waited_for(files, tmp_path, place):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    bundle, trust = (pipe, files[1]) if place == 0 else (files[0], pipe)
    done = command(bundle, "--trust", trust, timeout=20)
    assert (done.returncode, done.stdout) == (64, "")
    assert "it is a pipe" in done.stderr


def test_without_cryptography_it_says_what_to_install(files):
    done = subprocess.run(
        [sys.executable, "-I", "-S", str(FILE), str(files[0])],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (64, "")
    assert "pip install cryptography" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_reader_that_stops_reading_changes_no_verdict(files):
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(
        [sys.executable, "-I", str(FILE), str(files[0]), "--trust", str(files[1])],
        stdout=writer,
        stderr=subprocess.PIPE,
        check=False,
    )
    os.close(writer)
    assert (done.returncode, done.stderr) == (2, b"")


@pytest.mark.parametrize("old", ['"version":2', '"quorum":3', '"operator":"east', '"key":"', "\n"])
def test_a_changed_trust_file_is_refused(files, tmp_path, old):
    text = files[1].read_text()
    assert old in text
    changed = tmp_path / "changed.json"
    changed.write_text(text.replace(old, old[:-1] + "0" if old != "\n" else " \n", 1))
    done = command(files[0], "--trust", changed)
    assert (done.returncode, done.stdout) == (64, "")


def test_the_report_fits_a_screen_and_names_every_claim(files):
    told = command(files[0], "--trust", files[1]).stdout
    assert max(map(len, told.splitlines())) <= 100
    assert len(told.splitlines()) <= 40
    assert told.startswith("synthetic, run ")
    assert all(f"\n{claim} " in told for claim in CLAIMS)


def test_without_a_trust_file_nobody_is_trusted(honest):
    report = verifier.verify(honest.data, None)
    open_claims = {claim.id for claim in report.claims if claim.status == verifier.NOT_PROVEN}
    assert open_claims == {"authenticity", "witness", "epsilon"}
    assert "Without a trust file" in str(report)


def test_what_nobody_foresaw_is_no_crash(honest, monkeypatch):
    def broken(*_):
        raise ZeroDivisionError("a fault of the verifier")

    monkeypatch.setattr(verifier, "read_model", broken)
    report = verifier.verify(honest.data, None)
    failed = {claim.id: claim.reason for claim in report.claims if claim.status == verifier.FAIL}
    assert failed.keys() == {"model-chain", "statements"}
    assert "ZeroDivisionError" in failed["model-chain"]
    monkeypatch.setattr(verifier, "read_roster", broken)
    report = verifier.verify(honest.data, None)
    assert [claim.id for claim in report.claims if claim.status == verifier.FAIL] == ["integrity"]


def test_signatures_are_checked_alike_in_one_process_and_in_two(honest, monkeypatch):
    name = "transcript/r000002/upload-north.msg"
    raw = bytearray(honest.members[name])
    raw[-1] ^= 1
    data = pack({**honest.members, name: bytes(raw)})
    reports = []
    for least in (1, 10**9):
        monkeypatch.setattr(verifier.SecondProcess, "WORTH_IT", least)
        reports.append(verifier.verify(data, None).record())
    assert reports[0] == reports[1]
    reasons = {claim["id"]: claim["reason"] for claim in reports[0]["claims"]}
    assert f"{name}: the signature is not that of north" in reasons["authenticity"]


# --- it decides as the library does ---------------------------------------------------------------


def test_it_agrees_on_the_honest_bundle(honest):
    assert disagreements(honest.data, honest.trust) == []
    assert disagreements(honest.data, None) == []


@pytest.mark.parametrize("name", CASES)
def test_it_refuses_every_trick_of_the_catalogue(honest, name):
    data, trust = CASES[name](honest)
    if BREAKS[name] == "trust":
        with pytest.raises(verifier.Wrong):
            verifier.read_trust(trust)
        return
    report = verifier.verify(data, verifier.read_trust(trust))
    status = {claim.id: claim.status for claim in report.claims}[BREAKS[name]]
    assert status != verifier.PASS
    assert report.exit_code in (1, 2)


TRICKS = [name for name in CASES if BREAKS[name] != "trust"]


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=pytest.mark.slow if n % 6 else ()) for n, name in enumerate(TRICKS)],
)
def test_it_agrees_on_every_trick_of_the_catalogue(honest, name):
    data, trust = CASES[name](honest)
    assert disagreements(data, _trust(trust)) == []


def _trust(data: bytes) -> Trust:
    import tempfile
    from pathlib import Path

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "trust.json"
        path.write_bytes(data)
        return Trust.load(path)


KINDS = {
    "masked": {},
    "no noise": {"unit": "none"},
    "plain": {"unit": "none", "protocol": "plain"},
    "neighbours": {"neighbours": True},
    "undisclosed": {"secret": (SITES[0],)},
    "anywhere": {"allowed_regions": None},
    "elsewhere": {"allowed_regions": ("us",)},
    "small cohort": {"min_cohort": 3},
}


@pytest.mark.parametrize("complete", [True, False])
@pytest.mark.parametrize("kind", KINDS)
def test_it_agrees_on_every_kind_of_run(kind, complete):
    run = SyntheticRun(**KINDS[kind]).play()
    data = sealed(run, run.evidence(complete=complete), complete=complete)
    assert disagreements(data, Trust.of(run.roster)) == []


def test_it_agrees_on_a_run_that_was_cut_off():
    run = SyntheticRun(min_cohort=3).begin()
    run.round(1).round(2, members=SITES[:3]).round(3, closed=False).record()
    for complete in (True, False):
        data = sealed(run, run.evidence(complete=complete), complete=complete)
        assert disagreements(data, Trust.of(run.roster)) == []


ROOTS = ("manifest.json", "manifest.sig", "roster.json")
"""What cannot be sealed again."""


def one_of_each(members):
    """A member of every kind: of one round, one site and the leader."""
    return [
        name
        for name in members
        if not re.search("r00000[13]/|north|south|west|logs/lead[.]p", name)
    ]


def left_out(honest, names):
    for name in names:
        members = {other: data for other, data in honest.members.items() if other != name}
        assert disagreements(pack(members), honest.trust) == [], name
        if name not in ROOTS:
            again = pack(reseal(honest.run, members, restate=False))
            assert disagreements(again, honest.trust) == [], f"{name}, sealed again"


def flipped(honest, names, draw):
    for name in names:
        changed = bytearray(honest.members[name])
        changed[draw.randrange(len(changed))] ^= 1 << draw.randrange(8)
        members = {**honest.members, name: bytes(changed)}
        assert disagreements(pack(members), honest.trust) == [], name
        if name not in ROOTS:
            again = pack(reseal(honest.run, members, restate=False))
            assert disagreements(again, honest.trust) == [], f"{name}, sealed again"


def test_it_agrees_when_a_member_is_left_out(honest):
    names = one_of_each(honest.members)
    assert 20 < len(names) < 35
    left_out(honest, names[::2])


def test_it_agrees_when_a_member_has_a_flipped_bit(honest):
    flipped(honest, one_of_each(honest.members)[1::2], random.Random(3))


@pytest.mark.slow
def test_it_agrees_when_any_member_is_left_out_or_has_a_flipped_bit(honest):
    left_out(honest, honest.members)
    flipped(honest, honest.members, random.Random(4))


def test_one_flipped_bit_of_the_archive_is_refused(honest):
    draw, data = random.Random(5), honest.data
    known = verifier.read_trust(honest.trust.canonical())
    for _ in range(60):
        changed = bytearray(data)
        changed[draw.randrange(len(data))] ^= 1 << draw.randrange(8)
        assert verifier.verify(bytes(changed), known).exit_code == 1


@pytest.mark.slow
def test_it_agrees_on_many_flipped_bits(honest):
    draw, names = random.Random(9), sorted(honest.members)
    for _ in range(1500):
        name = draw.choice(names)
        changed = bytearray(honest.members[name])
        for _ in range(draw.choice((1, 1, 3))):
            changed[draw.randrange(len(changed))] ^= 1 << draw.randrange(8)
        members = {**honest.members, name: bytes(changed)}
        if name not in ROOTS and draw.random() < 0.7:
            members = reseal(honest.run, members, restate=False)
        assert disagreements(pack(members), honest.trust) == [], name


def test_leader_and_status_are_in_the_headline(honest):
    assert LEADER in honest.run.logs
    text = str(verifier.verify(honest.data, None))
    assert text.splitlines()[0].endswith(", complete")
    assert (
        json.loads(json.dumps(verifier.verify(honest.data, None).record()))["status"] == "complete"
    )
    assert Status.PASS.value == verifier.PASS


def test_both_open_notes_of_equally_many_signatures() -> None:
    assert verifier.MAX_SIGNATURES == note.MAX_SIGNATURES
