"""The server step, which leader and sites compute alike, bit for bit.

Only elementwise float64 addition, multiplication, division and square root in a fixed order: IEEE 754
rounds each of them correctly on every platform, which it does not promise for ``pow`` or for BLAS.
"""

from __future__ import annotations

import hashlib
import math
import struct
from dataclasses import dataclass
from decimal import Context, Decimal, localcontext
from functools import lru_cache
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from tacit.errors import DecodeError, RoundAborted
from tacit.types import Digest

__all__ = ["ServerRule", "ServerState"]

Floats = NDArray[np.float64]

ADAM_SECOND_DECAY = 0.999  # Kingma and Ba 2015, algorithm 1
ADAM_EPSILON = 1e-8

LEAST_SCALE, MOST_SCALE = 2.0**-40, 2.0**40
"""Where adaptive clipping stops: beyond, integers and gradients would no longer meet."""

PI = Decimal("3.14159265358979323846264338327950288")
COSINE = Context(prec=40)

_MAGIC = b"tacit server state v1\x00"
_HEADER = struct.Struct("<QQQd")  # dimension, averaged, steps, clip_scale
_ARRAYS = ("theta", "momentum", "second_moment", "average")


@dataclass(frozen=True, slots=True, eq=False)
class ServerState:
    """Everything that the next step depends on. Arrays are ``float64[d]``, copied and read-only.

    Args:
        theta: Current parameters; what the next round trains on.
        momentum: First moment of the gradients.
        second_moment: Second moment (``adam`` only, else zero).
        average: Mean of the averaged iterates.
        averaged: Number of iterates in ``average``.
        steps: Number of steps done.
        clip_scale: What adaptive clipping multiplies the clip norm by; 1.0 for any other clipping.
    """

    theta: Floats
    momentum: Floats
    second_moment: Floats
    average: Floats
    averaged: int
    steps: int
    clip_scale: float = 1.0

    def __post_init__(self) -> None:
        for name in _ARRAYS:
            array = np.array(getattr(self, name), dtype="<f8", order="C")
            if array.shape != (np.size(self.theta),):
                raise ValueError(f"{name} must be a vector as long as theta")
            array.setflags(write=False)
            object.__setattr__(self, name, array)

    @property
    def digest(self) -> Digest:
        """SHA-256 of ``to_bytes()``: equal for two parties if and only if every bit is."""
        return Digest(hashlib.sha256(self.to_bytes()).digest())

    def to_bytes(self) -> bytes:
        """Header and little-endian arrays."""
        header = _HEADER.pack(len(self.theta), self.averaged, self.steps, self.clip_scale)
        return _MAGIC + header + b"".join(getattr(self, name).tobytes() for name in _ARRAYS)

    @classmethod
    def from_bytes(cls, data: bytes) -> ServerState:
        """The state whose ``to_bytes()`` is exactly ``data``.

        Raises:
            DecodeError: ``data`` is anything else, or holds a number that is not finite.
        """
        start = len(_MAGIC) + _HEADER.size
        if len(data) < start or not data.startswith(_MAGIC):
            raise DecodeError("learn.server-state", "the bytes are not a server state")
        dimension, averaged, steps, scale = _HEADER.unpack_from(data, len(_MAGIC))
        body = (
            np.frombuffer(data, dtype="<f8", offset=start) if len(data) % 8 == start % 8 else None
        )
        if body is None or len(body) != len(_ARRAYS) * dimension or averaged > steps:
            raise DecodeError("learn.server-state", "the server state has a wrong length or count")
        if not (np.isfinite(body).all() and LEAST_SCALE <= scale <= MOST_SCALE):
            raise DecodeError("learn.server-state", "the server state holds a number out of range")
        theta, momentum, second_moment, average = body.reshape(len(_ARRAYS), dimension)
        return cls(theta, momentum, second_moment, average, averaged, steps, scale)


@dataclass(frozen=True, slots=True)
class ServerRule:
    """How an aggregated gradient moves the model.

    Args:
        optimiser: ``sgd``, ``momentum`` (heavy ball) or ``adam``.
        learning_rate: Positive.
        momentum: Decay of the first moment, in [0, 1); ignored by ``sgd``.
        average_from: Fraction of ``rounds`` after which iterates are averaged; 1.0 is never.
        rounds: Number of steps planned, at least 1.
        schedule: ``constant``, or ``cosine``: from ``learning_rate`` in the first step towards 0.
        clip_quantile: Which fraction of gradients adaptive clipping is to leave as they are.
        clip_rate: How fast it follows, in [0, 1).

    Raises:
        ValueError: A number is out of range.

    Guarantee:
        ``step`` is a deterministic function of its arguments' bits, element by element. Test:
        ``tests/property/test_learn_server.py::test_steps_are_elementwise``.

    Reference:
        Polyak 1964 (heavy ball); Kingma and Ba 2015, algorithm 1 (Adam); Polyak and Juditsky
        1992 (averaging); Loshchilov and Hutter 2017 (cosine); Andrew et al. 2021 (adaptive clipping;
        to first order, because libm's ``exp`` differs between platforms).
    """

    optimiser: Literal["sgd", "momentum", "adam"]
    learning_rate: float
    momentum: float = 0.9
    average_from: float = 1.0
    rounds: int = 1
    schedule: Literal["constant", "cosine"] = "constant"
    clip_quantile: float = 0.5
    clip_rate: float = 0.0

    def __post_init__(self) -> None:
        if self.optimiser not in ("sgd", "momentum", "adam"):
            raise ValueError(f"unknown optimiser {self.optimiser!r}")
        if not (math.isfinite(self.learning_rate) and self.learning_rate > 0):
            raise ValueError("learning_rate must be positive")
        if not 0 <= self.momentum < 1:
            raise ValueError("momentum must lie in [0, 1)")
        if not 0 <= self.average_from <= 1:
            raise ValueError("average_from must lie in [0, 1]")
        if self.rounds < 1:
            raise ValueError("rounds must be at least 1")
        if self.schedule not in ("constant", "cosine"):
            raise ValueError(f"unknown schedule {self.schedule!r}")
        if not (0 <= self.clip_quantile <= 1 and 0 <= self.clip_rate < 1):
            raise ValueError("clip_quantile must lie in [0, 1], clip_rate in [0, 1)")

    def start(self, theta: Floats) -> ServerState:
        """The state before the first step."""
        zero = np.zeros_like(theta, dtype=np.float64)
        return ServerState(theta, zero, zero, zero, averaged=0, steps=0)

    def step(self, state: ServerState, gradient: Floats, short: float | None = None) -> ServerState:
        """One step against ``gradient``, ``float64[d]``; for an update by deltas pass their negative.

        Args:
            state: Before the step.
            gradient: What the round's sum says.
            short: The (noisy) fraction of gradients that adaptive clipping left as they were, in
                [0, 1]; None for any other clipping.

        Raises:
            RoundAborted: The result is not finite; a smaller learning rate may help.
            ValueError: ``gradient`` has another length than the state.
        """
        if gradient.shape != state.theta.shape:
            raise ValueError("the gradient must be a vector as long as theta")
        steps = state.steps + 1
        with np.errstate(all="ignore"):
            first, second, direction = self._direction(state, gradient, steps)
            theta = state.theta - self._rate(state.steps) * direction
            average, averaged = state.average, state.averaged
            if steps > math.floor(self.average_from * self.rounds):
                averaged += 1
                average = average + (theta - average) / averaged
        if not all(np.isfinite(array).all() for array in (theta, first, second, average)):
            raise RoundAborted(
                "learn.diverged",
                f"the model is no longer finite after step {steps}",
                retryable=False,
                remedy="lower training.learning_rate",
            )
        scale = state.clip_scale
        if short is not None:
            scale *= 1.0 - self.clip_rate * (short - self.clip_quantile)
            scale = min(max(scale, LEAST_SCALE), MOST_SCALE)
        return ServerState(theta, first, second, average, averaged, steps, scale)

    def _rate(self, done: int) -> float:
        """The learning rate after so many steps."""
        if self.schedule == "constant":
            return self.learning_rate
        return self.learning_rate * _half_cosine(min(done, self.rounds), self.rounds)

    def released(self, state: ServerState) -> Floats:
        """The parameters that a run releases: the average once there is one, else the last."""
        return state.average if state.averaged else state.theta

    def _direction(
        self, state: ServerState, gradient: Floats, steps: int
    ) -> tuple[Floats, Floats, Floats]:
        """First moment, second moment and the direction of step number ``steps``."""
        if self.optimiser == "sgd":
            return state.momentum, state.second_moment, gradient
        if self.optimiser == "momentum":
            first = self.momentum * state.momentum + gradient
            return first, state.second_moment, first
        first = self.momentum * state.momentum + (1.0 - self.momentum) * gradient
        square = gradient * gradient
        second = ADAM_SECOND_DECAY * state.second_moment + (1.0 - ADAM_SECOND_DECAY) * square
        mean = first / (1.0 - _power(self.momentum, steps))
        spread = np.sqrt(second / (1.0 - _power(ADAM_SECOND_DECAY, steps)))
        return first, second, mean / (spread + ADAM_EPSILON)


def _power(base: float, exponent: int) -> float:
    """``base ** exponent`` by multiplications alone: libm's ``pow`` differs between platforms."""
    result = 1.0
    while exponent:
        if exponent & 1:
            result *= base
        base *= base
        exponent >>= 1
    return result


@lru_cache(maxsize=1024)
def _half_cosine(done: int, rounds: int) -> float:
    """``(1 + cos(pi done / rounds)) / 2``, the same double on every platform: decimals, not libm."""
    with localcontext(COSINE):
        square = (PI * done / rounds) ** 2
        term = total = Decimal(1)
        for index in range(1, 30):
            term = -term * square / (2 * index * (2 * index - 1))
            total += term
        return float((1 + total) / 2)
