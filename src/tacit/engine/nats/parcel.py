"""Parcels: an envelope cut into sealed frames that fit a message of NATS, and put together again.

A parcel's content is one stream of bytes: the length of the message and of every chunk, the message,
the chunks. It is cut into frames of ``FRAME`` bytes, each encrypted with AES-256-GCM under a key that
is drawn for this parcel alone and sealed to the receiver's transport key; the number of the frame is
the nonce. What is authenticated besides: parcel, index, count and the subject, which names sender,
receiver, role and run. Who wrote the message is proved by its signature, not here.

Reference: NIST SP 800-38D section 8.2.1 (deterministic nonces); RFC 9180 section 6.1.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import struct
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import overload

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from tacit.errors import DecodeError, LocalProtocolError
from tacit.types import Entropy, Opener, Sealing
from tacit.wire.envelope import Address, Envelope, digest

__all__ = [
    "FRAME",
    "MAX_FRAMES",
    "MAX_PARCEL",
    "TAG",
    "Frame",
    "FrameHead",
    "LazyChunks",
    "Parcel",
    "check_size",
    "frame_span",
    "open_key",
    "open_single",
    "read_parcel",
]

FRAME = 512 * 1024
"""Bytes of content in every frame but the last."""
TAG = 16
KEY_BYTES = 32
NONCE_BYTES = 12
MAX_MESSAGE = 64 * 1024 * 1024
MAX_CHUNKS = 65_536
MAX_PARCEL = 4 * 1024**3 + MAX_MESSAGE
MAX_FRAMES = -(-MAX_PARCEL // FRAME)
MAX_KEY = 4096
"""Bytes of a sealed content key."""
PREFIX = struct.Struct(">II")
KEY_INFO = b"tacit parcel key v1\x00"
PARCEL_NAME = b"tacit parcel v1\x00"
HEAD = "Tacit-Frame"
SEALED_KEY = "Tacit-Key"
MESSAGE_ID = "Nats-Msg-Id"


@dataclass(frozen=True, slots=True)
class FrameHead:
    """What a frame says in the open: its parcel, its place, and (frame 0) the sealed content key."""

    parcel: bytes
    index: int
    count: int
    key: bytes = b""

    def headers(self) -> dict[str, str]:
        """As headers of a message of NATS; ``Nats-Msg-Id`` is the same whenever it is sent again."""
        found = {
            HEAD: f"{self.parcel.hex()} {self.index} {self.count}",
            MESSAGE_ID: f"{self.parcel.hex()}-{self.index}",
        }
        if self.key:
            found[SEALED_KEY] = base64.b64encode(self.key).decode()
        return found

    @classmethod
    def parse(cls, headers: Mapping[str, str]) -> FrameHead:
        """Reads what ``headers`` wrote.

        Raises:
            DecodeError: Missing, malformed or out of range.
        """
        parts = headers.get(HEAD, "").split(" ")
        try:
            parcel, index, count = bytes.fromhex(parts[0]), int(parts[1]), int(parts[2])
            key = base64.b64decode(headers.get(SEALED_KEY, ""), validate=True)
        except (ValueError, IndexError, binascii.Error) as error:
            raise DecodeError("parcel.head", "a frame has no readable head") from error
        if len(parcel) != 32 or not 0 <= index < count <= MAX_FRAMES:
            raise DecodeError("parcel.head", "a frame's head is out of range")
        if (index == 0) != bool(key) or len(key) > MAX_KEY:
            raise DecodeError("parcel.head", "a frame's key is missing or misplaced")
        return cls(parcel, index, count, key)


@dataclass(frozen=True, slots=True)
class Frame:
    """One message of NATS: head and encrypted content."""

    head: FrameHead
    data: bytes = field(repr=False)


def check_size(head: FrameHead, size: int) -> None:
    """Whether a frame has the size that its place demands.

    Args:
        head: Its head.
        size: Bytes of its encrypted content.

    Raises:
        DecodeError: Too long, or too short for its place.
    """
    last = head.index == head.count - 1
    if not TAG < size <= FRAME + TAG or (not last and size != FRAME + TAG):
        raise DecodeError("parcel.size", "a frame has the wrong size for its place")


def frame_span(head: FrameHead) -> int:
    """Where a frame's encrypted content begins in the row of all frames."""
    return head.index * (FRAME + TAG)


class Parcel:
    """An envelope, about to leave as frames.

    Args:
        envelope: What to send.
        subject: Where to.
        attempt: Makes the parcel's name differ from that of an earlier one with the same message.
        public_key: The receiver's transport key.
        sealing: Seals the content key to it.
        entropy: Where the content key is drawn.

    Attributes:
        name: The parcel's id: SHA-256 of message digest and attempt; of a parcel of several frames
            also of random bytes, for frames under two content keys must never be mixed.
        count: Number of frames.

    Raises:
        LocalProtocolError: The envelope is beyond the limits.
        DecodeError: The receiver's key is malformed.
    """

    def __init__(
        self,
        envelope: Envelope,
        subject: str,
        attempt: bytes,
        *,
        public_key: bytes,
        sealing: Sealing,
        entropy: Entropy,
    ) -> None:
        lengths = [len(chunk) for chunk in envelope.chunks]
        table = PREFIX.pack(len(envelope.message), len(lengths))
        self._table = table + struct.pack(f">{len(lengths)}I", *lengths)
        size = len(self._table) + len(envelope.message) + sum(lengths)
        if len(envelope.message) > MAX_MESSAGE or len(lengths) > MAX_CHUNKS or size > MAX_PARCEL:
            raise LocalProtocolError("parcel.limit", "an envelope is too large for a parcel")
        self._envelope = envelope
        self._subject = subject.encode()
        self.size = size
        self.count = -(-size // FRAME)
        name = PARCEL_NAME + digest(envelope.message) + attempt
        if self.count > 1:
            name += entropy.draw(KEY_BYTES)
        self.name = hashlib.sha256(name).digest()
        key = entropy.draw(KEY_BYTES)
        self._cipher = AESGCM(key)
        self._sealed = sealing.seal(key, public_key, _key_info(self.name, self._subject))

    def frames(self) -> Iterator[Frame]:
        """The frames in order, one in memory at a time."""
        parts = chain((self._table, self._envelope.message), self._envelope.chunks)
        for index, piece in enumerate(_pieces(parts)):
            head = FrameHead(self.name, index, self.count, b"" if index else self._sealed)
            bound = _bound(head, self._subject)
            yield Frame(head, self._cipher.encrypt(_nonce(index), piece, bound))


def _pieces(parts: Iterable[bytes]) -> Iterator[bytes | memoryview | bytearray]:
    """All bytes of the parts in pieces of ``FRAME``; copies only what lies across two parts."""
    buffer = bytearray()
    for part in parts:
        rest = memoryview(part)
        while rest:
            if not buffer and len(rest) >= FRAME:
                yield rest[:FRAME]
                rest = rest[FRAME:]
                continue
            taken = min(FRAME - len(buffer), len(rest))
            buffer += rest[:taken]
            rest = rest[taken:]
            if len(buffer) == FRAME:
                yield buffer
                buffer = bytearray()
    if buffer:
        yield buffer


def _nonce(index: int) -> bytes:
    return index.to_bytes(NONCE_BYTES, "big")


def _bound(head: FrameHead, subject: bytes) -> bytes:
    """What a frame is bound to."""
    return head.parcel + PREFIX.pack(head.index, head.count) + subject


def _key_info(parcel: bytes, subject: bytes) -> bytes:
    return KEY_INFO + parcel + subject


def open_key(parcel: bytes, sealed: bytes, subject: str, opener: Opener) -> bytes:
    """The content key of a parcel.

    Args:
        parcel: Its id.
        sealed: The sealed key of frame 0.
        subject: Where the parcel came.
        opener: The receiver's transport key.

    Raises:
        DecodeError: Not sealed to this key for this parcel and subject.
    """
    key = opener.open(sealed, _key_info(parcel, subject.encode()))
    if len(key) != KEY_BYTES:
        raise DecodeError("parcel.key", "the content key of a parcel has the wrong length")
    return key


class _Content:
    """The content of a parcel, by position; remembers the frame that was opened last.

    Args:
        key: The content key.
        named: Parcel id, number of frames and subject.
        sealed: Gives the encrypted frame of an index.
        size: Bytes of the whole content.
    """

    def __init__(
        self,
        key: bytes,
        named: tuple[bytes, int, str],
        sealed: Callable[[int], bytes],
        size: int,
    ) -> None:
        self._cipher = AESGCM(key)
        self._parcel, self._count, subject = named
        self._subject = subject.encode()
        self._sealed = sealed
        self.size = size
        self._last: tuple[int, bytes] = (-1, b"")

    def _frame(self, index: int) -> bytes:
        known, plain = self._last
        if known == index:
            return plain
        bound = _bound(FrameHead(self._parcel, index, self._count), self._subject)
        try:
            plain = self._cipher.decrypt(_nonce(index), self._sealed(index), bound)
        except (InvalidTag, ValueError) as error:
            raise DecodeError("parcel.frame", "a frame does not open") from error
        self._last = (index, plain)
        return plain

    def read(self, start: int, size: int) -> bytes:
        """Bytes ``start`` to ``start + size``.

        Raises:
            DecodeError: A frame does not open, or the content ends before.
        """
        if start + size > self.size:
            raise DecodeError("parcel.content", "a parcel is shorter than its lengths say")
        parts = []
        end = start + size
        while start < end:
            index, at = divmod(start, FRAME)
            part = memoryview(self._frame(index))[at : at + end - start]
            if not len(part):
                raise DecodeError("parcel.content", "a parcel is shorter than its frames say")
            parts.append(part)
            start += len(part)
        return bytes(parts[0]) if len(parts) == 1 else b"".join(parts)


class LazyChunks(Sequence[bytes]):
    """The chunks of a parcel, each opened when it is asked for: one frame and one chunk in memory."""

    __slots__ = ("_content", "_spans")

    def __init__(self, content: _Content, spans: Sequence[tuple[int, int]]) -> None:
        self._content = content
        self._spans = spans

    def __len__(self) -> int:
        return len(self._spans)

    @overload
    def __getitem__(self, index: int) -> bytes: ...
    @overload
    def __getitem__(self, index: slice) -> LazyChunks: ...
    def __getitem__(self, index: int | slice) -> bytes | LazyChunks:
        """A chunk, or some of them, still unopened.

        Raises:
            DecodeError: A frame does not open.
        """
        if isinstance(index, slice):
            return LazyChunks(self._content, self._spans[index])
        return self._content.read(*self._spans[index])


def read_parcel(
    receiver: Address,
    key: bytes,
    named: tuple[bytes, int, str],
    sealed: Callable[[int], bytes],
    size: int,
) -> Envelope:
    """The envelope of a parcel all of whose frames are here; its chunks are opened when they are read.

    Args:
        receiver: Whom it is for.
        key: The content key.
        named: Parcel id, number of frames and subject.
        sealed: Gives the encrypted frame of an index.
        size: Bytes of the whole content, without tags.

    Raises:
        DecodeError: A frame does not open, or the lengths do not add up.
    """
    content = _Content(key, named, sealed, size)
    length, count = PREFIX.unpack(content.read(0, PREFIX.size))
    if length > MAX_MESSAGE or count > MAX_CHUNKS:
        raise DecodeError("parcel.content", "a parcel's lengths are beyond the limits")
    lengths = struct.unpack(f">{count}I", content.read(PREFIX.size, 4 * count))
    start = PREFIX.size + 4 * count
    if start + length + sum(lengths) != size:
        raise DecodeError("parcel.content", "the lengths in a parcel do not add up")
    message = content.read(start, length)
    spans, at = [], start + length
    for one in lengths:
        spans.append((at, one))
        at += one
    return Envelope(receiver=receiver, message=message, chunks=LazyChunks(content, spans))


def open_single(receiver: Address, frame: Frame, subject: str, opener: Opener) -> Envelope:
    """The envelope of a parcel of one frame, in memory.

    Raises:
        DecodeError: It does not open, or its lengths do not add up.
    """
    head = frame.head
    if head.count != 1:
        raise DecodeError("parcel.head", "a frame is not the only one of its parcel")
    key = open_key(head.parcel, head.key, subject, opener)
    named = (head.parcel, 1, subject)
    lazy = read_parcel(receiver, key, named, lambda _: frame.data, len(frame.data) - TAG)
    return Envelope(receiver=receiver, message=lazy.message, chunks=tuple(lazy.chunks))
