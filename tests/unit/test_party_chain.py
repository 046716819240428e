"""The model chain takes nothing but the next aggregate, over this party's own model."""

from __future__ import annotations

import dataclasses

import pytest

from tacit.errors import RemoteProtocolError
from tacit.party.chain import BEHIND, ModelChain
from tacit.testing.federation import SmallFederation, write_small_federation
from tacit.types import PartyName
from tacit.wire.messages import RoundStart

NORTH = PartyName("north")


def second_start(tmp_path):
    write_small_federation(tmp_path / "small")
    small = SmallFederation(tmp_path / "small")
    return small, small.read(small.until(RoundStart, 2)[NORTH])


def fresh_chain(small, change=0.0):
    """A chain over an empty store that holds the first model, or one that differs from it."""
    leader = small.leader
    state = leader.state("another")
    chain = ModelChain(leader, small.terms, small.workload, state)
    before = type(leader.model).from_bytes(leader.durable.get("model-before"))
    other = dataclasses.replace(before, theta=before.theta + change)
    with leader.ports.store.transaction():
        state.put("model", other.to_bytes())
    return chain


def test_an_aggregate_of_another_model_is_not_applied(tmp_path):
    small, start = second_start(tmp_path)
    chain = fresh_chain(small, change=1e-9)
    before = chain.current.digest
    with pytest.raises(RemoteProtocolError) as caught, small.leader.ports.store.transaction():
        chain.apply(start.body.previous, start.chunks)
    assert caught.value.code == BEHIND
    assert chain.current.digest == before
    assert chain.applied == 0


def test_the_next_aggregate_is_applied_once(tmp_path):
    small, start = second_start(tmp_path)
    chain = fresh_chain(small)
    for _ in range(2):
        with small.leader.ports.store.transaction():
            after = chain.apply(start.body.previous, start.chunks)
        assert after.digest == small.leader.model.digest
        assert (chain.applied, chain.completed) == (1, 1)
