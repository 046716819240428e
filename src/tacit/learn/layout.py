"""The layout of a model's state: what is aggregated, what stays at a site, and what never changes.

A state is flattened once, by one list, and the list has a digest. Two sites that would add up other
coordinates, or that compute with other constants, are told apart before a round begins.
"""

from __future__ import annotations

import dataclasses
import hashlib
import math
from collections.abc import Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any, Literal

import numpy as np
import rfc8785
from numpy.typing import NDArray

from tacit.errors import ConfigError, DecodeError
from tacit.types import Digest

__all__ = ["Entry", "Layout", "Role"]

Floats = NDArray[np.float64]

Role = Literal["shared", "local", "constant"]

_NAMED = 12


@dataclass(frozen=True, slots=True)
class Entry:
    """One tensor of a model's state.

    Args:
        name: Its name in the model.
        shape: Its axes; none for a scalar.
        dtype: Its type in the model, such as ``float32`` or ``int64``.
        role: ``shared``: a trained parameter that is flattened into the contribution. ``local``: one
            that every site trains for itself and keeps. ``constant``: a frozen parameter or a buffer,
            integer buffers included; never trained, added up or averaged.
        content: SHA-256 of a constant's bytes, little-endian in row order; None for all others.

    Raises:
        ValueError: An axis is negative, or ``content`` does not go with ``role``.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    role: Role
    content: Digest | None = None

    def __post_init__(self) -> None:
        if any(axis < 0 for axis in self.shape):
            raise ValueError("an axis has a negative length")
        if (self.role == "constant") != (self.content is not None):
            raise ValueError("a constant, and nothing else, has a digest of its content")

    @property
    def size(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)

    def to_record(self) -> dict[str, Any]:
        """The entry as text and integers."""
        record = {"name": self.name, "shape": [*self.shape], "dtype": self.dtype, "role": self.role}
        return record if self.content is None else {**record, "content": self.content.hex()}


@dataclass(frozen=True, slots=True)
class Layout:
    """All tensors of a model's state, in order.

    The parameters (``shared`` and ``local``) one after the other, each in row order, are the model's
    parameter vector, ``float64[parameters]``; the shared ones alone are the run's, ``[dimension]``.

    Guarantee:
        ``digest`` changes with every name, shape, type and role, with the order, and with every byte
        of a constant. Test: ``tests/unit/test_learn_layout.py::test_any_difference_changes_the_digest``.

    Args:
        entries: At least one of them shared; names are unique.

    Raises:
        ValueError: A name occurs twice, or nothing is shared.
    """

    entries: tuple[Entry, ...]

    def __post_init__(self) -> None:
        if len({entry.name for entry in self.entries}) != len(self.entries):
            raise ValueError("a name occurs twice in the layout")
        if not self.dimension:
            raise ValueError("the layout shares nothing")

    @property
    def dimension(self) -> int:
        """Number of shared parameters: the length of what is aggregated."""
        return self._count("shared")

    @property
    def local_dimension(self) -> int:
        """Number of parameters that stay at each site."""
        return self._count("local")

    @property
    def digest(self) -> Digest:
        """SHA-256 of the entries in RFC 8785 form, under a domain of its own."""
        record = [entry.to_record() for entry in self.entries]
        return Digest(hashlib.sha256(b"tacit model layout v1\x00" + rfc8785.dumps(record)).digest())

    def shared_sizes(self) -> tuple[int, ...]:
        """Elements of every shared entry, in the order of the aggregated vector."""
        return tuple(entry.size for entry in self._of("shared"))

    def offsets(self) -> dict[str, int]:
        """Where each shared entry starts in the aggregated vector."""
        starts, position = {}, 0
        for entry in self._of("shared"):
            starts[entry.name] = position
            position += entry.size
        return starts

    def with_local(self, patterns: tuple[str, ...]) -> Layout:
        """The layout in which the shared entries that a pattern matches are local.

        Args:
            patterns: Names with ``*``, ``?`` and ``[...]``; case counts.

        Raises:
            ConfigError: A pattern matches no trained parameter, or nothing would stay shared.
        """
        known = [entry.name for entry in self._of("shared")]
        chosen: set[str] = set()
        for pattern in patterns:
            matched = {name for name in known if fnmatchcase(name, pattern)}
            if not matched:
                listed = ", ".join(known[:_NAMED]) + (", ..." if len(known) > _NAMED else "")
                raise _refused(
                    f"'{pattern}' matches no trained parameter of the model",
                    f"its trained parameters: {listed}",
                )
            chosen |= matched
        if chosen and chosen >= {entry.name for entry in self._of("shared") if entry.size}:
            raise _refused(
                "every trained parameter would stay at its site, and nothing would be learnt together",
                "leave at least one parameter out of the patterns",
            )
        return Layout(
            tuple(
                dataclasses.replace(entry, role="local") if entry.name in chosen else entry
                for entry in self.entries
            )
        )

    def shared(self, parameters: Floats) -> Floats:
        """The part of the model's parameter vector that is aggregated, ``float64[dimension]``."""
        return self._part(parameters, "shared")

    def local(self, parameters: Floats) -> Floats:
        """The part of it that stays at a site, ``float64[local_dimension]``."""
        return self._part(parameters, "local")

    def join(self, shared: Floats, local: Floats) -> Floats:
        """The model's parameter vector: the inverse of ``shared`` and ``local`` together.

        Raises:
            ValueError: A part has another length.
        """
        if shared.shape != (self.dimension,) or local.shape != (self.local_dimension,):
            raise ValueError("the parts do not fit the layout")
        if not len(local):
            return shared
        whole = np.empty(len(shared) + len(local))
        for role, part in (("shared", shared), ("local", local)):
            start = 0
            for entry, place in self._places():
                if entry.role == role:
                    whole[place] = part[start : start + entry.size]
                    start += entry.size
        return whole

    def local_to_bytes(self, local: Floats) -> bytes:
        """A site's local parameters as it stores them: the layout's digest, then little-endian."""
        return self.digest + np.ascontiguousarray(local, dtype="<f8").tobytes()

    def local_from_bytes(self, data: bytes) -> Floats:
        """The inverse of ``local_to_bytes``, ``float64[local_dimension]``.

        Raises:
            DecodeError: Another layout or length, or a number that is not finite.
        """
        digest = self.digest
        if data[: len(digest)] != digest or len(data) != len(digest) + 8 * self.local_dimension:
            raise DecodeError("learn.local-state", "the local parameters are of another layout")
        local = np.frombuffer(data, dtype="<f8", offset=len(digest)).astype(np.float64)
        if not np.isfinite(local).all():
            raise DecodeError("learn.local-state", "a local parameter is not finite")
        return local

    def _part(self, parameters: Floats, role: Role) -> Floats:
        if parameters.shape != (self.dimension + self.local_dimension,):
            raise ValueError("the parameters do not fit the layout")
        if role == "shared" and not self.local_dimension:
            return parameters
        parts = [parameters[place] for entry, place in self._places() if entry.role == role]
        return np.concatenate(parts) if parts else np.zeros(0)

    def _places(self) -> Iterator[tuple[Entry, slice]]:
        """Every parameter and where it lies in the model's parameter vector."""
        start = 0
        for entry in self.entries:
            if entry.role != "constant":
                yield entry, slice(start, start + entry.size)
                start += entry.size

    def _of(self, role: Role) -> Iterator[Entry]:
        return (entry for entry in self.entries if entry.role == role)

    def _count(self, role: Role) -> int:
        return sum(entry.size for entry in self._of(role))


def _refused(message: str, remedy: str) -> ConfigError:
    key = "training.local_layers"
    return ConfigError("learn.local-layers", f"{key}: {message}", remedy=remedy, key=key)
