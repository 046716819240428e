"""A run's computation whose model code runs in a child process."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tacit.algebra.ring import Ring
from tacit.connect import SanitisedBatch
from tacit.engine.training.memory import SharedRecords
from tacit.engine.training.process import Child
from tacit.engine.training.protocol import (
    FLOAT,
    Buffer,
    Complete,
    First,
    Frame,
    Made,
    Ready,
    Start,
    Train,
    Vector,
    Written,
    floats,
)
from tacit.errors import RoundAborted
from tacit.learn.code import ModelCode
from tacit.learn.feature_map import FeatureMap
from tacit.learn.server import ServerRule, ServerState
from tacit.party.coordinates import Coordinates, is_rotated, server_rule
from tacit.party.job import JobSpec
from tacit.party.workload import FRESH, Carried, Contributed, Floats, TrainingData, prepare_private
from tacit.privacy.plan import Plan
from tacit.types import Digest, Entropy

__all__ = ["ChildWorkload", "Task"]

DRAWN_PER_ITEM = 32
DRAWN_AT_LEAST = 64 * 1024
"""Bytes that a child may draw for one contribution: so many for every record, and these in any case."""


@dataclass(frozen=True, slots=True)
class Task:
    """What a child is started with.

    Args:
        job: The job.
        code: The model's code.
        feature_map: What becomes of the columns; applied by the site.
        features: Number of features that the model sees.
        classes: Number of classes.
    """

    job: JobSpec
    code: ModelCode
    feature_map: FeatureMap
    features: int
    classes: int

    def start(self, memory: int, niceness: int) -> Start:
        """The first message to a child."""
        return Start(
            job=self.job.canonical(),
            spec=self.code.spec,
            features=self.features,
            classes=self.classes,
            memory=memory,
            niceness=niceness,
        )


class ChildWorkload:
    """One run's computation at a site that serves a federation: a ``Computation``.

    Data are prepared and sums are read here, where no code of a job runs; the model's code runs in a child
    alone. A child that crashed, hung or misbehaved is replaced at the next request and gets the same data.

    Args:
        task: What the child computes.
        start: Starts a child; the workload ends it.
        first: The message that starts its work.

    Raises:
        ConfigError: The model's code fails, or does not fit the job.
        RoundAborted: The child ended before it was ready.

    Guarantee:
        With one source of entropy every contribution is, bit for bit, what ``Workload`` makes of it in
        this process. Checked by
        ``tests/unit/test_engine_training.py::test_the_child_computes_what_this_process_computes``.
        The site's process never runs the code of a job's file. Checked by
        ``tests/unit/test_engine_training.py::test_the_site_never_runs_the_code``.
    """

    def __init__(self, task: Task, start: Callable[[], Child], first: Start) -> None:
        self._task = task
        self._start = start
        self._message = first
        self._child: Child | None = None
        self._shared: SharedRecords | None = None
        self._sent = False
        self._ready = self._begin()
        self.rule: ServerRule = server_rule(task.job)
        self.coordinates: Coordinates = Coordinates.of(
            task.job, self._ready.dimension, task.classes, self._ready.sizes
        )

    @property
    def child(self) -> Child | None:
        """The process that runs now, if any."""
        return self._child

    @property
    def code(self) -> Digest:
        """Digest of the code that defines the model."""
        return self._task.code.code

    @property
    def dimension(self) -> int:
        """Number of shared parameters."""
        return self._ready.dimension

    @property
    def layout(self) -> Digest:
        """Digest of the model's tensors, as the child has them."""
        return Digest(self._ready.layout)

    @property
    def length(self) -> int:
        """Number of elements of a contribution."""
        return self.coordinates.length

    def first(self, seed: bytes) -> ServerState:
        """The server state before round 1."""
        frame = self._ask(First(seed), Vector, 8 * self.dimension)
        return self.rule.start(self._floats(frame, self.dimension))

    def prepare_private(self, batch: SanitisedBatch, holdout_key: bytes) -> TrainingData:
        """Scales a site's batch, divides it, and puts it where a child can read it."""
        task = self._task
        data = prepare_private(task.job, batch, holdout_key, task.feature_map)
        if self._shared is not None:
            self._shared.close()
        self._shared, self._sent = SharedRecords.of(data), False
        return self._shared.data

    def contribution(
        self,
        state: ServerState,
        data: TrainingData,
        plan: Plan,
        entropy: Entropy,
        carried: Carried = FRESH,
    ) -> Contributed:
        """One site's contribution of a round; see ``Workload.contribution``.

        Raises:
            RoundAborted: The child crashed, took too long, or answered with what is no contribution.
            ConfigError: The model's code failed.
        """
        shared = self._share(data)
        whole = is_rotated(self._task.job)
        arrays: list[Buffer] = [state.theta]
        if whole:  # The rotation's seed follows from every bit of the state.
            arrays += [state.momentum, state.second_moment, state.average]
        extra = [carried.local] if carried.local is not None else []
        asked = Train(
            plan=plan.canonical(),
            averaged=state.averaged,
            steps=state.steps,
            clip_scale=FLOAT.pack(state.clip_scale),
            whole=whole,
            local=carried.local is not None,
            participations=carried.participations,
        )
        dtype = Ring(plan.ring_bits).dtype
        rows = sum(part.rows for part in shared.layout.parts)
        child = self._running()
        self._send(child, shared)
        frame = child.ask(
            asked,
            [*arrays, *extra],
            expected={Made: (self.length * dtype.itemsize, 32 + 8 * self._ready.local)},
            entropy=(entropy, DRAWN_AT_LEAST + DRAWN_PER_ITEM * rows),
        )
        return self._contributed(frame, plan, carried)

    def complete(self, shared: Floats, local: bytes | None = None) -> Floats:
        """The model's own parameter vector."""
        if not self._ready.local:
            return shared
        size = self.dimension + self._ready.local
        arrays: list[Buffer] = [shared] if local is None else [shared, local]
        frame = self._ask(Complete(local is not None), Vector, 8 * size, arrays)
        return self._floats(frame, size)

    def step(self, state: ServerState, total: NDArray[np.int64], plan: Plan) -> ServerState:
        """The server step; needs no code of a job."""
        return self.coordinates.step(total, plan, state)

    def metrics(
        self, state: ServerState, total: NDArray[np.int64], plan: Plan, helpers: int
    ) -> dict[str, float]:
        """The private metrics inside a round's sum; needs no code of a job."""
        return self.coordinates.metrics(total, plan, state, helpers)

    def released(self, state: ServerState) -> Floats:
        """The shared parameters that the run releases."""
        return self.rule.released(state)

    def close(self) -> None:
        """Ends the child, and lets go of the data."""
        self._end()
        if self._shared is not None:
            self._shared.close()
            self._shared = None

    # --- the child -----------------------------------------------------------------------------

    def _running(self) -> Child:
        """The child, ready for requests; a fresh one if the last one has ended."""
        if self._child is not None and self._child.alive:
            return self._child
        if self._begin() != self._ready:
            raise self._misbehaved("its sizes are not those of the child before it")
        assert self._child is not None
        return self._child

    def _begin(self) -> Ready:
        """Starts a child and learns the sizes of its model."""
        self._end()
        self._child = child = self._start()
        expected: dict[type, tuple[int, ...]] = {Ready: ()}
        try:
            frame = child.ask(
                self._message, [self._task.code.source], expected=expected, secret=False
            )
        except BaseException:
            self._end()
            raise
        ready: Ready = frame.message
        if sum(ready.sizes) != ready.dimension or not ready.dimension:
            raise self._misbehaved("its sizes contradict each other")
        return ready

    def _end(self) -> None:
        if self._child is not None:
            self._child.close()
        self._child, self._sent = None, False

    def _share(self, data: TrainingData) -> SharedRecords:
        if self._shared is None or self._shared.data is not data:
            raise AssertionError("data come from prepare_private")
        return self._shared

    def _send(self, child: Child, shared: SharedRecords) -> None:
        if not self._sent:
            expected: dict[type, tuple[int, ...]] = {Written: ()}
            child.ask(shared.layout, expected=expected, descriptor=shared.descriptor)
            self._sent = True

    def _ask(self, message: object, kind: type, size: int, arrays: Sequence[Buffer] = ()) -> Frame:
        return self._running().ask(message, arrays, expected={kind: (size,)}, secret=self._sent)

    def _floats(self, frame: Frame, size: int) -> Floats:
        values = floats(frame.arrays[0]) if frame.arrays else np.zeros(0)
        if len(values) != size:
            raise self._misbehaved("a vector has another length")
        return values.astype(np.float64)

    def _contributed(self, frame: Frame, plan: Plan, before: Carried) -> Contributed:
        """What the child made, checked as far as a site can."""
        made: Made = frame.message
        ring = Ring(plan.ring_bits)
        sizes = [self.length * ring.dtype.itemsize]
        sizes += [32 + 8 * self._ready.local] if made.local else []
        counted = made.participations - before.participations
        if [len(array) for array in frame.arrays] != sizes or counted not in (0, 1):
            raise self._misbehaved("a contribution has another length")
        vector = np.frombuffer(frame.arrays[0], dtype=ring.dtype)
        ring.reduce(vector)
        local = bytes(frame.arrays[1]) if made.local else None
        return Contributed(vector, Carried(local, made.participations), made.sampled)

    def _misbehaved(self, what: str) -> RoundAborted:
        self._end()
        return _broken(what)


def _broken(what: str) -> RoundAborted:
    return RoundAborted(
        "training.protocol",
        f"the training child broke the protocol: {what}",
        retryable=True,
        remedy="read the model's file: it is not to be trusted",
    )
