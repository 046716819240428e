"""A malicious leader against a late joiner and against a site that adds up again."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tacit.learn.server import ServerState
from tacit.party.contribute import chunk_info
from tacit.testing.federation import (
    LEADER,
    SmallFederation,
    write_small_federation,
)
from tacit.testing.lies import (
    EAST,
    NORTH,
    SOUTH,
    WEST,
    Lie,
    Make,
    about_sum,
    by_leader,
    by_name,
    client,
    raw,
    set_limits,
    site_leaks_nothing,
    upload_as,
)
from tacit.wire.envelope import (
    Envelope,
    digest,
    split_chunks,
)
from tacit.wire.messages import (
    CatchUp,
    Refusal,
    RoundStart,
    Upload,
)

# --- late joiners -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def behind(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[SmallFederation, Envelope]]:
    """North missed two rounds and asked; after all lies it takes the honest proof and takes part."""
    path = tmp_path_factory.mktemp("behind") / "small"
    write_small_federation(path, job={"privacy": {"sampling_rate": 1.0}})
    small = SmallFederation(path)
    set_limits(small, resum="never")
    held = small.deliver(small.start(), hold=RoundStart)
    for _ in range(2):
        small.deliver([e for e in held if e.receiver.party != NORTH])
        held = small.deliver(small.leader.tick(small.leader.deadline), hold=RoundStart)
    start = next(e for e in held if e.receiver.party == NORTH)
    (request,) = small.sites[NORTH].receive(start, small.clock())
    proof, again = small.leader.receive(request, small.clock())
    yield small, proof
    assert small.sites[NORTH].receive(proof, small.clock()) == []
    (made,) = small.sites[NORTH].receive(again, small.clock())
    assert isinstance(small.read(made).body, Upload)


def about_state(change: Callable[[ServerState], bytes]) -> Make:
    """Another server state, consistent with its own digests."""

    def lie(small: SmallFederation, proof: Envelope) -> Envelope:
        body = small.read(proof).body
        count = len(body.state.digests)
        data = change(ServerState.from_bytes(b"".join(proof.chunks[:count])))
        state, chunks = split_chunks(data, len(data))
        return small.lie(proof, (*chunks, *proof.chunks[count:]), state=state)

    return lie


def about_proof(change: Callable[[SmallFederation, CatchUp], dict[str, Any]]) -> Make:
    return lambda small, proof: small.lie(proof, **change(small, small.read(proof).body))


def smaller(small: SmallFederation, body: CatchUp) -> dict[str, Any]:
    cut = dataclasses.replace(body.aggregate, cohort=body.aggregate.cohort[:2])
    return {"uploads": body.uploads[:2], "aggregate": cut}


def shorter(state: ServerState) -> bytes:
    arrays = (state.theta, state.momentum, state.second_moment, state.average)
    return ServerState(
        *(array[1:] for array in arrays), averaged=state.averaged, steps=state.steps
    ).to_bytes()


PROOFS = [
    Lie(
        "a state with other weights",
        about_state(lambda s: dataclasses.replace(s, theta=s.theta + 1.0).to_bytes()),
        "chain.proof",
    ),
    Lie(
        "a state with another number of steps",
        about_state(lambda s: dataclasses.replace(s, steps=s.steps + 1).to_bytes()),
        "chain.state",
    ),
    Lie("a state of another model", about_state(shorter), "chain.state"),
    Lie(
        "a state that is not finite",
        about_state(lambda s: dataclasses.replace(s, theta=s.theta * np.inf + 1).to_bytes()),
        "learn.server-state",
    ),
    Lie("no state", about_state(lambda s: b"x"), "learn.server-state"),
    Lie(
        "a state unlike its digest",
        lambda small, proof: dataclasses.replace(
            proof, chunks=(bytes(len(proof.chunks[0])), *proof.chunks[1:])
        ),
        "wire.chunk-digest",
    ),
    Lie("a cohort below the minimum", about_proof(smaller), "chain.cohort-too-small"),
    Lie(
        "a cohort without one of its uploads",
        about_proof(lambda small, body: {"uploads": body.uploads[1:]}),
        "chain.proof",
    ),
    Lie(
        "an upload that the leader signed",
        about_proof(
            lambda small, body: {
                "uploads": (
                    upload_as(client(EAST), 2, LEADER)(small, raw(small, body.uploads[0])),
                    *body.uploads[1:],
                )
            }
        ),
        "trust.signature",
    ),
    Lie(
        "an aggregate of another round",
        about_proof(
            lambda small, body: {"aggregate": dataclasses.replace(body.aggregate, round=3)}
        ),
        "round.aggregate",
    ),
    Lie(
        "an aggregate without one helper's answer",
        about_proof(
            lambda small, body: {
                "aggregate": dataclasses.replace(body.aggregate, answers=body.aggregate.answers[1:])
            }
        ),
        "chain.helpers",
    ),
    Lie(
        "an aggregate whose vector is another",
        lambda small, proof: dataclasses.replace(
            proof, chunks=(*proof.chunks[:-1], bytes(len(proof.chunks[-1])))
        ),
        "wire.chunk-digest",
    ),
    Lie(
        "a proof for another round than it asked about",
        lambda small, proof: by_leader(small, proof, round=2),
    ),
]


@pytest.mark.parametrize(**by_name(PROOFS))
def test_a_late_joiner_is_sent(lie, behind):
    small, proof = behind
    site_leaks_nothing(small, lie.make(small, proof), lie)


# --- adding up again --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def adding_up(folder: Path) -> Iterator[tuple[SmallFederation, Envelope]]:
    """North owes the aggregate of round 1 a look; after all lies it adds up and trains."""
    small = SmallFederation(folder)
    set_limits(small, resum="always")
    start = small.until(RoundStart, 2)[NORTH]
    yield small, start
    (upload,) = small.deliver([start], hold=Upload)
    assert small.read(upload).sender == client(NORTH)


def first_kept(small: SmallFederation, start: Envelope) -> Envelope:
    """The leader's honest answer to north's first request."""
    small.leader._desk._served.clear()
    (request,) = small.sites[NORTH].receive(start, small.clock())
    (kept,) = small.leader.receive(request, small.clock())
    return kept


def kept_chunks(change: Callable[[bytes], tuple[bytes, ...]]) -> Make:
    """Other chunks behind a kept upload, encrypted as they should be."""

    def lie(small: SmallFederation, kept: Envelope) -> Envelope:
        live = small.sites[NORTH]._runs[small.terms.run_id]
        opener, owner = live.readd._opener, digest(small.read(kept).body.message)
        plain = opener.open(kept.chunks[0], chunk_info(owner, 0))
        seal = small.leader.ports.sealing.seal
        sealed = tuple(
            seal(chunk, opener.public_key, chunk_info(owner, index))
            for index, chunk in enumerate(change(plain))
        )
        return dataclasses.replace(kept, chunks=sealed)

    return lie


def kept_message(small: SmallFederation, kept: Envelope, index: int) -> Envelope:
    """The signed message of another member of the cohort."""
    aggregate = small.leader._desk.start.previous
    other = small.leader.transcript.get_round(1, f"upload-{aggregate.cohort[index].client}.msg")
    return small.lie(kept, message=other)


KEPT = [
    Lie(
        "a vector that its client did not sign",
        kept_chunks(lambda data: (data[:-1] + bytes([data[-1] ^ 1]),)),
        "wire.chunk-digest",
    ),
    Lie("a vector that is cut short", kept_chunks(lambda data: (data[:-4],)), "wire.chunks"),
    Lie(
        "a vector of another width",
        kept_chunks(lambda data: (data[: len(data) // 2],)),
        "wire.chunks",
    ),
    Lie("a vector with a chunk too many", kept_chunks(lambda data: (data, b"")), "wire.chunks"),
    Lie(
        "a vector without its chunks",
        lambda small, kept: dataclasses.replace(kept, chunks=()),
        "wire.chunks",
    ),
    Lie(
        "a vector that is not encrypted to it",
        lambda small, kept: dataclasses.replace(kept, chunks=(bytes(64),)),
        "trust.sealed",
    ),
    Lie(
        "another client's message",
        lambda small, kept: kept_message(small, kept, 2),
        "readd.message",
    ),
    Lie(
        "a message that the leader made up",
        lambda small, kept: small.lie(
            kept,
            message=upload_as(client(EAST), 1, LEADER)(
                small, raw(small, small.read(kept).body.message)
            ),
        ),
        "trust.signature",
    ),
    Lie(
        "the answer of a helper as an upload",
        lambda small, kept: small.lie(
            kept, message=small.leader.transcript.get_round(1, f"mask-sum-{EAST}.msg")
        ),
        "message.carried",
    ),
    Lie(
        "a chunk that the network appended",
        lambda small, kept: dataclasses.replace(kept, chunks=(*kept.chunks, b"x")),
        "trust.sealed",
    ),
    Lie("the next vector first", lambda small, kept: small.lie(kept, index=1)),
    Lie("a vector of another round", lambda small, kept: by_leader(small, kept, round=2)),
    Lie(
        "a vector by another client",
        lambda small, kept: by_leader(small, kept, sender=f"{EAST}/client", signer=EAST),
    ),
]


@pytest.mark.parametrize(**by_name(KEPT))
def test_a_site_that_adds_up_again_is_sent(lie, adding_up):
    """Also what the network alone can change, which must not convict an honest leader in the end."""
    small, start = adding_up
    site_leaks_nothing(small, lie.make(small, first_kept(small, start)), lie)
    assert small.sites[NORTH].state(small.terms.run_id).number("convicted") == 0


def test_a_cohort_under_other_names_is_not_trained_on(folder):
    """The answers name uploads by digest only: whose they are shows when they are added up again."""
    small = SmallFederation(folder)
    set_limits(small, resum="always")
    start = small.until(RoundStart, 2)[NORTH]
    swapped = about_sum(
        cohort=lambda small, a: (
            *a.cohort[:2],
            dataclasses.replace(a.cohort[2], client=WEST),
            dataclasses.replace(a.cohort[3], client=SOUTH),
        )
    )
    site, made = small.sites[NORTH], swapped(small, start)
    spent = site.budget.spent("everyone")
    for _ in range(3):  # east's, north's own, and south's under the name of west
        (made,) = site.receive(made, small.clock())
        (made,) = small.leader.receive(made, small.clock())
    (made,) = site.receive(made, small.clock())
    assert small.read(made).body == Refusal("readd.message", "")
    assert site.budget.spent("everyone") == spent
    assert site.state(small.terms.run_id).number("uploads") == 1  # of round 1
