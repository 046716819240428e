"""Why a run ends early at its leader, in the words that its operator reads."""

from __future__ import annotations

from collections.abc import Iterable

from tacit.errors import RoundAborted
from tacit.types import PartyName

__all__ = [
    "helper_restarted",
    "interrupted",
    "no_answer",
    "no_result",
    "not_begun",
    "rounds_failed",
]


def interrupted() -> RoundAborted:
    """On the operator's wish."""
    return RoundAborted(
        "run.interrupted",
        "the run was interrupted",
        retryable=False,
        remedy="the partial bundle shows what was done; start a new run",
    )


def no_result() -> RoundAborted:
    """No round was closed."""
    return RoundAborted(
        "run.no-result",
        "no round of the run gave a result",
        retryable=True,
        remedy="check the sites and helpers, then start a new run",
    )


def not_begun(run: str) -> RoundAborted:
    """The leader was stopped too early."""
    return RoundAborted(
        "run.not-begun",
        f"run {run} was stopped before every site had accepted it",
        retryable=False,
        remedy="start a new run; nothing had left a site, and nothing was charged",
    )


def no_answer(names: Iterable[PartyName]) -> RoundAborted:
    """Parties are silent before a round can begin."""
    return RoundAborted(
        "run.no-answer",
        f"no answer in time from {', '.join(dict.fromkeys(names))}",
        retryable=True,
        remedy="check that the party is running, then start again",
    )


def helper_restarted(helper: PartyName, number: int) -> RoundAborted:
    """Helpers keep losing their keys."""
    return RoundAborted(
        "round.helper-restarted",
        f"helper {helper} holds no key of round {number}, and too few others do",
        retryable=True,
        remedy="keep helpers running during a run, or allow for absent ones with "
        "aggregation.min_helpers; then start a new run",
        party=helper,
    )


def rounds_failed(count: int, code: str) -> RoundAborted:
    """Rounds keep failing."""
    return RoundAborted(
        f"round.{code}",
        f"{count} rounds in a row failed, the last one with '{code}'",
        retryable=True,
        remedy="check the sites and helpers, then start a new run",
    )
