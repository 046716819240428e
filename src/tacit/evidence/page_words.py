"""What each claim means and does not mean, in plain words, for people who audit a run."""

from __future__ import annotations

import unicodedata
from dataclasses import dataclass

__all__ = ["LIMITS", "WORDS", "Words", "clean"]

MAX_TEXT = 600
MAX_MARKS = 2
"""Combining characters in a row: more would run into the lines above and below."""


@dataclass(frozen=True, slots=True)
class Words:
    """One claim in plain words.

    Args:
        topic: What may be relied on if it passes; follows "You may rely on".
        means: What PASS means.
        not_means: What PASS does not mean.
    """

    topic: str
    means: str
    not_means: str


WORDS = {
    "authenticity": Words(
        "who took part: the parties whose keys the trust file names signed this record",
        "Every party whose part is shown here signed it with the key that your trust file names.",
        "That the people behind a key are who they say, or that a key was not stolen.",
    ),
    "integrity": Words(
        "the bundle being whole: nothing in it was changed, added or removed since it was signed",
        "The bundle is byte for byte the one that was signed.",
        "That what was signed is true.",
    ),
    "log-inclusion": Words(
        "complete logs: no party's log of the run lacks an event or was rewritten",
        "Each party's log of this run is shown from its first event to its last, unchanged since it "
        "was signed.",
        "That a party logged everything it did: it cannot log less later, but it can keep silent at "
        "the time.",
    ),
    "witness": Words(
        "one history: other operators saw each party's log and it never went back",
        "Enough other operators of the run, and every independent witness that you require, "
        "confirmed that each log only ever grew.",
        "That witnesses who agree among themselves told you the truth. They saw sizes and digests, "
        "not what the events say.",
    ),
    "same-job": Words(
        "one job: everybody worked on the same job, code, schema and list of members",
        "All parties agreed to the same job, the same source code and the same list of members.",
        "That each machine really ran that code.",
    ),
    "cohort": Words(
        "the sums: each is over enough independent operators",
        "Every published sum is over at least the agreed number of different operators, and every "
        "helper answered for exactly these contributions.",
        "That the operators are independent in fact: the list of members says who is whose operator.",
    ),
    "one-sum-per-upload": Words(
        "single use: no contribution was added up twice",
        "Each contribution went into one sum at most, so that nobody can subtract two sums to see one "
        "contribution.",
        "That the sum itself reveals nothing; see epsilon for that.",
    ),
    "policy": Words(
        "permission: each site's own policy allowed the run before anything left the site",
        "Each site's approved policy permitted this job, and stayed the same to the end.",
        "That the policy is a good one, or lawful.",
    ),
    "receipts": Words(
        "receipts: each site committed to what it read before it sent anything",
        "Each site fixed a receipt of the data that it read, under the agreed contract, before its "
        "first upload.",
        "That the data are genuine or correct. A site can show its receipts; this page cannot.",
    ),
    "residency": Words(
        "regions: everybody sat where the data contracts allow, as the list of members states it",
        "Site, leader and helpers are listed in regions that each site's contract allows.",
        "That a machine physically stands in its region.",
    ),
    "epsilon": Words(
        "the privacy figure: no site recorded less privacy loss than the plan costs",
        "The recorded epsilon is at least what the agreed plan costs, recomputed here.",
        "Protection beyond the stated unit, neighbours and number of colluding helpers.",
    ),
    "budget": Words(
        "the budgets: every upload was paid for before it left",
        "Each site charged its privacy budget before each upload, and settled; others remember the "
        "state of that budget.",
        "That a site running dishonest software kept a true budget.",
    ),
    "model-chain": Words(
        "the model: it follows step by step from the published sums",
        "The released model is, bit for bit, what the published sums lead to.",
        "That the model is accurate, fair or safe, or that contributions to it were honest.",
    ),
    "statements": Words(
        "the statements: the summaries in the bundle say what the evidence says",
        "The signed summaries (run, privacy budget, aggregation, model, approvals) repeat exactly "
        "what the rest of the bundle shows.",
        "Anything more than the other claims: summaries add no facts.",
    ),
}
"""By claim id."""

LIMITS = (
    "That the data are genuine. A site can train on invented records; every check still passes.",
    "That machines ran the named code. Without hardware attestation a party can run other code and "
    "report the digest of this one.",
    "The truth, where all parties of a run agree on a lie about themselves.",
    "The times. Each is the clock of the party that logged it.",
    "Privacy in general. Epsilon bounds what is learnt about one unit as the plan defines it, and "
    "nothing else.",
    "The future. Signatures are Ed25519; whoever could break them, with a quantum computer for "
    "example, could forge a new bundle.",
    "That your trust file names the right keys. Get it from somebody you trust, never from whoever "
    "sent the bundle.",
    "Compliance with a law. This page supports evidence; it is not a legal opinion.",
)
"""What no claim of the verifier covers."""


def clean(text: object) -> str:
    """Text for the page: printable, at most ``MAX_TEXT`` characters, marks not piled up.

    Guarantee: Against whoever writes texts of a bundle: nothing that steers a display, such as a
    change of direction, and no pile of marks that covers other lines
    (tests/unit/test_evidence_page.py::test_hostile_text_cannot_steer_the_page).
    """
    kept: list[str] = []
    marks = 0
    whole = str(text)
    for character in whole[:MAX_TEXT]:
        marks = marks + 1 if unicodedata.combining(character) else 0
        if marks <= MAX_MARKS:
            kept.append(character if character.isprintable() else "\ufffd")
    return "".join(kept) + ("\u2026" if len(whole) > MAX_TEXT else "")
