"""Cosignatures: one that a public witness made, and lines that must not count."""

from __future__ import annotations

import base64
import hashlib

import pytest

from tacit.errors import DecodeError, LedgerError, LocalProtocolError, SignatureError, TacitError
from tacit.ledger.note import (
    COSIGNATURE,
    Checkpoint,
    add_signatures,
    check_cosignature,
    cosign,
    key_hash,
    note_text,
    open_checkpoint,
    open_cosigned,
    sign_checkpoint,
    sign_note,
    verifier_key,
)
from tacit.testing.entropy import SeededEntropy
from tacit.trust.identity import Identity

ALICE = Identity.generate(SeededEntropy("alice"))
BOB = Identity.generate(SeededEntropy("bob"))
CAROL = Identity.generate(SeededEntropy("carol"))
ROOT = hashlib.sha256(b"root").digest()
NOTE = sign_checkpoint("fed/bob", 42, ROOT, BOB, "fed/bob")
OWNER = ("fed/bob", BOB.public_key)
WITNESSES = {"fed/alice": ALICE.public_key, "fed/carol": CAROL.public_key}
SECONDS = 1_700_000_000

# A checkpoint of a public Certificate Transparency log (2026), and the verifier keys of the log and of
# one of the witnesses that cosigned it.
PUBLISHED_LOG = "arche2025h1.staging.ct.transparency.dev"
PUBLISHED_LOG_KEY = (
    "arche2025h1.staging.ct.transparency.dev+ba2f06c0+AU0vHmlGCS/PdN8b2OaGmKprLI8HKM+dJ472xgFYh15f"
)
PUBLISHED_WITNESS = "remora.n621.de"
PUBLISHED_WITNESS_KEY = "remora.n621.de+da77ade7+BOvN63jn/bLvkieywe8R6UYAtVtNbZpXh34x7onlmtw2"
PUBLISHED_TIME = 1779573024
PUBLISHED_NOTE = """\
arche2025h1.staging.ct.transparency.dev
1432088532
U7WM79jrzyhGZ5/GUBTpM7NzwdyfFx61t3RovgcC4Ro=

— arche2025h1.staging.ct.transparency.dev ui8GwCF1+kWqZrxGdhj4aX3gcw7XUlXQQabg/27lefwhUkzbC3NygNI75MdhL1bfTW9g8Ei59RA23oHP7Ry1k3ZFWwQ=
— remora.n621.de 2net5wAAAABqEiEgPlfF3V06o0Y+fHM+J5J9s27wgxxcOVSpZ/2g/KSiXCg9DEZI+aVCIobWX9sXTynk5XeU/zZ0WBxtqB0DrAWfBw==
""".encode()


def published_key(verifier: str) -> bytes:
    return base64.b64decode(verifier.split("+", 2)[2])[1:]


def cosigned() -> bytes:
    lines = [
        cosign(NOTE, CAROL, "fed/carol", SECONDS + 1),
        cosign(NOTE, ALICE, "fed/alice", SECONDS),
    ]
    return add_signatures(NOTE, lines)


def test_a_published_cosignature_opens() -> None:
    owner = (PUBLISHED_LOG, published_key(PUBLISHED_LOG_KEY))
    witness = published_key(PUBLISHED_WITNESS_KEY)
    checkpoint, times, unknown = open_cosigned(PUBLISHED_NOTE, owner, {PUBLISHED_WITNESS: witness})
    assert (checkpoint.origin, checkpoint.size) == (PUBLISHED_LOG, 1432088532)
    assert times == {PUBLISHED_WITNESS: PUBLISHED_TIME}
    assert unknown == ()
    line = PUBLISHED_NOTE.decode().splitlines(keepends=True)[-1]
    text = note_text(PUBLISHED_NOTE)
    assert check_cosignature(line, text, PUBLISHED_WITNESS, witness) == PUBLISHED_TIME
    with pytest.raises(SignatureError):
        check_cosignature(line, text.replace("1432088532", "42"), PUBLISHED_WITNESS, witness)
    assert verifier_key(*owner) == PUBLISHED_LOG_KEY
    assert verifier_key(PUBLISHED_WITNESS, witness, COSIGNATURE) == PUBLISHED_WITNESS_KEY


def test_a_cosignature_is_laid_out_as_the_specification_says() -> None:
    line = cosign(NOTE, ALICE, "fed/alice", SECONDS)
    mark = base64.b64decode(line.removeprefix("— fed/alice ").removesuffix("\n"))
    body = NOTE.partition(b"\n\n")[0] + b"\n"
    key = hashlib.sha256(b"fed/alice\n\x04" + ALICE.public_key).digest()[:4]
    signed = ALICE.sign(b"cosignature/v1\ntime 1700000000\n" + body)
    assert mark == key + SECONDS.to_bytes(8, "big") + signed
    assert note_text(NOTE).encode() == body


@pytest.mark.parametrize("seconds", [0, SECONDS, 2**63 - 1])
def test_the_time_of_a_cosignature_comes_back(seconds: int) -> None:
    line = cosign(NOTE, ALICE, "fed/alice", seconds)
    assert check_cosignature(line, note_text(NOTE), "fed/alice", ALICE.public_key) == seconds


def test_any_changed_byte_of_a_cosignature_is_refused() -> None:
    line, text = cosign(NOTE, ALICE, "fed/alice", SECONDS), note_text(NOTE)
    for position in range(len(line)):
        for other in ("A", "B", "\n", ""):
            forged = line[:position] + other + line[position + 1 :]
            if forged != line:
                with pytest.raises(TacitError):
                    check_cosignature(forged, text, "fed/alice", ALICE.public_key)


def test_a_cosignature_counts_for_its_checkpoint_name_and_key_only() -> None:
    line, text = cosign(NOTE, ALICE, "fed/alice", SECONDS), note_text(NOTE)
    other = note_text(sign_checkpoint("fed/bob", 43, ROOT, BOB, "fed/bob"))
    for attempt in (
        (line, other, "fed/alice", ALICE.public_key),
        (line, text, "fed/carol", ALICE.public_key),
        (line, text, "fed/alice", CAROL.public_key),
    ):
        with pytest.raises(SignatureError):
            check_cosignature(*attempt)


def test_a_plain_signature_is_no_cosignature_and_the_reverse() -> None:
    plain = sign_note(note_text(NOTE), ALICE, "fed/alice").decode().partition("\n\n")[2]
    with pytest.raises(SignatureError):
        check_cosignature(plain, note_text(NOTE), "fed/alice", ALICE.public_key)
    with pytest.raises(SignatureError):
        open_cosigned(add_signatures(NOTE, [plain]), OWNER, WITNESSES)
    line = cosign(NOTE, BOB, "fed/bob", SECONDS)
    with pytest.raises(SignatureError):
        open_checkpoint(f"{note_text(NOTE)}\n{line}".encode(), {"fed/bob": BOB.public_key})


def test_a_time_beyond_the_specification_is_refused() -> None:
    key = key_hash("fed/alice", ALICE.public_key, COSIGNATURE)
    message = f"cosignature/v1\ntime {2**63}\n{note_text(NOTE)}".encode()
    mark = key + (2**63).to_bytes(8, "big") + ALICE.sign(message)
    line = f"— fed/alice {base64.b64encode(mark).decode()}\n"
    with pytest.raises(SignatureError):
        check_cosignature(line, note_text(NOTE), "fed/alice", ALICE.public_key)


def test_cosignatures_stand_in_order_beside_the_owners_signature() -> None:
    note = cosigned()
    names = [line.split()[1] for line in note.decode().partition("\n\n")[2].splitlines()]
    assert names == ["fed/alice", "fed/bob", "fed/carol"]
    checkpoint, times, unknown = open_cosigned(note, OWNER, WITNESSES)
    assert checkpoint == Checkpoint("fed/bob", 42, ROOT)
    assert times == {"fed/alice": SECONDS, "fed/carol": SECONDS + 1}
    assert unknown == ()
    assert open_checkpoint(note, {"fed/bob": BOB.public_key}) == checkpoint


def test_who_is_not_known_is_named_and_not_believed() -> None:
    _, times, unknown = open_cosigned(cosigned(), OWNER, {"fed/alice": ALICE.public_key})
    assert times == {"fed/alice": SECONDS}
    assert unknown == ("fed/carol",)


def test_every_changed_line_of_a_cosigned_note_is_refused() -> None:
    note = cosigned()
    for position in range(len(note)):
        forged = bytearray(note)
        forged[position] ^= 1
        try:
            _, times, unknown = open_cosigned(bytes(forged), OWNER, WITNESSES)
        except TacitError:
            continue
        # With its name changed, a line is that of somebody unknown.
        assert len(unknown) == len(times) == 1
        assert unknown[0] not in WITNESSES


def test_a_cosigned_note_has_one_form() -> None:
    head, _, tail = cosigned().decode().partition("\n\n")
    alice, bob, carol = tail.splitlines(keepends=True)
    for lines in ([bob, alice, carol], [alice, alice, bob, carol], [alice, bob, carol, bob]):
        with pytest.raises(DecodeError):
            open_cosigned(f"{head}\n\n{''.join(lines)}".encode(), OWNER, WITNESSES)
    with pytest.raises(SignatureError):
        open_cosigned(f"{head}\n\n{alice}{carol}".encode(), OWNER, WITNESSES)


def test_a_known_name_with_another_key_is_refused() -> None:
    line = cosign(NOTE, CAROL, "fed/alice", SECONDS)
    with pytest.raises(SignatureError):
        open_cosigned(add_signatures(NOTE, [line]), OWNER, WITNESSES)
    with pytest.raises(SignatureError):
        open_cosigned(NOTE, ("fed/bob", ALICE.public_key), WITNESSES)


def test_a_cosigned_note_that_is_no_checkpoint_is_refused() -> None:
    with pytest.raises(LedgerError):
        open_cosigned(sign_note("fed/bob\n42\n", BOB, "fed/bob"), OWNER, WITNESSES)


def test_nobody_signs_twice() -> None:
    line = cosign(NOTE, ALICE, "fed/alice", SECONDS)
    with pytest.raises(DecodeError):
        add_signatures(NOTE, [line, line])
    with pytest.raises(DecodeError):
        add_signatures(NOTE, [cosign(NOTE, BOB, "fed/bob", SECONDS)])


@pytest.mark.parametrize("line", ["", "\n", "— fed/alice\n", "— fed/alice AAAA\n", "x\ny\n"])
def test_what_is_not_a_signature_line_is_not_decoded(line: str) -> None:
    with pytest.raises(DecodeError):
        check_cosignature(line, note_text(NOTE), "fed/alice", ALICE.public_key)
    with pytest.raises(DecodeError):
        add_signatures(NOTE, [line])


@pytest.mark.parametrize(
    ("name", "seconds"), [("two words", 1), ("plus+sign", 1), ("fed/alice", -1), ("a", 2**63)]
)
def test_what_cannot_be_cosigned(name: str, seconds: int) -> None:
    with pytest.raises(LocalProtocolError):
        cosign(NOTE, ALICE, name, seconds)
