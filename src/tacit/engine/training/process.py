"""The site's end of a training child: starts it, asks it, and ends it when it misbehaves."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tacit.engine.training.protocol import Buffer, Channel, Draw, Drawn, Failed, Frame
from tacit.errors import ConfigError, DecodeError, RoundAborted
from tacit.types import Entropy

__all__ = ["PASSED_ON", "PROGRAM", "Child", "Limits", "Released"]

Released = Callable[[], AbstractContextManager[None]]
"""Gives back the lock under which parties run, for as long as its block lasts."""

PROGRAM = "tacit.engine.training.child"

PASSED_ON = (
    *("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMEXPR_NUM_THREADS"),
    *("LD_LIBRARY_PATH", "TZ"),
)
"""What a child learns of the site's environment: how it computes, and where libraries lie."""

DRAW_OVERHEAD = 64
"""What one draw counts for beside its bytes, so that empty ones come to an end, too."""

CHILD_CODES = re.compile(r"(learn|job|site|plan|features)\.[a-z0-9-]{1,40}")
"""Codes of errors that a child may hand on."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What a training child may use.

    Args:
        seconds: For one request: to start and build the model, or to train for one round.
        memory: Address space in MiB; 0 for no limit.
        niceness: 0 to 19: how much the child leaves to others.
    """

    seconds: float = 3600.0
    memory: int = 0
    niceness: int = 5


class Child:
    """One process that runs a job's code for one run.

    Args:
        limits: What it may use.
        released: Gives the host's lock back while the child is waited for.
        module: What the process runs; tests have a bad one.

    Guarantee:
        The process gets none of the site's environment, open files, folders or keys: one socket is all
        that it has of the site. Checked by
        ``tests/unit/test_engine_training.py::test_the_child_has_nothing_of_the_site``.
    """

    def __init__(self, limits: Limits, released: Released, module: str = PROGRAM) -> None:
        self._limits = limits
        self._released = released
        self._folder = tempfile.mkdtemp(prefix="tacit-training-")
        ours, theirs = socket.socketpair()
        self._channel = Channel(ours)
        try:
            self._process = subprocess.Popen(  # noqa: S603 - this Python, a module of ours
                [sys.executable, "-s", "-P", "-B", "-m", module],
                stdin=theirs.fileno(),
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,  # What a model prints may be a record.
                cwd=self._folder,
                env=_environment(self._folder),
                close_fds=True,
                start_new_session=True,
            )
        except BaseException:
            ours.close()
            shutil.rmtree(self._folder, ignore_errors=True)
            raise
        finally:
            theirs.close()

    @property
    def pid(self) -> int:
        """The process."""
        return self._process.pid

    @property
    def alive(self) -> bool:
        """Whether it has not ended."""
        return self._process.poll() is None

    def ask(
        self,
        message: Any,
        arrays: Sequence[Buffer] = (),
        *,
        expected: Mapping[type, tuple[int, ...]],
        entropy: tuple[Entropy, int] | None = None,
        descriptor: int | None = None,
        secret: bool = True,
    ) -> Frame:
        """Asks for something and waits for the answer; whatever else the child says ends it.

        Args:
            message: The request.
            arrays: Its arrays.
            expected: Kinds of answers, and how long their arrays may be.
            entropy: Where its draws come from, and how many bytes it may draw; none by default.
            descriptor: A file to hand over.
            secret: Whether the child has seen records, so that words of its own may tell of them.

        Raises:
            RoundAborted: It crashed, took too long, or broke the protocol.
            ConfigError: The model's code failed.
        """
        self._channel.deadline = time.monotonic() + self._limits.seconds
        left = entropy[1] if entropy is not None else 0
        known = {**expected, Failed: ()}
        if entropy is not None:
            known[Draw] = ()
        try:
            with self._released():
                self._channel.send(message, arrays, descriptor)
                frame = self._channel.receive(known)
            while isinstance(frame.message, Draw):
                size = frame.message.size
                left -= size + DRAW_OVERHEAD
                if entropy is None or left < 0:
                    raise DecodeError("training.draws", "the child draws more than training needs")
                drawn = entropy[0].draw(size)  # Under the lock: a party's source is not shared.
                with self._released():
                    self._channel.send(Drawn(), [drawn])
                    frame = self._channel.receive(known)
        except (DecodeError, EOFError, OSError) as error:
            self.close()
            raise _ended(error, self._limits) from error
        if isinstance(frame.message, Failed):
            raise _failure(frame.message, secret=secret)
        return frame

    def kill(self) -> None:
        """Ends the process at once; whoever waits for it is told. Safe from any thread."""
        with contextlib.suppress(ProcessLookupError):
            self._process.kill()

    def close(self) -> None:
        """Ends the process and removes its folder."""
        self.kill()
        self._process.wait()
        self._channel.close()
        shutil.rmtree(self._folder, ignore_errors=True)


def _environment(folder: str) -> dict[str, str]:
    """All that a child's environment holds; Python finds this very package, and no file beside it."""
    root = str(Path(__file__).resolve().parents[3])
    own = {"PYTHONPATH": root, "HOME": folder, "TMPDIR": folder, "LANG": "C.UTF-8"}
    return own | {name: os.environ[name] for name in PASSED_ON if name in os.environ}


def _ended(error: Exception, limits: Limits) -> RoundAborted:
    if isinstance(error, TimeoutError):
        return RoundAborted(
            "training.timeout",
            f"training took longer than {limits.seconds:g} seconds",
            retryable=True,
            remedy="raise the limit in service.toml, or use a smaller model or batch",
        )
    if isinstance(error, DecodeError):
        return RoundAborted(
            "training.protocol",
            f"the training child broke the protocol: {error.message}",
            retryable=True,
            remedy="read the model's file: code that talks to the site behind Tacit's back is not to be "
            "trusted",
        )
    return RoundAborted(
        "training.crashed",
        "the training child ended without an answer",
        retryable=True,
        remedy="if this happens every time, try the model on data of this contract outside a run; the "
        "limit on memory may be too low",
    )


def _failure(word: Failed, *, secret: bool) -> ConfigError:
    code = word.code if CHILD_CODES.fullmatch(word.code) else "site.model-failed"
    if not secret:
        return ConfigError(code, f"in the training child: {word.message}", remedy=word.remedy)
    return ConfigError(
        code,
        f"the model's code failed in the training child: {code}",
        remedy="try the model on data of this contract outside a run",
    )
