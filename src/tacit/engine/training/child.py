"""The training child: ``python -m tacit.engine.training.child``, started by a site and by nobody else.

Its only connection is the socket that it gets as standard input. It holds no key, reads no file of the
site and draws no randomness of its own: it gets a job, the source of a model that the site's policy
approved, and prepared records, and answers with contributions. Limits on itself it sets before any code
of the job runs.
"""

from __future__ import annotations

import contextlib
import json
import os
import resource
import select
import socket
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tacit.engine.training.memory import map_records
from tacit.engine.training.protocol import (
    FLOAT,
    Channel,
    Complete,
    Draw,
    Drawn,
    Failed,
    First,
    Frame,
    Made,
    Ready,
    Records,
    Start,
    Train,
    Vector,
    Written,
    floats,
)
from tacit.errors import TacitError
from tacit.learn.code import LoadedModel, ModelCode
from tacit.learn.server import ServerState
from tacit.party.job import JobSpec
from tacit.party.workload import Carried, TrainingData, Workload
from tacit.privacy.plan import Plan
from tacit.types import Digest

__all__ = ["main"]

SOURCE_LIMIT = 1024 * 1024
ANY = 2**40
"""The child trusts the site's sizes."""


class AskedEntropy:
    """Random bytes that the site draws.

    Args:
        channel: The connection to it.
    """

    def __init__(self, channel: Channel) -> None:
        self._channel = channel

    def draw(self, size: int) -> bytes:
        """``size`` bytes of the site's own source."""
        self._channel.send(Draw(size))
        return bytes(self._channel.receive({Drawn: (size,)}).arrays[0])


class Desk:
    """Answers a site's requests, one after the other.

    Args:
        channel: The connection to the site.
    """

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self._workload: Workload | None = None
        self._data: TrainingData | None = None

    def serve(self) -> None:
        """Answers until the site hangs up."""
        known = {
            Start: (SOURCE_LIMIT,),
            Records: (),
            First: (),
            Train: (ANY, ANY, ANY, ANY),
            Complete: (ANY, ANY),
        }
        while True:
            try:
                frame, descriptor = self._channel.receive_with_descriptor(known)
            except EOFError:
                return
            try:
                answer, arrays = self._answer(frame, descriptor)
            except TacitError as error:
                self._channel.send(_failed(error.code, error.message, error.remedy))
            except Exception as error:  # noqa: BLE001 - what a model's own code raises may tell of a record.
                self._channel.send(_failed("site.model-failed", type(error).__name__, ""))
            else:
                self._channel.send(answer, arrays)

    def _answer(self, frame: Frame, descriptor: int | None) -> tuple[Any, list[Any]]:
        match frame.message:
            case Start():
                self._workload = _build(frame.message, bytes(frame.arrays[0]))
                layout = self._workload.state_layout
                sizes = layout.shared_sizes()
                ready = Ready(layout.dimension, layout.local_dimension, layout.digest, sizes)
                return ready, []
            case Records():
                assert descriptor is not None
                self._data = map_records(descriptor, frame.message)
                os.close(descriptor)
                return Written(), []
        assert self._workload is not None
        match frame.message:
            case First(seed=seed):
                return Vector(), [self._workload.first(seed).theta]
            case Complete(local=has):
                local = bytes(frame.arrays[1]) if has else None
                return Vector(), [self._workload.complete(floats(frame.arrays[0]), local)]
            case _:
                return self._train(frame.message, frame.arrays)

    def _train(self, asked: Train, arrays: tuple[bytearray, ...]) -> tuple[Any, list[Any]]:
        assert self._workload is not None
        assert self._data is not None
        arrays, local = (arrays[:-1], bytes(arrays[-1])) if asked.local else (arrays, None)
        theta = floats(arrays[0])
        moments: list[NDArray[np.float64]] = (
            [floats(array) for array in arrays[1:]] if asked.whole else [np.zeros_like(theta)] * 3
        )
        scale = FLOAT.unpack(asked.clip_scale)[0]
        first, second, average = moments
        state = ServerState(theta, first, second, average, asked.averaged, asked.steps, scale)
        plan = Plan.from_record(json.loads(asked.plan))
        carried = Carried(local, asked.participations)
        entropy = AskedEntropy(self._channel)
        made = self._workload.contribution(state, self._data, plan, entropy, carried)
        after = made.carried
        word = Made(made.sampled, after.participations, after.local is not None)
        vector = np.ascontiguousarray(made.vector)
        return word, [vector] if after.local is None else [vector, after.local]


def _build(asked: Start, source: bytes) -> Workload:
    _limit(asked)
    job = JobSpec.from_canonical(asked.job)
    found = ModelCode(asked.spec, Path(asked.spec.rpartition(":")[0]), source, Digest(bytes(32)))
    model = LoadedModel(found.load(asked.features, asked.classes), found.code, pinned=True)
    return Workload.build(job, model, asked.classes)


def _limit(asked: Start) -> None:
    """What the process may use from now on; no core file ever holds records."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if asked.memory:
        most = asked.memory * 1024 * 1024
        resource.setrlimit(resource.RLIMIT_AS, (most, most))
    os.nice(asked.niceness)


def _failed(code: str, message: str, remedy: str) -> Failed:
    return Failed(code[:64], message[:2048], remedy[:2048])


def _leave_with(connection: socket.socket) -> None:
    """Ends the process when the site is gone, whatever the model's code is busy with."""
    watch = select.poll()
    watch.register(connection.fileno(), select.POLLHUP | select.POLLERR)
    while not any(event & (select.POLLHUP | select.POLLERR) for _, event in watch.poll()):
        pass
    os._exit(0)


def main() -> int:
    """Serves the site at the other end of standard input."""
    connection = socket.socket(fileno=os.dup(0))
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    threading.Thread(target=_leave_with, args=(connection,), daemon=True).start()
    with contextlib.suppress(OSError):
        Desk(Channel(connection)).serve()
    return 0


if __name__ == "__main__":
    sys.exit(main())
