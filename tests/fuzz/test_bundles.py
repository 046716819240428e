"""A leader or a party with its own keys cannot make the verifier raise: it always reports every claim."""

from __future__ import annotations

import json
import random
from typing import Any

import pytest
from byte_mutations import Pick, Shape, Tape, mutate
from hypothesis import given, settings
from hypothesis import strategies as st

from tacit.errors import LocalProtocolError
from tacit.evidence import CLAIMS, Trust, verify_bundle
from tacit.testing.bundles import SyntheticRun, sealed

SLOW_EXECUTIONS = 1_500


@pytest.fixture(scope="module")
def run() -> SyntheticRun:
    return SyntheticRun().begin().round(1).close().record()


def shape(name: str) -> Shape:
    if name.endswith((".json", ".msg")):
        return "json" if name.endswith(".json") else "cbor"
    return "text" if name.startswith("logs/") else "bytes"


def every_claim_is_reported(run: SyntheticRun, data: bytes) -> None:
    report = verify_bundle(data, Trust.of(run.roster))
    assert [claim.id for claim in report.claims] == list(CLAIMS)


def change_a_member(run: SyntheticRun, pick: Pick) -> None:
    """The leader changes one member and signs the manifest again."""
    members = run.evidence()
    name = sorted(members)[pick(len(members))]
    data = members[name]
    for _ in range(1 + pick(3)):
        data = mutate(data, pick, (data,), shape(name))
    every_claim_is_reported(run, sealed(run, {**members, name: data}))


def log_anything(generator: random.Random) -> None:
    """Parties log other events than they should, and sign them."""

    def edit(party: str, event: dict[str, Any]) -> dict[str, Any]:
        if generator.random() > 0.03:
            return event
        encoded = json.dumps(event, sort_keys=True, separators=(",", ":")).encode()
        try:
            changed = json.loads(mutate(encoded, generator.randrange, (encoded,), "json"))
        except ValueError:
            return event
        typed = isinstance(changed, dict) and isinstance(changed.get("type"), str)
        return changed if typed else event

    try:
        run = SyntheticRun(edit=edit).begin().round(1).close().record()
        data = sealed(run, run.evidence())
    except (LocalProtocolError, ValueError, KeyError):
        return  # a log takes no such event
    every_claim_is_reported(run, data)


@settings(max_examples=40, deadline=None)
@given(tape=st.binary(min_size=4, max_size=60))
def test_a_changed_member_never_breaks_the_verifier(run, tape):
    change_a_member(run, Tape(tape))


def test_changed_events_never_break_the_verifier():
    for seed in range(15):
        log_anything(random.Random(seed))


@pytest.mark.slow
def test_many_changed_members_never_break_the_verifier(run):
    generator = random.Random(7)
    for _ in range(SLOW_EXECUTIONS):
        change_a_member(run, generator.randrange)


@pytest.mark.slow
def test_many_changed_events_never_break_the_verifier():
    for seed in range(SLOW_EXECUTIONS // 3):
        log_anything(random.Random(seed))
