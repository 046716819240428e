"""Format-preserving encryption of whole columns: FF1 of NIST SP 800-38G, one AES call per round.

Halves below 2**63 are numbers of 64 bits; longer cells go the same way with numbers of any size.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa  # type: ignore[import-untyped]
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from tacit.connect.cells import BadCell, cell_bytes

__all__ = ["ALPHABETS", "MINIMUM_DOMAIN", "decrypt", "encrypt"]

_DIGITS, _LOWER = "0123456789", "abcdefghijklmnopqrstuvwxyz"

ALPHABETS = {
    "digits": _DIGITS,
    "hex": _DIGITS + "abcdef",
    "upper-hex": _DIGITS + "ABCDEF",
    "lower": _LOWER,
    "upper": _LOWER.upper(),
    "lower-alphanumeric": _DIGITS + _LOWER,
    "upper-alphanumeric": _DIGITS + _LOWER.upper(),
    "alphanumeric": _DIGITS + _LOWER.upper() + _LOWER,
}
"""Alphabets by name, for contracts."""

MINIMUM_DOMAIN = 10**6
"""Values that a cell of its length could have: SP 800-38G Rev. 1, second draft (2025), section 5.1."""

_ROUNDS = 10
_BLOCK = 16
_AT_ONCE = 2**14
"""Cells per pass: what a pass needs stays in the cache."""

Number = npt.NDArray[np.uint64] | npt.NDArray[np.object_]


def encrypt(cells: pa.Array, key: bytes, alphabet: str, tweak: bytes = b"") -> pa.Array:
    """Each cell as another text of the same length in the same alphabet; nulls stay.

    Guarantee:
        For each length, a permutation that whoever does not hold the key cannot tell from a random one
        (AES as a PRF in a 10-round Feistel network; the small domains on which known attacks do better
        than guessing are refused). It shows which cells are equal and how long they are.
        Checked by tests/unit/test_connect_ff1.py::test_the_samples_of_nist and
        tests/property/test_connect_kernels.py::test_ff1_is_a_permutation_that_decrypt_inverts.

    Args:
        cells: Text, n cells.
        key: An AES key of 16, 24 or 32 bytes, from ``column_key``.
        alphabet: The characters that a cell may hold, 2 to 65,536 distinct ones, in their order.
        tweak: Public; the same value under another tweak becomes another text.

    Raises:
        BadCell: A cell holds another character, or is so short that fewer than a million values share
            its length.
        ValueError: The alphabet or the key is not as above.

    Reference:
        NIST SP 800-38G, algorithm 7.
    """
    return _apply(cells, _Ff1(key, alphabet, tweak).encrypt, alphabet)


def decrypt(cells: pa.Array, key: bytes, alphabet: str, tweak: bytes = b"") -> pa.Array:
    """What ``encrypt`` was given, from what it made.

    Args:
        cells: As for ``encrypt``.
        key: As for ``encrypt``.
        alphabet: As for ``encrypt``.
        tweak: As for ``encrypt``.

    Raises:
        BadCell: As for ``encrypt``.
        ValueError: As for ``encrypt``.

    Reference:
        NIST SP 800-38G, algorithm 8.
    """
    return _apply(cells, _Ff1(key, alphabet, tweak).decrypt, alphabet)


@dataclass(frozen=True, slots=True)
class _Symbols:
    """Cells as positions in the alphabet: cell i is ``values[starts[i] : starts[i] + lengths[i]]``."""

    values: npt.NDArray[np.uint16]
    starts: npt.NDArray[np.int64]
    lengths: npt.NDArray[np.int64]
    valid: npt.NDArray[np.bool_]


def _apply(
    cells: pa.Array,
    permute: Callable[[npt.NDArray[np.uint16]], npt.NDArray[np.uint16]],
    alphabet: str,
) -> pa.Array:
    """``permute`` on the cells of each length, uint16[length, cells] at a time."""
    if pa.types.is_dictionary(cells.type):
        cells = cells.cast(cells.type.value_type)
    symbols = _symbols(cells, alphabet)
    made = np.zeros_like(symbols.values)
    for length in np.unique(symbols.lengths[symbols.valid]).tolist():
        rows = np.flatnonzero((symbols.lengths == length) & symbols.valid)
        steps = np.arange(length)[:, None]
        for first in range(0, len(rows), _AT_ONCE):
            places = symbols.starts[rows[first : first + _AT_ONCE]] + steps
            made[places] = permute(symbols.values[places])
    return _text(made, symbols, alphabet, large=pa.types.is_large_string(cells.type))


def _symbols(cells: pa.Array, alphabet: str) -> _Symbols:
    """Checks every cell and packs the cells without gaps."""
    text = cell_bytes(cells)
    ends = np.cumsum(text.lengths)
    total = int(ends[-1]) if len(ends) else 0
    if total and text.starts[-1] + text.lengths[-1] - text.starts[0] == total:
        data = text.data[text.starts[0] : text.starts[0] + total]
    else:
        # There are bytes beneath nulls.
        shift = np.repeat(text.starts - (ends - text.lengths), text.lengths)
        data = text.data[shift + np.arange(total)]
    if alphabet.isascii():
        table = np.full(256, -1, dtype=np.int32)
        table[np.frombuffer(alphabet.encode(), dtype=np.uint8)] = np.arange(len(alphabet))
        values = table[data]
    else:
        points = _code_points(data.tobytes().decode())
        ends = np.concatenate([[0], np.cumsum((data & 0xC0) != 0x80)])[ends]
        known = _code_points(alphabet)
        order = np.argsort(known).astype(np.int32)
        near = order[np.searchsorted(known, points, sorter=order).clip(max=len(known) - 1)]
        values = np.where(known[near] == points, near, -1)
    lengths = np.diff(ends, prepend=0)
    _check(values, ends, lengths, text.valid, len(alphabet))
    return _Symbols(values.astype(np.uint16), ends - lengths, lengths, text.valid)


def _check(
    values: npt.NDArray[np.int32],
    ends: npt.NDArray[np.int64],
    lengths: npt.NDArray[np.int64],
    valid: npt.NDArray[np.bool_],
    radix: int,
) -> None:
    shortest = 1
    while radix**shortest < MINIMUM_DOMAIN:
        shortest += 1
    short = valid & (lengths < shortest)
    foreign = values < 0
    first_short = int(np.argmax(short)) if short.any() else len(ends)
    first_foreign = len(ends)
    if foreign.any():
        first_foreign = int(np.searchsorted(ends, np.argmax(foreign), side="right"))
    if first_foreign < len(ends) and first_foreign <= first_short:
        raise BadCell(first_foreign, "holds a character outside its alphabet")
    if first_short < len(ends):
        raise BadCell(
            first_short,
            f"has fewer than {shortest} characters: fewer than a million values share its length",
        )


def _text(
    made: npt.NDArray[np.uint16], symbols: _Symbols, alphabet: str, *, large: bool
) -> pa.Array:
    """Symbols as text in cells of the lengths that the symbols came in."""
    points = _code_points(alphabet)[made]
    ends = symbols.starts + symbols.lengths
    if alphabet.isascii():
        data = points.astype(np.uint8).tobytes()
    else:
        data = points.tobytes().decode("utf-32-le").encode()
        sizes = 1 + (points > 0x7F).astype(np.int64) + (points > 0x7FF) + (points > 0xFFFF)
        ends = np.concatenate([[0], np.cumsum(sizes)])[ends]
    offsets = np.concatenate([[0], ends]).astype(np.int64 if large else np.int32)
    mask = None if symbols.valid.all() else pa.array(symbols.valid).buffers()[1]
    buffers = [mask, pa.py_buffer(offsets), pa.py_buffer(data)]
    return pa.Array.from_buffers(pa.large_string() if large else pa.string(), len(ends), buffers)


def _code_points(text: str) -> npt.NDArray[np.uint32]:
    return np.frombuffer(text.encode("utf-32-le"), dtype="<u4")


@dataclass(frozen=True, slots=True)
class _Shape:
    """What the cells of one length have in common; names of the specification in brackets.

    Args:
        left: Symbols of the left half [u].
        right: Symbols of the right half [v].
        width: Bytes of a half as a number [b].
        drawn: Bytes of a round's output [d].
        state: The CBC-MAC of everything that is the same in every round, 16 bytes.
        rest: Its remaining input, with zeros for the round and the half: whole blocks.
    """

    left: int
    right: int
    width: int
    drawn: int
    state: bytes
    rest: bytes


class _Ff1:
    """FF1 under one key and tweak on uint16[length, cells], cells of one length."""

    def __init__(self, key: bytes, alphabet: str, tweak: bytes) -> None:
        if not 2 <= len(alphabet) <= 2**16 or len(set(alphabet)) < len(alphabet):
            raise ValueError("an alphabet has 2 to 65,536 distinct characters")
        if len(key) not in (16, 24, 32):
            raise ValueError("an AES key has 16, 24 or 32 bytes")
        self._radix, self._tweak = len(alphabet), tweak
        # ECB of blocks that CBC-MAC chains: the specification's PRF, one block of every cell at a time.
        self._cipher = Cipher(algorithms.AES(key), modes.ECB()).encryptor()  # noqa: S305
        self._shapes: dict[int, _Shape] = {}

    def encrypt(self, symbols: npt.NDArray[np.uint16]) -> npt.NDArray[np.uint16]:
        shape = self._shape(len(symbols))
        a = self._number(symbols[: shape.left], shape)
        b = self._number(symbols[shape.left :], shape)
        for number in range(_ROUNDS):
            modulus = self._radix ** (shape.right if number % 2 else shape.left)
            drawn = self._round(number, b, modulus, shape)
            a, b = b, _sum(a, drawn, modulus)
        return self._symbols(a, b, shape)

    def decrypt(self, symbols: npt.NDArray[np.uint16]) -> npt.NDArray[np.uint16]:
        shape = self._shape(len(symbols))
        a = self._number(symbols[: shape.left], shape)
        b = self._number(symbols[shape.left :], shape)
        for number in reversed(range(_ROUNDS)):
            modulus = self._radix ** (shape.right if number % 2 else shape.left)
            drawn = self._round(number, a, modulus, shape)
            a, b = _difference(b, drawn, modulus), a
        return self._symbols(a, b, shape)

    def _shape(self, length: int) -> _Shape:
        if length in self._shapes:
            return self._shapes[length]
        left = length // 2
        right = length - left
        width = ((self._radix**right - 1).bit_length() + 7) // 8
        drawn = 4 * -(-width // 4) + 4
        head = bytes([1, 2, 1]) + self._radix.to_bytes(3, "big") + bytes([_ROUNDS, left % 256])
        head += length.to_bytes(4, "big") + len(self._tweak).to_bytes(4, "big")
        same = self._tweak + bytes(-(len(self._tweak) + width + 1) % _BLOCK)
        whole = len(same) - len(same) % _BLOCK
        state = bytes(_BLOCK)
        for first in range(0, _BLOCK + whole, _BLOCK):
            block = (head + same)[first : first + _BLOCK]
            mixed = bytes(x ^ y for x, y in zip(state, block, strict=True))
            state = self._cipher.update(mixed)
        rest = same[whole:] + bytes(width + 1)
        self._shapes[length] = _Shape(left, right, width, drawn, state, rest)
        return self._shapes[length]

    def _fits(self, shape: _Shape) -> bool:
        """Whether halves, and sums of two of them, are numbers of 64 bits."""
        return bool(self._radix**shape.right <= 2**63)

    def _number(self, half: npt.NDArray[np.uint16], shape: _Shape) -> Number:
        """NUM of every column, in pieces that fit into 64 bits."""
        total: Number = np.zeros(half.shape[1], dtype=np.uint64)
        if not self._fits(shape):
            total = total.astype(object)
        for first, last in self._pieces(len(half)):
            piece = np.zeros(half.shape[1], dtype=np.uint64)
            for row in half[first:last]:
                piece *= np.uint64(self._radix)
                piece += row
            if self._fits(shape):
                total = piece
            else:
                total = total * self._radix ** (last - first) + piece.astype(object)
        return total

    def _symbols(self, a: Number, b: Number, shape: _Shape) -> npt.NDArray[np.uint16]:
        """STR of both halves: undoes ``_number``."""
        made = np.empty((shape.left + shape.right, len(a)), dtype=np.uint16)
        for half, number in ((made[: shape.left], a), (made[shape.left :], b)):
            rest = number
            for first, last in reversed(list(self._pieces(len(half)))):
                piece = rest
                if not self._fits(shape):
                    size = self._radix ** (last - first)
                    piece, rest = rest % size, rest // size
                piece = piece.astype(np.uint64)
                for place in reversed(range(first, last)):
                    quotient = piece // np.uint64(self._radix)
                    half[place] = piece - quotient * np.uint64(self._radix)
                    piece = quotient
        return made

    def _pieces(self, length: int) -> Iterator[tuple[int, int]]:
        """Ranges of symbols whose numbers are at most 2**63."""
        most = 1
        while self._radix ** (most + 1) <= 2**63:
            most += 1
        for first in range(0, length, most):
            yield first, min(first + most, length)

    def _round(self, number: int, half: Number, modulus: int, shape: _Shape) -> Number:
        """The round function [y] of every cell modulo ``modulus``."""
        if not self._fits(shape):
            return self._long_round(number, half, modulus, shape)
        # The half and, in the byte before it, the round: beside them the block is always the same.
        constant = int.from_bytes(shape.state) ^ int.from_bytes(shape.rest)
        constant ^= number << (8 * shape.width)
        blocks = np.empty((len(half), 2), dtype=">u8")
        blocks[:, 0] = constant >> 64
        blocks[:, 1] = half ^ np.uint64(constant % 2**64)
        words = self._encrypted(blocks.view(np.uint8)).view(">u8")
        high = words[:, 0].astype(np.uint64)
        if shape.drawn == 8:
            return _remainder(high, modulus)
        return _longer_remainder(high, words[:, 1] >> np.uint64(32), modulus)

    def _long_round(self, number: int, half: Number, modulus: int, shape: _Shape) -> Number:
        count = len(half)
        blocks = np.tile(np.frombuffer(shape.rest, dtype=np.uint8), (count, 1))
        blocks[:, -shape.width - 1] = number
        written = b"".join(int(value).to_bytes(shape.width) for value in half)
        blocks[:, -shape.width :] = np.frombuffer(written, np.uint8).reshape(count, -1)
        state = np.frombuffer(shape.state, dtype=np.uint8)[None, :]
        for first in range(0, len(shape.rest), _BLOCK):
            state = self._encrypted(blocks[:, first : first + _BLOCK] ^ state)
        stream = [state]
        for extra in range(1, -(-shape.drawn // _BLOCK)):
            counter = np.frombuffer(extra.to_bytes(_BLOCK), dtype=np.uint8)
            stream.append(self._encrypted(state ^ counter))
        drawn = np.concatenate(stream, axis=1)[:, : shape.drawn]
        values = np.empty(count, dtype=object)
        values[:] = [int.from_bytes(line.tobytes()) % modulus for line in drawn]
        return values

    def _encrypted(self, blocks: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
        """AES of every row, uint8[n, 16]."""
        out = np.empty(blocks.size + _BLOCK - 1, dtype=np.uint8)
        self._cipher.update_into(blocks.data.cast("B"), out.data)
        return out[: blocks.size].reshape(-1, _BLOCK)


def _sum(a: Number, b: Number, modulus: int) -> Number:
    """The sum of numbers below ``modulus``, modulo it."""
    total: Number = a + b
    if total.dtype == object:
        return total % modulus
    less: Number = np.minimum(total, total - np.uint64(modulus))  # a negative number wraps around
    return less


def _difference(a: Number, b: Number, modulus: int) -> Number:
    """The difference of numbers below ``modulus``, modulo it."""
    left: Number = a - b
    if left.dtype == object:
        return left % modulus
    more: Number = np.minimum(left, left + np.uint64(modulus))  # a negative number wraps around
    return more


def _remainder(values: npt.NDArray[np.uint64], modulus: int) -> npt.NDArray[np.uint64]:
    return values - values // np.uint64(modulus) * np.uint64(modulus)


def _longer_remainder(
    high: npt.NDArray[np.uint64], low: npt.NDArray[np.uint64], modulus: int
) -> npt.NDArray[np.uint64]:
    """(high * 2**32 + low) modulo at most 2**63, low of 32 bits, without exceeding 64 bits."""
    left = _remainder(high, modulus)
    todo = 32
    while todo:
        step = min(todo, 64 - (modulus - 1).bit_length())
        todo -= step
        piece = (low >> np.uint64(todo)) & np.uint64(2**step - 1)
        left = _remainder((left << np.uint64(step)) | piece, modulus)
    return left
