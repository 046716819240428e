"""Where a serving site takes code from: its own folder ``code``, which its operator reviewed."""

from __future__ import annotations

import contextlib
import threading
import weakref
from pathlib import Path

from tacit.engine.training.process import PROGRAM, Child, Limits, Released
from tacit.engine.training.workload import ChildWorkload, Task
from tacit.errors import ConfigError, PolicyDenied
from tacit.learn.code import ModelCode, read_code
from tacit.learn.feature_map import FeatureMap
from tacit.party.job import JobSpec
from tacit.policy.schema import Schema
from tacit.types import Digest

__all__ = ["ChildCompute"]


class ChildCompute:
    """Opens computations whose model code runs in children: a ``Compute``.

    Args:
        code: The folder of approved files: model files and public priors.
        limits: What each child may use.
        released: Gives the host's lock back while a child is waited for.
        module: What children run; tests have a bad one.

    Guarantee:
        A file whose digest is not that of the run is never executed, in no process. Checked by
        ``tests/unit/test_engine_training.py::test_other_code_never_runs``.
    """

    def __init__(
        self,
        code: Path,
        limits: Limits = Limits(),  # noqa: B008 - frozen
        released: Released = contextlib.nullcontext,
        module: str = PROGRAM,
    ) -> None:
        self._code = code
        self._limits = limits
        self._released = released
        self._module = module
        self._children: weakref.WeakSet[Child] = weakref.WeakSet()
        self._lock = threading.Lock()
        self._closed = False

    def __call__(self, job: JobSpec, schema: Schema, code: Digest) -> ChildWorkload:
        """Reads the code, starts a child and learns the model's sizes.

        Raises:
            PolicyDenied: The file is not the one that the run names.
            ConfigError: There is no such file, or its code fails.
            RoundAborted: The child ended before it was ready.
        """
        columns, options = len(schema.features), job.features
        size = (options.height, options.width)
        feature_map = FeatureMap.load(options.map, size, options.file(self._code), columns)
        found = self._read(job, code, feature_map)
        task = Task(job, found, feature_map, feature_map.dimension(columns), len(schema.classes))
        first = task.start(self._limits.memory, self._limits.niceness)
        return ChildWorkload(task, self._child, first)

    @property
    def children(self) -> tuple[Child, ...]:
        """The processes that somebody still holds."""
        with self._lock:
            return tuple(self._children)

    def kill(self) -> None:
        """Ends all children and starts none any more; whoever waits for one is told. From any thread."""
        with self._lock:
            self._closed = True
            for child in self._children:
                child.kill()

    def _child(self) -> Child:
        with self._lock:
            child = Child(self._limits, self._released, self._module)
            self._children.add(child)
            if self._closed:
                child.kill()
        return child

    def _read(self, job: JobSpec, code: Digest, feature_map: FeatureMap) -> ModelCode:
        named, _, _ = job.model.partition(":")
        if named != job.model and not (self._code / named).is_file():
            raise ConfigError(
                "training.no-code",
                f"this site has no file {self._code / named}; the run names code {code.hex()}",
                remedy="review the job's model file, put it there, and let a policy rule name its digest: "
                "'tacit policy code' prints both",
                file=str(self._code / named),
            )
        try:
            return read_code(job.model, self._code, expected=code, feature_map=feature_map)
        except PolicyDenied as error:
            raise PolicyDenied(
                error.code, error.message, remedy=error.remedy, digest=code.hex()
            ) from error
