"""Submissions to a witness: the published example, and bodies that are none."""

from __future__ import annotations

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tacit.errors import DecodeError
from tacit.ledger.submission import SUBMISSION_LIMIT, Submission

# The example of C2SP tlog-witness; the note's signature lines are cut here.
PUBLISHED = b"""\
old 20852014
PlRNCrwHpqhGrupue0L7gxbjbMiKA9temvuZZDDpkaw=
jrJZDmY8Y7SyJE0MWLpLozkIVMSMZcD5kvuKxPC3swk=
5+pKlUdi2LeF/BcMHBn+Ku6yhPGNCswZZD1X/6QgPd8=
/6WVhPs2CwSsb5rYBH5cjHV/wSmA79abXAwhXw3Kj/0=

example.com/behind-the-sofa
20852163
CsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=

"""
NODE = "PlRNCrwHpqhGrupue0L7gxbjbMiKA9temvuZZDDpkaw=\n"

proofs = st.lists(st.binary(min_size=32, max_size=32), max_size=63).map(tuple)


def test_the_published_example_is_read_and_written() -> None:
    submission = Submission.decode(PUBLISHED)
    assert submission.old == 20852014
    assert len(submission.proof) == 4
    assert submission.proof[0].hex()[:8] == "3e544d0a"
    assert submission.note.startswith(b"example.com/behind-the-sofa\n20852163\n")
    assert submission.encode() == PUBLISHED


@given(st.integers(1, 2**59), proofs, st.binary(max_size=200))
def test_what_is_written_is_read(old: int, proof: tuple[bytes, ...], note: bytes) -> None:
    submission = Submission(old, proof, note)  # type: ignore[arg-type]
    assert Submission.decode(submission.encode()) == submission


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"\n\n",
        b"old 3\n",
        b"old 3",
        b"old\n\nnote",
        b"old 03\n\nnote",
        b"old -1\n\nnote",
        b"old 1" + b"0" * 18 + b"\n\nnote",
        b"old  3\n\nnote",
        b"new 3\n\nnote",
        b"old 3\r\n\r\nnote",
        b"old \xd9\xa3\n\nnote",
        b"old 3\nAAAA\n\nnote",
        b"old 3\n" + NODE.replace("=", "").encode() + b"\nnote",
        b"old 3\n\xff\n\nnote",
        b"old 3\n" + 64 * NODE.encode() + b"\nnote",
        b"old 0\n" + NODE.encode() + b"\nnote",
        b"old 3\n\n" + bytes(SUBMISSION_LIMIT),
    ],
)
def test_what_is_no_submission_is_not_decoded(body: bytes) -> None:
    with pytest.raises(DecodeError):
        Submission.decode(body)


def test_the_longest_proof_and_a_note_with_every_signature_fit() -> None:
    node = hashlib.sha256(b"").digest()
    line = "— " + "n" * 100 + " " + "A" * 104 + "\n"
    note = ("origin\n1\nroot\n\n" + 100 * line).encode()
    body = Submission(1, (node,) * 63, note).encode()  # type: ignore[arg-type]
    assert Submission.decode(body).note == note
