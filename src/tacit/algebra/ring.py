"""Vectors over the ring of integers modulo 2^b, b = 16, 24 or 32: held, summed and serialised."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, TypeAlias, cast

import numpy as np
from numpy.typing import NDArray

__all__ = ["WIDTHS", "Bytes", "Ring", "RingVector", "overlapping_words"]

WIDTHS = (16, 24, 32)

RingVector: TypeAlias = NDArray[np.uint16] | NDArray[np.uint32]
"""A vector over Z / 2^b: uint16[d] for b = 16, uint32[d] for b = 24 and 32."""

Bytes: TypeAlias = bytes | bytearray | memoryview
"""Where serialised elements may lie."""


@dataclass(frozen=True, slots=True)
class Ring:
    """The ring Z / 2^b and the vectors over it.

    In memory an element of b = 24 takes 32 bits. Its upper eight may hold carries while a vector is
    being summed in place; whatever leaves this class by ``sum``, ``centred`` or ``to_bytes`` is
    reduced. Serialised, an element takes ``item_bytes`` bytes, little-endian.

    Args:
        bits: b, one of ``WIDTHS``.

    Raises:
        ValueError: Another width.
    """

    bits: int

    def __post_init__(self) -> None:
        if self.bits not in WIDTHS or not isinstance(self.bits, int):
            raise ValueError(f"a ring has 16, 24 or 32 bits, not {self.bits!r}")

    @property
    def item_bytes(self) -> int:
        """Bytes of a serialised element: 2, 3 or 4."""
        return self.bits // 8

    @property
    def dtype(self) -> np.dtype[np.unsignedinteger[Any]]:
        """Of the vectors in memory: uint16 or uint32."""
        return np.dtype(np.uint16 if self.bits == 16 else np.uint32)

    def zeros(self, length: int) -> RingVector:
        """The zero vector of ``length`` elements."""
        return cast("RingVector", np.zeros(length, dtype=self.dtype))

    def from_integers(self, x: NDArray[np.int64]) -> RingVector:
        """Integers modulo 2^b.

        Args:
            x: int64[d], any values.

        Returns:
            A vector of d elements; ``centred`` inverts it for values in [-2^(b-1), 2^(b-1)).

        Raises:
            TypeError: Not a vector of integers.
        """
        if x.dtype.kind not in "iu" or x.ndim != 1:
            raise TypeError(f"integers are int64[d], not {x.dtype}[{x.ndim} axes]")
        vector = cast("RingVector", x.astype(self.dtype))
        self.reduce(vector)
        return vector

    def centred(self, v: RingVector) -> NDArray[np.int64]:
        """The representatives of ``v`` in [-2^(b-1), 2^(b-1)), int64[d]."""
        self._check(v)
        if self.bits == 24:
            return ((v << np.uint32(8)).view(np.int32) >> np.int32(8)).astype(np.int64)
        return v.astype(np.int16 if self.bits == 16 else np.int32).astype(np.int64)

    def to_bytes(self, v: RingVector) -> bytes | memoryview:
        """The elements, ``item_bytes`` little-endian bytes each.

        Returns:
            A read-only view of the memory of ``v`` where its layout is that of the wire, a copy
            elsewhere. A view changes with ``v``.
        """
        self._check(v)
        if self.bits == 24:
            octets = np.empty((len(v), 3), dtype=np.uint8)
            for index in range(3):
                shift = np.uint32(8 * index)
                np.right_shift(v, shift, out=octets[:, index], casting="unsafe")
            return octets.reshape(-1).data.toreadonly()
        wire: NDArray[Any] = np.ascontiguousarray(v, dtype=self.dtype.newbyteorder("<"))
        return wire.view(np.uint8).data.toreadonly()

    def from_bytes(self, data: Bytes, length: int) -> RingVector:
        """The inverse of ``to_bytes``.

        Args:
            data: ``length * item_bytes`` bytes.
            length: Number of elements.

        Returns:
            A read-only vector of ``length`` elements: a view of ``data`` where its layout is that
            of the memory, a copy elsewhere.

        Raises:
            ValueError: ``data`` has another size.
        """
        octets = np.frombuffer(data, dtype=np.uint8)
        if octets.size != length * self.item_bytes:
            raise ValueError(
                f"{length} elements of {self.bits} bits are {length * self.item_bytes} bytes, "
                f"not {octets.size}"
            )
        if self.bits == 24:
            vector = np.empty(length, dtype=np.uint32)
            np.copyto(vector[:-1], overlapping_words(octets, max(length - 1, 0)))
            vector[-1:] = int.from_bytes(octets[-3:].tobytes(), "little")
            self.reduce(vector)
        else:
            vector = octets.view(self.dtype.newbyteorder("<")).astype(self.dtype, copy=False)
        vector.flags.writeable = False
        return cast("RingVector", vector)

    def add_into(self, total: RingVector, x: RingVector) -> None:
        """Adds ``x`` to ``total`` in place.

        Raises:
            TypeError: Not vectors over this ring.
            ValueError: Vectors of different lengths.
        """
        self._check_pair(total, x)
        np.add(total, x, out=cast("NDArray[Any]", total))

    def subtract_into(self, total: RingVector, x: RingVector) -> None:
        """Subtracts ``x`` from ``total`` in place; raises like ``add_into``."""
        self._check_pair(total, x)
        np.subtract(total, x, out=cast("NDArray[Any]", total))

    def reduce(self, v: RingVector) -> None:
        """Clears carries above bit b in place; nothing to do at 16 and 32 bits."""
        self._check(v)
        if self.bits == 24:
            np.bitwise_and(v, np.uint32(2**24 - 1), out=cast("NDArray[Any]", v))

    def sum(self, vectors: Iterable[RingVector], length: int) -> RingVector:
        """The sum of any number of vectors of ``length`` elements each."""
        total = self.zeros(length)
        for vector in vectors:
            self.add_into(total, vector)
        self.reduce(total)
        return total

    def _check(self, v: RingVector) -> None:
        if v.dtype != self.dtype or v.ndim != 1:
            raise TypeError(
                f"a vector of {self.bits} bits is {self.dtype}[d], not {v.dtype}[{v.ndim} axes]"
            )

    def _check_pair(self, total: RingVector, x: RingVector) -> None:
        self._check(total)
        self._check(x)
        if total.shape != x.shape:
            raise ValueError(f"lengths differ: {total.shape[0]} and {x.shape[0]}")


def overlapping_words(octets: NDArray[np.uint8], count: int) -> NDArray[np.uint32]:
    """``count`` 24-bit elements as 32-bit words in place: the upper byte is the next element's lowest.

    Args:
        octets: uint8[3 * count + 1] or more, contiguous; never written through the result.
        count: Number of elements.

    Returns:
        uint32[count] with a stride of three bytes; right modulo 2^24 only.
    """
    return np.ndarray((count,), dtype="<u4", buffer=octets, strides=(3,))
