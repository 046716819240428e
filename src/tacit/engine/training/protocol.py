"""What a site and its training child say to each other: one request, draws in between, one answer.

A frame is its kind, the lengths of its parts, a header in deterministic CBOR, and up to four arrays of
bytes. Both ends know beforehand how long each array may be; nothing is ever pickled, and nothing is
allocated for a length that was not expected.
"""

from __future__ import annotations

import socket
import struct
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray

from tacit.errors import DecodeError
from tacit.wire.codec import Size, decode, encode

__all__ = [
    "FLOAT",
    "Channel",
    "Complete",
    "Draw",
    "Drawn",
    "Failed",
    "First",
    "Frame",
    "Made",
    "Part",
    "Ready",
    "Records",
    "Start",
    "Train",
    "Vector",
    "Written",
    "floats",
    "octets",
]

HEADER_LIMIT = 2 * 1024 * 1024
MAX_ARRAYS = 4
MAX_LENGTH = 2**31
DESCRIPTORS = 1
_HEAD = struct.Struct("<BBIQQQQ")
FLOAT = struct.Struct("<d")

Length = Annotated[int, Size(0, MAX_LENGTH)]
Buffer = bytes | bytearray | memoryview | NDArray[Any]


@dataclass(frozen=True, slots=True)
class Start:
    """Site -> child: the job, and what the model's constructor takes; with the source of its file.

    ``memory`` in MiB and ``niceness`` are limits that the child puts on itself before it runs code.
    """

    job: Annotated[bytes, Size(2, 256 * 1024)]
    spec: Annotated[str, Size(1, 1024)]
    features: Length
    classes: Length
    memory: Length
    niceness: Annotated[int, Size(0, 19)]


@dataclass(frozen=True, slots=True)
class Ready:
    """Child -> site: the sizes of the model, and the digest of its layout."""

    dimension: Length
    local: Length
    layout: Annotated[bytes, Size(32, 32)]
    sizes: Annotated[tuple[Length, ...], Size(1, 2**16)]


@dataclass(frozen=True, slots=True)
class Part:
    """Records as they lie in shared memory: features, labels, and entities if there are any."""

    rows: Length
    columns: Length
    single: bool
    by_column: bool
    entities: bool


@dataclass(frozen=True, slots=True)
class Records:
    """Site -> child: what is trained on and, if anything is, what is held out; with the memory."""

    parts: Annotated[tuple[Part, ...], Size(1, 2)]


@dataclass(frozen=True, slots=True)
class Written:
    """Child -> site: done, with nothing to say."""

    done: bool = True


@dataclass(frozen=True, slots=True)
class First:
    """Site -> child: asks for the first shared parameters."""

    seed: Annotated[bytes, Size(1, 1024)]


@dataclass(frozen=True, slots=True)
class Train:
    """Site -> child: asks for a contribution.

    With the parameters, all other parts of the server state if ``whole``, and local layers if ``local``.
    """

    plan: Annotated[bytes, Size(2, 16_384)]
    averaged: Annotated[int, Size(0, 2**62)]
    steps: Annotated[int, Size(0, 2**62)]
    clip_scale: Annotated[bytes, Size(8, 8)]
    whole: bool
    local: bool
    participations: Annotated[int, Size(0, 2**62)]


@dataclass(frozen=True, slots=True)
class Complete:
    """Site -> child: asks for the model's own parameters; with the shared ones and the local layers."""

    local: bool


@dataclass(frozen=True, slots=True)
class Vector:
    """Child -> site: ``float64`` parameters."""

    done: bool = True


@dataclass(frozen=True, slots=True)
class Made:
    """Child -> site: a contribution, with the vector in the ring's memory and the local layers."""

    sampled: bool
    participations: Annotated[int, Size(0, 2**62)]
    local: bool


@dataclass(frozen=True, slots=True)
class Draw:
    """Child -> site: asks for so many random bytes."""

    size: Annotated[int, Size(0, MAX_LENGTH)]


@dataclass(frozen=True, slots=True)
class Drawn:
    """Site -> child: the bytes."""

    done: bool = True


@dataclass(frozen=True, slots=True)
class Failed:
    """Child -> site: the request failed there."""

    code: Annotated[str, Size(1, 64)]
    message: Annotated[str, Size(0, 2048)]
    remedy: Annotated[str, Size(0, 2048)]


KINDS: tuple[type, ...] = (
    *(Start, Ready, Records, Written, First, Train, Complete),
    *(Vector, Made, Draw, Drawn, Failed),
)
SIZES = dict[type, tuple[int, ...]]


@dataclass(frozen=True, slots=True)
class Frame:
    """One message with its arrays."""

    message: Any
    arrays: tuple[bytearray, ...] = ()


class Channel:
    """Frames over a connected stream socket, with a deadline for everything that is waited for.

    Args:
        connection: The socket; the channel closes it.
    """

    def __init__(self, connection: socket.socket) -> None:
        self._socket = connection
        self.deadline: float | None = None
        """When waiting ends, on the monotonic clock, in seconds; None for never."""

    def send(
        self, message: Any, arrays: Sequence[Buffer] = (), descriptor: int | None = None
    ) -> None:
        """Sends a message, its arrays, and a file descriptor.

        Raises:
            OSError: The other end is gone or, as ``TimeoutError``, does not listen.
        """
        header = encode(message)
        views = [octets(array) for array in arrays]
        lengths = [view.nbytes for view in views] + [0] * (MAX_ARRAYS - len(views))
        kind = KINDS.index(type(message))
        self._arm()
        head = _HEAD.pack(kind, len(views), len(header), *lengths)
        if descriptor is None:
            self._socket.sendall(head)
        else:
            socket.send_fds(self._socket, [head], [descriptor])
        for view in (memoryview(header), *views):
            self._arm()
            self._socket.sendall(view)

    def receive(self, expected: Mapping[type, tuple[int, ...]]) -> Frame:
        """Receives a message of an expected kind.

        Args:
            expected: For each kind the most bytes of each of its arrays.

        Raises:
            DecodeError: Another kind, too long an array, or a malformed header.
            EOFError: The other end is gone.
            OSError: The connection fails or, as ``TimeoutError``, the other end takes too long.
        """
        frame, descriptor = self._receive(expected, 0)
        assert descriptor is None
        return frame

    def receive_with_descriptor(
        self, expected: Mapping[type, tuple[int, ...]]
    ) -> tuple[Frame, int | None]:
        """As ``receive``; a descriptor may come with the message."""
        return self._receive(expected, DESCRIPTORS)

    def _receive(
        self, expected: Mapping[type, tuple[int, ...]], descriptors: int
    ) -> tuple[Frame, int | None]:
        head = bytearray(_HEAD.size)
        found = None
        if descriptors:
            self._arm()
            data, handles, _, _ = socket.recv_fds(self._socket, len(head), descriptors)
            if not data:
                raise EOFError
            found = handles[0] if handles else None
            head[: len(data)] = data
            self._fill(memoryview(head)[len(data) :])
        else:
            self._fill(memoryview(head))
        kind, count, size, *lengths = _HEAD.unpack(head)
        limits = expected.get(KINDS[kind]) if kind < len(KINDS) else None
        if limits is None or count > len(limits) or size > HEADER_LIMIT:
            raise _unexpected()
        if any(length > most for length, most in zip(lengths[:count], limits, strict=False)):
            raise _unexpected()
        header = bytearray(size)
        self._fill(memoryview(header))
        message = decode(KINDS[kind], bytes(header), HEADER_LIMIT)
        arrays = tuple(bytearray(length) for length in lengths[:count])
        for array in arrays:
            self._fill(memoryview(array))
        return Frame(message, arrays), found

    def _fill(self, view: memoryview) -> None:
        while view.nbytes:
            self._arm()
            got = self._socket.recv_into(view)
            if not got:
                raise EOFError
            view = view[got:]

    def _arm(self) -> None:
        if self.deadline is None:
            return
        left = self.deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError
        self._socket.settimeout(left)

    def close(self) -> None:
        """Closes the socket."""
        self._socket.close()


def _unexpected() -> DecodeError:
    return DecodeError("training.frame", "a frame of another kind or size than was asked for")


def octets(array: Buffer) -> memoryview:
    """The memory of contiguous bytes or numbers, uncopied."""
    if isinstance(array, np.ndarray):
        array = np.ascontiguousarray(array).reshape(-1).view(np.uint8).data
    return memoryview(array)


def floats(array: Buffer) -> NDArray[np.float64]:
    """Bytes as ``float64``."""
    return np.frombuffer(array, dtype="<f8")
