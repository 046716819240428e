"""Which lies each column must be told, by name: one that is missing leaves the cell not measured."""

from __future__ import annotations

from collections.abc import Collection

from tacit.attack.defences import Defence

__all__ = ["missing", "required"]

# By hand, and not from the lists of attempts: a lie that no longer applies must be missed here.
TO_SITES = (
    *("crafted-first-model", "smaller-offer", "crafted-later-model", "sum-beyond-bound"),
    *("sum-without-member", "replayed-round"),
)
"""To a client, in every run."""

ABOUT_HELPERS = (
    *("own-helper-keys", "colluding-helpers-only", "no-helpers", "sum-without-answer"),
    *("stale-helper-keys", "victim-without-helper"),
)
"""To a client, about the helpers of a run that has some."""

TO_HELPERS = (
    *("cohort-of-one", "cohort-too-small", "repeated-upload", "sybils", "impersonated-clients"),
    *(
        "upload-of-last-round",
        "copied-seeds",
        "other-model-named",
        "other-keys-named",
        "asked-twice",
    ),
    *("equivocated-cohorts", "sybils-of-one-operator"),
)
"""To a helper, by a leader that does not hold its key."""

READING = "single-contribution"
IN_SEVERAL_RUNS = ("round-called-lost", "dropout-game")
TWO_FIRST_MODELS = "two-first-models"
"""Where the first model depends on what clients say when they accept."""


def required(defence: Defence, *, masked: bool, seeded: bool) -> tuple[str, ...]:
    """The lies that a column must be told.

    Args:
        defence: The column.
        masked: Whether its run has helpers.
        seeded: Whether its first model depends on the clients' acceptances.
    """
    about = ABOUT_HELPERS if masked else ()
    if defence == "noise":  # A leader with every helper's key reads; it lies to sites alone.
        return (READING, *TO_SITES, *about)
    first = (TWO_FIRST_MODELS,) if seeded else ()
    return (READING, *TO_SITES, *about, *(TO_HELPERS if masked else ()), *IN_SEVERAL_RUNS, *first)


def missing(names: Collection[str], expected: Collection[str]) -> tuple[str, ...]:
    """The lies in ``expected`` that were not told."""
    return tuple(name for name in expected if name not in names)
