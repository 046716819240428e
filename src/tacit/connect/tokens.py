"""Keyed tokens for whole columns: one AES call for all short values, one HMAC per distinct long value."""

from __future__ import annotations

import hmac

import numpy as np
import numpy.typing as npt
import pyarrow as pa  # type: ignore[import-untyped]
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from tacit.connect.cells import BadCell, Bytes, cell_bytes, validity

__all__ = ["KEY_BYTES", "TOKEN_BYTES", "column_key", "prf", "pseudonyms", "tokens"]

KEY_BYTES = 32
TOKEN_BYTES = 16
SHORT = 15
"""Bytes of a value that fit into one AES block beside their length."""

_KEEP = np.tri(TOKEN_BYTES, dtype=np.uint8) * np.uint8(255)
"""Row ``l`` keeps the first ``l + 1`` bytes of a block: the length and ``l`` bytes of the value."""


def column_key(root: bytes, contract: str, column: str, use: str) -> bytes:
    """The key of one use of one column of one contract.

    Guarantee:
        To whoever does not hold ``root``, keys of different contracts, columns or uses are independent
        (HMAC-SHA256 as a PRF; every part carries its length, so that no two triples share a message):
        what one of them made cannot be joined with what another made.
        Checked by tests/unit/test_connect_tokens.py::test_keys_of_different_purposes_differ.

    Args:
        root: The site's key, 32 bytes.
        contract: The contract's name.
        column: The column's name.
        use: What the key is for, such as ``token``, ``ff1``, ``shift`` or ``entity``.

    Raises:
        ValueError: ``root`` has another size.

    Reference:
        FIPS 198-1; HMAC as a PRF: Bellare, CRYPTO 2006.
    """
    parts = (use.encode(), contract.encode(), column.encode())
    message = b"".join(len(part).to_bytes(4, "big") + part for part in parts)
    return _derived(root, b"tacit column key v1\0" + message)


def tokens(cells: pa.Array, key: bytes) -> pa.Array:
    """Each cell's keyed pseudonym, ``fixed_size_binary(16)``; equal cells get equal tokens, nulls stay.

    A number or a date gets the token of its text.

    Guarantee:
        To whoever does not hold the key, tokens are random names: they show which cells are equal, and
        nothing else. Values of up to 15 bytes: AES-256 of the value's length, the value and zeros, one
        block, hence injective; as a PRF up to the birthday bound, with advantage at most q**2 / 2**129
        for q distinct values (never near 2**64). Longer values: HMAC-SHA256 truncated to 128 bits,
        under a key of its own.
        Checked by tests/unit/test_connect_tokens.py::test_tokens_match_their_definition and
        tests/property/test_connect_kernels.py::test_tokens_are_equal_exactly_where_cells_are.

    Args:
        cells: Text, integers or dates, n of them; a slice or a dictionary gives what plain cells give.
        key: 32 bytes, from ``column_key``.

    Raises:
        ValueError: The key has another size.

    Reference:
        FIPS 197; PRP/PRF switching lemma: Bellare and Rogaway, EUROCRYPT 2006, lemma 1. FIPS 198-1,
        truncated as in NIST SP 800-107r1 section 5.3.4.
    """
    blocks, valid = prf(cells, key, b"tacit token v2\0")
    mask = None if valid.all() else pa.array(valid).buffers()[1]
    kind = pa.binary(TOKEN_BYTES)
    return pa.Array.from_buffers(kind, len(valid), [mask, pa.py_buffer(blocks)])


def pseudonyms(cells: pa.Array, key: bytes) -> npt.NDArray[np.uint64]:
    """Each cell's keyed number, uint64[n]: equal where cells are, and otherwise but for one pair in 2**64.

    Guarantee:
        As for ``tokens``, and independent of them even under the same key.
        Checked by tests/unit/test_connect_tokens.py::test_pseudonyms_are_unrelated_to_tokens.

    Args:
        cells: As for ``tokens``, without nulls.
        key: 32 bytes, from ``column_key``.

    Raises:
        BadCell: A cell is null.
        ValueError: The key has another size.
    """
    blocks, valid = prf(cells, key, b"tacit pseudonym v2\0")
    if not valid.all():
        raise BadCell(int(np.argmin(valid)), "is empty")
    return blocks.view("<u8")[:, 0].astype(np.uint64)


def prf(
    cells: pa.Array, key: bytes, label: bytes
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.bool_]]:
    """16 pseudorandom bytes for every cell, uint8[n, 16], zeros where null; and which are not null.

    Args:
        cells: As for ``tokens``.
        key: 32 bytes.
        label: What the bytes are for; other labels give independent bytes.

    Raises:
        ValueError: The key has another size.
    """
    if pa.types.is_dictionary(cells.type):
        named, known = prf(cells.dictionary, key, label)
        valid = validity(cells.indices)
        places = cells.indices.fill_null(0).to_numpy(zero_copy_only=False)
        if not len(named):
            return np.zeros((len(cells), TOKEN_BYTES), dtype=np.uint8), valid
        valid = valid & known[places]
        taken = named[places]
        taken[~valid] = 0
        return taken, valid
    text = cell_bytes(cells)
    block_key = algorithms.AES256(_derived(key, label + b"short"))
    # ECB, because that equal blocks show is what a token is for.
    encryptor = Cipher(block_key, modes.ECB()).encryptor()  # noqa: S305
    blocks = _blocks(text)
    out = np.empty(blocks.size + TOKEN_BYTES - 1, dtype=np.uint8)
    encryptor.update_into(blocks.reshape(-1).data, out.data)
    made = out[: blocks.size].reshape(blocks.shape)
    if text.lengths.max(initial=0) > SHORT:
        _name_long(text, _derived(key, label + b"long"), made)
    made[~text.valid] = 0
    return made, text.valid


def _derived(key: bytes, label: bytes) -> bytes:
    if len(key) != KEY_BYTES:
        raise ValueError(f"a key has {KEY_BYTES} bytes")
    return hmac.digest(key, label, "sha256")


def _blocks(text: Bytes) -> npt.NDArray[np.uint8]:
    """One block for every cell, uint8[n, 16]: length, value, zeros; of no use where the cell is long."""
    # Every cell is read together with the byte before it, whose place its length takes.
    padded = np.zeros(len(text.data) + 2 * TOKEN_BYTES, dtype=np.uint8)
    padded[1 : 1 + len(text.data)] = text.data
    windows = np.ndarray(
        (len(text.data) + TOKEN_BYTES,), dtype=f"V{TOKEN_BYTES}", buffer=padded, strides=(1,)
    )
    blocks = windows[text.starts].view(np.uint8).reshape(-1, TOKEN_BYTES)
    lengths = np.minimum(text.lengths, SHORT)
    blocks.view(np.uint64)[...] &= _KEEP.view(np.uint64)[lengths]
    blocks[:, 0] = lengths
    return blocks


def _name_long(text: Bytes, key: bytes, made: npt.NDArray[np.uint8]) -> None:
    """Writes the tokens of long cells over what stands in their rows."""
    known: dict[bytes, bytes] = {}
    data = text.data.data
    rows = np.flatnonzero(text.lengths > SHORT)
    named = []
    for start, length in zip(text.starts[rows].tolist(), text.lengths[rows].tolist(), strict=True):
        value = bytes(data[start : start + length])
        token = known.get(value)
        if token is None:
            token = known[value] = hmac.digest(key, value, "sha256")[:TOKEN_BYTES]
        named.append(token)
    made[rows] = np.frombuffer(b"".join(named), dtype=np.uint8).reshape(-1, TOKEN_BYTES)
