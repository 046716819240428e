"""Signed messages and the chunks that follow them.

Every message is signed over its canonical header, which holds the body and says who speaks to whom, in
which run, round, roster and job. The signature covers ``DOMAIN`` first, so that it can never be taken
for a signature over anything else.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

from tacit.errors import DecodeError
from tacit.types import Digest, PartyName, Role, Round, Signer
from tacit.wire.codec import Size, decode, encode
from tacit.wire.messages import MESSAGES, Hash, Vector

__all__ = [
    "CHUNK_ELEMENTS",
    "Address",
    "Channel",
    "Envelope",
    "Header",
    "LogHead",
    "Received",
    "SignedMessage",
    "check_chunks",
    "chunk_bytes",
    "digest",
    "join_chunks",
    "open_message",
    "sign_message",
    "split_chunks",
]

WIRE_VERSION = 1
DOMAIN = b"tacit message v1\x00"
CHUNK_ELEMENTS = 2**18
"""Elements of a chunk, whatever their width: 1 MiB at 32 bits."""
MAX_MESSAGE = 64 * 1024 * 1024
MAX_LOG = 2**53 - 1
KIND_OF = {kind: name for name, kind in MESSAGES.items()}


@dataclass(frozen=True, slots=True)
class Address:
    """A party in one of its roles, written ``name/role``."""

    party: PartyName
    role: Role

    def __str__(self) -> str:
        return f"{self.party}/{self.role}"

    @classmethod
    def parse(cls, text: str) -> Address:
        """Reads ``name/role``.

        Raises:
            DecodeError: Not an address.
        """
        party, _, role = text.partition("/")
        if not party or role not in ("leader", "client", "helper"):
            raise DecodeError("wire.address", "not an address of the form name/role")
        return cls(PartyName(party), role)  # type: ignore[arg-type]


@dataclass(frozen=True, slots=True)
class LogHead:
    """What the sender's log held when it signed: its number of leaves, and the root over them.

    So every message binds its sender to a history: whoever holds it can tell whether the log was
    rewritten since.
    """

    size: Annotated[int, Size(0, MAX_LOG)]
    root: Hash


@dataclass(frozen=True, slots=True)
class Header:
    """What is signed: version, type, who speaks to whom, in which run, and the encoded body."""

    version: Annotated[int, Size(WIRE_VERSION, WIRE_VERSION)]
    type: Annotated[str, Size(1, 32)]
    run: Hash
    round: Annotated[int, Size(0, 2**32 - 1)]
    sender: Annotated[str, Size(3, 80)]
    receiver: Annotated[str, Size(3, 80)]
    roster: Hash
    job: Hash
    log: LogHead
    body: Annotated[bytes, Size(1, MAX_MESSAGE)]


@dataclass(frozen=True, slots=True)
class SignedMessage:
    """A header and the sender's Ed25519 signature over ``DOMAIN`` and the header."""

    header: Annotated[bytes, Size(1, MAX_MESSAGE)]
    signature: Annotated[bytes, Size.exactly(64)]


@dataclass(frozen=True, slots=True)
class Envelope:
    """What an engine moves: an encoded ``SignedMessage``, the chunks that follow it, and where to."""

    receiver: Address
    message: bytes
    chunks: Sequence[bytes] = ()

    @property
    def size(self) -> int:
        """Bytes on the wire."""
        return len(self.message) + sum(len(chunk) for chunk in self.chunks)


@dataclass(frozen=True, slots=True)
class Received:
    """An authenticated message: ``body`` is one of ``wire.messages``; ``raw`` the signed bytes."""

    header: Header
    sender: Address
    body: Any
    raw: bytes
    chunks: Sequence[bytes] = ()

    @property
    def digest(self) -> Digest:
        """SHA-256 of the signed bytes."""
        return digest(self.raw)

    @property
    def round(self) -> Round:
        """The round of the header."""
        return Round(self.header.round)


@dataclass(frozen=True, slots=True)
class Channel:
    """What the messages of one party in one run share, until its log grows."""

    run: Digest
    roster: Digest
    job: Digest
    sender: Address
    signer: Signer
    log: LogHead


Authenticate = Callable[[Address, bytes, bytes], None]
"""Called with (sender, signed bytes, signature); raises SignatureError unless the sender made it."""


def digest(data: bytes) -> Digest:
    """SHA-256."""
    return Digest(hashlib.sha256(data).digest())


def sign_message(
    channel: Channel,
    receiver: Address,
    body: Any,
    *,
    round_number: int = 0,
    chunks: Sequence[bytes] = (),
) -> Envelope:
    """Encodes, signs and addresses ``body``."""
    header = encode(
        Header(
            version=WIRE_VERSION,
            type=KIND_OF[type(body)],
            run=channel.run,
            round=round_number,
            sender=str(channel.sender),
            receiver=str(receiver),
            roster=channel.roster,
            job=channel.job,
            log=channel.log,
            body=encode(body),
        )
    )
    signed = SignedMessage(header=header, signature=channel.signer.sign(DOMAIN + header))
    return Envelope(receiver=receiver, message=encode(signed), chunks=chunks)


def open_message(
    raw: bytes,
    authenticate: Authenticate,
    *,
    limit: int = MAX_MESSAGE,
    chunks: Sequence[bytes] = (),
) -> Received:
    """Decodes and authenticates one message.

    Raises:
        DecodeError: Not a valid message.
        SignatureError: Raised by ``authenticate``.
    """
    signed = decode(SignedMessage, raw, limit)
    header = decode(Header, signed.header, limit)
    sender = Address.parse(header.sender)
    Address.parse(header.receiver)
    authenticate(sender, DOMAIN + signed.header, signed.signature)
    kind = MESSAGES.get(header.type)
    if kind is None:
        raise DecodeError("wire.type", "unknown message type")
    body: Any = decode(kind, header.body, limit)
    return Received(header=header, sender=sender, body=body, raw=bytes(raw), chunks=chunks)


def split_chunks(data: bytes | memoryview, length: int) -> tuple[Vector, tuple[bytes, ...]]:
    """Cuts the bytes of a vector of ``length`` elements into chunks of ``CHUNK_ELEMENTS``.

    Raises:
        ValueError: ``data`` is not a whole number of bytes per element.
    """
    size = chunk_bytes(len(data), length)
    chunks = tuple(bytes(data[start : start + size]) for start in range(0, len(data), size))
    return Vector(length=length, digests=tuple(digest(chunk) for chunk in chunks)), chunks


def chunk_bytes(size: int, length: int) -> int:
    """Bytes of every chunk but the last one of a vector of ``length`` elements and ``size`` bytes.

    Raises:
        ValueError: Not a whole number of bytes per element.
    """
    if length == 0 and size == 0:
        return CHUNK_ELEMENTS
    if length == 0 or size % length:
        raise ValueError("a vector has a whole number of bytes per element")
    return CHUNK_ELEMENTS * (size // length)


def check_chunks(
    vector: Vector, chunks: Iterable[bytes], length: int, item_bytes: int
) -> Iterator[tuple[int, bytes]]:
    """The chunks that ``vector`` names, one after the other, each with its first element's index.

    Args:
        vector: The signed description.
        chunks: What followed the message; read one at a time.
        length: The number of elements that the receiver expects.
        item_bytes: Bytes per element.

    Raises:
        DecodeError: Wrong length, number of chunks, chunk size or digest.
    """
    if vector.length != length or len(vector.digests) != -(-length // CHUNK_ELEMENTS):
        raise DecodeError("wire.chunks", "a vector has the wrong length or number of chunks")
    arrived = iter(chunks)
    for index, known in enumerate(vector.digests):
        chunk, start = next(arrived, None), index * CHUNK_ELEMENTS
        if chunk is None or len(chunk) != min(CHUNK_ELEMENTS, length - start) * item_bytes:
            raise DecodeError("wire.chunks", "a chunk is missing or has the wrong size in bytes")
        if digest(chunk) != known:
            raise DecodeError("wire.chunk-digest", "a chunk does not match its signed digest")
        yield start, chunk
    if next(arrived, None) is not None:
        raise DecodeError("wire.chunks", "a vector has the wrong length or number of chunks")


def join_chunks(vector: Vector, chunks: Iterable[bytes], length: int, item_bytes: int) -> bytes:
    """The bytes of the vector that ``vector`` names; see ``check_chunks``."""
    checked = [chunk for _, chunk in check_chunks(vector, chunks, length, item_bytes)]
    return checked[0] if len(checked) == 1 else b"".join(checked)
