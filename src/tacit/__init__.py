"""Tacit: a privacy-first federated learning platform.

>>> import tacit
>>> job = tacit.Job.load("job.toml")  # doctest: +SKIP
>>> run = tacit.train(job)  # doctest: +SKIP
>>> run.metrics["accuracy"], run.epsilon, run.evidence  # doctest: +SKIP
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

__all__ = ["Job", "Run", "TacitError", "resume", "train", "verify"]
__version__ = "0.1.0"

if TYPE_CHECKING:
    from tacit.api import Job, Run, resume, train, verify
    from tacit.errors import TacitError


def __getattr__(name: str) -> Any:
    """Imports the public names on first use, so that ``import tacit`` stays fast."""
    if name == "TacitError":
        from tacit.errors import TacitError  # noqa: PLC0415

        return TacitError
    if name in __all__:
        from tacit import api  # noqa: PLC0415

        return getattr(api, name)
    raise AttributeError(f"module 'tacit' has no attribute {name!r}")
