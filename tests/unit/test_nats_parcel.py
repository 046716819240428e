"""Parcels: what goes in comes out, and nothing else does."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tacit.engine.nats import parcel as parcels
from tacit.engine.nats.parcel import (
    FRAME,
    TAG,
    Frame,
    FrameHead,
    Parcel,
    check_size,
    open_key,
    open_single,
    read_parcel,
)
from tacit.engine.nats.subjects import Route
from tacit.errors import DecodeError, LocalProtocolError, TacitError
from tacit.testing.entropy import SeededEntropy
from tacit.testing.sealing import SeededSealing
from tacit.types import PartyName
from tacit.wire.envelope import Address, Envelope

RUN = "ab" * 32
ROUTE = Route(Address(PartyName("north"), "client"), PartyName("coordinator"), RUN)
SUBJECT = ROUTE.subject("test")
SEALING = SeededSealing(SeededEntropy("parcels"))
OPENER = SEALING.generate()


def packed(envelope, *, attempt=b"1", seed=0):
    entropy = SeededEntropy(seed)
    return Parcel(
        envelope,
        SUBJECT,
        attempt,
        public_key=OPENER.public_key,
        sealing=SEALING,
        entropy=entropy,
    )


def read(frames, subject=SUBJECT):
    first, last = frames[0], frames[-1]
    for frame in frames:
        check_size(frame.head, len(frame.data))
    key = open_key(first.head.parcel, first.head.key, subject, OPENER)
    named = (first.head.parcel, first.head.count, subject)
    size = (len(frames) - 1) * FRAME + len(last.data) - TAG
    return read_parcel(ROUTE.receiver, key, named, lambda index: frames[index].data, size)


@settings(max_examples=40, deadline=None)
@given(
    message=st.binary(min_size=1, max_size=40),
    chunks=st.lists(st.binary(max_size=50), max_size=9),
    frame=st.integers(9, 64),
)
def test_what_goes_in_comes_out(message, chunks, frame):
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(parcels, "FRAME", frame)
        sent = Envelope(ROUTE.receiver, message, tuple(chunks))
        frames = list(packed(sent).frames())
        heads = [FrameHead.parse(one.head.headers()) for one in frames]
        assert [head.index for head in heads] == list(range(heads[0].count))
        key = open_key(heads[0].parcel, heads[0].key, SUBJECT, OPENER)
        named = (heads[0].parcel, heads[0].count, SUBJECT)
        size = sum(len(one.data) - TAG for one in frames)
        got = read_parcel(ROUTE.receiver, key, named, lambda index: frames[index].data, size)
        assert got.message == message
        assert tuple(got.chunks) == tuple(chunks)
        assert [got.chunks[i] for i in range(len(chunks))] == chunks
        assert tuple(got.chunks[1:]) == tuple(chunks[1:])


def large():
    return Envelope(ROUTE.receiver, b"message", (bytes(FRAME + 5), b"x" * 7, b"y" * FRAME))


def test_every_changed_frame_is_refused():
    frames = list(packed(large()).frames())
    for index in range(len(frames)):
        data = bytearray(frames[index].data)
        data[3] ^= 1
        changed = [*frames]
        changed[index] = Frame(frames[index].head, bytes(data))
        with pytest.raises(DecodeError):
            list(read(changed).chunks)


def test_frames_cannot_change_places_parcels_or_subjects():
    frames = list(packed(large()).frames())
    other = list(packed(large(), seed=1).frames())
    assert frames[0].head.parcel != other[0].head.parcel  # Two keys, so two parcels.
    swapped = [frames[0], Frame(frames[1].head, frames[2].data), frames[1], *frames[3:]]
    swapped[2] = Frame(frames[2].head, frames[1].data)
    mixed = [*frames[:-1], Frame(frames[-1].head, other[-1].data)]
    for wrong in (swapped, mixed):
        with pytest.raises(DecodeError):
            list(read(wrong).chunks)
    with pytest.raises(DecodeError):
        read(frames, SUBJECT.replace("coordinator", "east"))


def test_a_small_parcel_keeps_its_name_when_it_is_sent_again():
    sent = Envelope(ROUTE.receiver, b"message", (b"chunk",))
    (one,), (again,) = packed(sent).frames(), packed(sent, seed=1).frames()
    (next_attempt,) = packed(sent, attempt=b"2").frames()
    assert one.head.headers()["Nats-Msg-Id"] == again.head.headers()["Nats-Msg-Id"]
    assert one.head.parcel != next_attempt.head.parcel
    assert open_single(ROUTE.receiver, again, SUBJECT, OPENER) == sent


@pytest.mark.parametrize(
    "head",
    [
        {},
        {"Tacit-Frame": "zz 0 1", "Tacit-Key": "AA=="},
        {"Tacit-Frame": "00 0 1", "Tacit-Key": "AA=="},
        {"Tacit-Frame": f"{'00' * 32} 1 1"},
        {"Tacit-Frame": f"{'00' * 32} 0 1"},
        {"Tacit-Frame": f"{'00' * 32} 1 2", "Tacit-Key": "AA=="},
        {"Tacit-Frame": f"{'00' * 32} 0 {parcels.MAX_FRAMES + 1}", "Tacit-Key": "AA=="},
        {"Tacit-Frame": f"{'00' * 32} 0 1", "Tacit-Key": "A" * 8000},
        {"Tacit-Frame": f"{'00' * 32} 0 1", "Tacit-Key": "?"},
    ],
)
def test_odd_heads_are_refused(head):
    with pytest.raises(DecodeError, match="frame"):
        FrameHead.parse(head)


@pytest.mark.parametrize(
    ("index", "size"), [(0, 100), (0, FRAME + TAG + 1), (1, TAG), (1, FRAME * 2)]
)
def test_odd_sizes_are_refused(index, size):
    with pytest.raises(DecodeError):
        check_size(FrameHead(bytes(32), index, 2, b"" if index else b"k"), size)


@settings(max_examples=60, deadline=None)
@given(content=st.binary(min_size=1, max_size=60))
def test_any_content_is_read_or_refused(content):
    """What a sender that knows the receiver's key may put into a frame."""
    frame = _sealed(content)
    try:
        got = open_single(ROUTE.receiver, frame, SUBJECT, OPENER)
    except DecodeError:
        return
    assert 8 + 4 * len(got.chunks) + got.size == len(content)


def _sealed(content):
    """A frame with this content, under a known key."""
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

    name, key = bytes(32), bytes(32)
    sealed = SEALING.seal(key, OPENER.public_key, parcels.KEY_INFO + name + SUBJECT.encode())
    head = FrameHead(name, 0, 1, sealed)
    bound = name + parcels.PREFIX.pack(0, 1) + SUBJECT.encode()
    return Frame(head, AESGCM(key).encrypt(bytes(12), content, bound))


def test_too_large_an_envelope_is_refused(monkeypatch):
    monkeypatch.setattr(parcels, "MAX_PARCEL", 1000)
    with pytest.raises(LocalProtocolError):
        packed(Envelope(ROUTE.receiver, b"m", (bytes(1001),)))


def test_subjects_round_trip():
    assert Route.parse("test", SUBJECT) == ROUTE


@pytest.mark.parametrize(
    "subject",
    [
        "",
        SUBJECT.replace("test", "other"),
        SUBJECT + ".x",
        SUBJECT.replace("client", "king"),
        SUBJECT.replace("north", "N*"),
        SUBJECT[:-1],
    ],
)
def test_odd_subjects_are_refused(subject):
    with pytest.raises(TacitError):
        Route.parse("test", subject)
