"""Training in a child process: a job's code sees prepared records and nothing else of a site."""

from __future__ import annotations

from tacit.engine.training.compute import ChildCompute
from tacit.engine.training.process import Limits
from tacit.engine.training.workload import ChildWorkload

__all__ = ["ChildCompute", "ChildWorkload", "Limits"]
