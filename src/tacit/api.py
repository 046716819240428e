"""The Python interface: load or build a job, train, look at the run."""

from __future__ import annotations

import hashlib
import html
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tacit.config import parse_table
from tacit.errors import ConfigError
from tacit.evidence.files import verify
from tacit.evidence.report import Report
from tacit.learn.code import LoadedModel
from tacit.outcome import Outcome
from tacit.party.job import JobSpec
from tacit.privacy.statement import PrivacyStatement
from tacit.session import Session
from tacit.show import progress
from tacit.types import Digest

__all__ = ["Job", "Run", "resume", "train", "verify"]

StrPath = str | Path
NOTEBOOK = "notebook"


@dataclass(frozen=True, slots=True)
class Job:
    """What to train, and where its files lie.

    Args:
        spec: The validated job.
        folder: Folder of ``federation.toml``, ``coordinator`` and, by default, ``sites``.
        module: A ``torch.nn.Module`` class of a notebook, called with ``(features, classes)``.
        loss: ``loss(logits, labels)`` for ``module``; cross-entropy by default.
    """

    spec: JobSpec
    folder: Path
    module: Callable[..., Any] | None = None
    loss: Callable[..., Any] | None = None

    @classmethod
    def load(cls, path: StrPath) -> Job:
        """Reads a job file.

        Raises:
            ConfigError: Names the file, the key and the remedy.
        """
        path = Path(path)
        return cls(spec=JobSpec.load(path), folder=path.parent)

    @classmethod
    def of(
        cls,
        module: Callable[..., Any],
        loss: Callable[..., Any] | None = None,
        *,
        folder: StrPath = ".",
        **settings: Any,
    ) -> Job:
        """A job around a module object, for notebooks and the local engine only.

        Its code has no digest: evidence and policies see ``code: not pinned``, and a site whose
        policy asks for pinned code refuses it.

        Args:
            module: A ``torch.nn.Module`` class, called with ``(features, classes)``.
            loss: ``loss(logits, labels)``; cross-entropy by default.
            folder: Folder of the federation.
            settings: The tables of a job file, for example ``rounds=20, privacy={...}``.

        Raises:
            ConfigError: Names the key and the remedy.
        """
        for key in {"model", "version"} & set(settings):
            raise ConfigError(
                "job.notebook",
                f"Job.of takes no '{key}': the module that it is given is the model",
                remedy=f"leave '{key}' out, or write a job file",
                key=key,
            )
        if not isinstance(module, type):
            raise ConfigError(
                "job.notebook",
                "Job.of takes a torch.nn.Module class, not an instance of it",
                remedy="pass the class; it is called with (features, classes)",
            )
        content = {"version": 1, "model": NOTEBOOK, **settings}
        return cls(parse_table(content, JobSpec, "job"), Path(folder), module, loss)

    def model_object(self, features: int, classes: int) -> LoadedModel | None:
        """The notebook's model; None when the job names its code."""
        if self.module is None:
            return None
        from tacit.learn.torch_model import TorchModel  # noqa: PLC0415 - torch is optional

        module, options = self.module, {} if self.loss is None else {"loss": self.loss}
        model = TorchModel(
            lambda: module(features, classes), features=features, classes=classes, **options
        )
        code = Digest(hashlib.sha256(b"tacit: code not pinned").digest())
        return LoadedModel(model=model, code=code, pinned=False)


@dataclass(frozen=True, slots=True)
class Run:
    """A finished run."""

    outcome: Outcome

    @property
    def id(self) -> str:
        """The run id: digest of the manifest that every party agreed to."""
        return self.outcome.run_id

    @property
    def complete(self) -> bool:
        """Whether the run ended as planned."""
        return self.outcome.complete

    @property
    def folder(self) -> Path:
        """Where the results lie."""
        return self.outcome.folder

    @property
    def metrics(self) -> dict[str, float]:
        """Metrics of the released model on the public evaluation set."""
        return self.outcome.metrics

    @property
    def history(self) -> list[tuple[int, dict[str, float]]]:
        """Metrics by round."""
        return self.outcome.history

    @property
    def epsilon(self) -> float | None:
        """Epsilon of the run against the planned coalition; None without differential privacy."""
        return self.outcome.epsilon

    @property
    def privacy(self) -> PrivacyStatement:
        """What epsilon means: unit, neighbours, against whom, what is assumed; ``privacy.lines()``."""
        return self.outcome.privacy

    @property
    def coalitions(self) -> tuple[float, ...]:
        """Epsilon against 0, 1, ... helpers that pool what they know."""
        return self.outcome.coalitions

    @property
    def evidence(self) -> Path:
        """The evidence bundle; ``trust.json`` lies beside it."""
        return self.outcome.bundle

    @property
    def model(self) -> Path:
        """The released parameters (safetensors)."""
        return self.outcome.model

    def verify(self) -> Report:
        """Verifies the bundle against the run's trust file."""
        return verify(self.evidence, self.folder / "trust.json")

    def __repr__(self) -> str:
        status = "complete" if self.complete else "partial"
        return f"Run({self.id[:12]}, {status}, metrics={_rounded(self.metrics)}, epsilon={self.epsilon})"

    def _repr_html_(self) -> str:
        """A small table for notebooks."""
        rows = {
            "status": "complete" if self.complete else "partial",
            **{name: f"{value:.4f}" for name, value in self.metrics.items()},
            "epsilon": "none" if self.epsilon is None else f"{self.epsilon:.3f}",
            "epsilon if 0, 1, ... helpers collude": ", ".join(f"{e:.2f}" for e in self.coalitions),
            "evidence": str(self.evidence),
        }
        body = "".join(
            f"<tr><th style='text-align:left'>{html.escape(name)}</th>"
            f"<td style='text-align:left'>{html.escape(value)}</td></tr>"
            for name, value in rows.items()
        )
        return f"<table><caption>Tacit run {self.id[:12]}</caption>{body}</table>"


def train(
    job: Job,
    sites: Sequence[StrPath] | None = None,
    *,
    out: StrPath | None = None,
    quiet: bool = False,
) -> Run:
    """Runs a job on the embedded engine, in this process.

    Args:
        job: What to train.
        sites: Site folders; by default every folder in ``sites`` beside the job.
        out: Folder of the result, which must not exist; by default ``runs/ID`` beside the job.
        quiet: No progress bar.

    Returns:
        The run. An interrupted one has ``complete`` false and a bundle that says so.

    Raises:
        ConfigError: A file is wrong; names file, key and remedy.
        PolicyDenied: A site's policy says no; names the rule.
        BudgetExhausted: A site's budget does not cover the run.
        RoundAborted: The run could not begin.
        TransportError: The disk refuses a write.
    """
    if not isinstance(job, Job):
        raise TypeError("train takes a tacit.Job: tacit.Job.load(path) reads one from a file")
    session = prepare(job, sites, out=out)
    return execute(session, quiet=quiet)


def resume(folder: StrPath, *, quiet: bool = False) -> Run:
    """Continues a run that was killed, from its last closed round.

    Args:
        folder: What an earlier run made, for example ``runs/3f2a...``.
        quiet: No progress bar.

    Raises:
        RoundAborted: The run is closed, or never began.
        ConfigError: The job or code has changed since.
    """
    return execute(Session.reopen(Path(folder)), quiet=quiet)


def default_sites(folder: Path) -> list[Path]:
    """Every folder in ``sites`` beside the job, in name order."""
    return sorted(path.parent for path in (folder / "sites").glob("*/site.toml"))


def prepare(job: Job, sites: Sequence[StrPath] | None, *, out: StrPath | None = None) -> Session:
    """Checks everything that can be checked before the first message."""
    if isinstance(sites, str | Path):
        sites = [sites]
    paths = [Path(site) for site in sites] if sites is not None else default_sites(job.folder)
    if job.module is None and job.spec.model == NOTEBOOK:
        raise ConfigError(
            "job.model",
            "the job names no model",
            remedy="write 'logistic' or 'file.py:Name', or pass a module to Job.of",
            key="model",
        )
    return Session.begin(
        job.spec,
        job.folder,
        paths,
        model=job.model_object if job.module is not None else None,
        out=Path(out) if out is not None else None,
    )


def execute(session: Session, *, quiet: bool) -> Run:
    """Drives a prepared run to its end, showing progress."""
    with progress(quiet=quiet) as on_progress:
        return Run(session.execute(on_progress=on_progress))


def _rounded(metrics: dict[str, float]) -> dict[str, float]:
    return {name: round(value, 4) for name, value in metrics.items()}
