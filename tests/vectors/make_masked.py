"""Writes tests/vectors/masked/*.json from the code; everything but sealed bytes is deterministic.

Run ``python tests/vectors/make_masked.py``. Sealed bytes that fit are kept; the others are made anew.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parent))

from masked_negative import negative
from masked_stage import (
    CLIENTS,
    FOLDER,
    HELPERS,
    KEYS,
    LEADER,
    Drawer,
    Stage,
    StageSealing,
    contribution,
    derived,
    identity_seed,
    noise,
    opener,
    private_halves,
    published_noise,
    seed,
)

from tacit.algebra.prg import expand
from tacit.algebra.ring import WIDTHS, Ring
from tacit.learn.server import ServerRule, ServerState
from tacit.party.contribute import chunk_info
from tacit.party.readd import Readd
from tacit.party.workload import first_model_seed
from tacit.privacy.rotated import decode_rotated, rotated_length
from tacit.secagg.masked import _expansion, _info, cohort_digest, mask, round_context
from tacit.types import Digest, PartyName
from tacit.wire.codec import encode
from tacit.wire.envelope import CHUNK_ELEMENTS, Envelope, open_message, split_chunks
from tacit.wire.messages import CatchUpRequest, HelperKey, RoundStart, Upload, WitnessRequest

Json = dict[str, Any]


class Seeds:
    """An entropy that draws the published seeds of one client, in the order of the helpers."""

    def __init__(self, client: PartyName, helpers: Sequence[PartyName]) -> None:
        self._seeds = iter([seed(client, helper) for helper in helpers])

    def draw(self, size: int) -> bytes:
        return next(self._seeds)


def ring() -> Json:
    values = [
        0,
        1,
        -1,
        127,
        128,
        -128,
        255,
        256,
        32767,
        -32768,
        65535,
        8388607,
        -8388608,
        2**31 - 1,
    ]
    cases = []
    for bits in WIDTHS:
        of_width = Ring(bits)
        vector = of_width.from_integers(np.array(values, dtype=np.int64))
        cases.append(
            {
                "bits": bits,
                "integers": values,
                "bytes": bytes(of_width.to_bytes(vector)).hex(),
                "centred": of_width.centred(vector).tolist(),
            }
        )
    return {"about": "Integers modulo 2^bits, little-endian; centred: read back.", "cases": cases}


def keystream() -> Json:
    key, counter = derived("aes key"), derived("counter", size=16)
    short = [
        {
            "bits": bits,
            "key": key.hex(),
            "counter": at.hex(),
            "length": 20,
            "elements": expand(key, at, 20, Ring(bits)).tolist(),
        }
        for bits in WIDTHS
        for at in (counter, b"\xff" * 16)
    ]
    length = CHUNK_ELEMENTS + 3
    long = []
    for bits in WIDTHS:
        data = Ring(bits).to_bytes(expand(key, counter, length, Ring(bits)))
        vector, chunks = split_chunks(data, length)
        long.append(
            {
                "bits": bits,
                "key": key.hex(),
                "counter": counter.hex(),
                "length": length,
                "chunk_sizes": [len(chunk) for chunk in chunks],
                "vector": encode(vector).hex(),
                "digests": [known.hex() for known in vector.digests],
            }
        )
    about = "AES-256-CTR keystreams as elements; long ones by the Vector that describes them."
    return {"about": about, "short": short, "long": long}


def derivations() -> Json:
    keys = [(name, derived("public key", name, size=1216)) for name in HELPERS]
    cases = []
    for bits in WIDTHS:
        fields: Json = {
            "run": derived("run"),
            "round_number": 7,
            "roster": derived("roster"),
            "job": derived("job"),
            "model": derived("model"),
            "plan": b'{"a":"plan"}',
            "bits": bits,
        }
        context = round_context(**fields, keys=keys)
        info = {use: _info(use, context, CLIENTS[0], HELPERS[0]) for use in ("seal", "expand")}
        stream = _expansion(seed("alice", "hanna"), context, CLIENTS[0], HELPERS[0])
        cases.append(
            {
                **{k: v.hex() if isinstance(v, bytes) else v for k, v in fields.items()},
                "keys": [{"helper": name, "key": key.hex()} for name, key in keys],
                "context": context.hex(),
                "client": CLIENTS[0],
                "helper": HELPERS[0],
                "info_seal": info["seal"].hex(),
                "info_expand": info["expand"].hex(),
                "seed": seed("alice", "hanna").hex(),
                "aes_key": stream.key.hex(),
                "counter": stream.counter.hex(),
                "mask": expand(stream.key, stream.counter, 5, Ring(bits)).tolist(),
            }
        )
    uploads = [Digest(derived("upload", name)) for name in CLIENTS]
    nonces = [(name, derived("nonce", name)) for name in CLIENTS]
    return {
        "about": "Context, infos, HKDF, cohort digest, seed of the first model, info of a chunk.",
        "contexts": cases,
        "cohort": {
            "uploads": [upload.hex() for upload in uploads],
            "digest": cohort_digest(uploads).hex(),
        },
        "first_model": {
            "nonces": {name: nonce.hex() for name, nonce in nonces},
            "seed": first_model_seed(nonces).hex(),
        },
        "chunk": {"message": uploads[0].hex(), "index": 5, "info": chunk_info(uploads[0], 5).hex()},
    }


def server() -> Json:
    cases = []
    for optimiser in ("sgd", "momentum", "adam"):
        rule: Json = {
            "optimiser": optimiser,
            "learning_rate": 0.1,
            "momentum": 0.9,
            "average_from": 0.5,
            "rounds": 4,
        }
        made = ServerRule(**rule)
        state = made.start(np.array([0.5, -0.25, 1e-3, 3.0]))
        states, gradients = [state.to_bytes().hex()], []
        for number in range(4):
            gradient = np.array([0.3, -1e-9, 7.0, -2.5]) / (number + 3)
            gradients.append([float(value).hex() for value in gradient])
            state = made.step(state, gradient)
            states.append(state.to_bytes().hex())
        released = [float(value).hex() for value in made.released(state)]
        case = {"rule": rule, "gradients": gradients, "states": states}
        cases.append({**case, "digest": state.digest.hex(), "released": released})
    about = "Server states before and after each of four steps; numbers as C99 hexadecimal floats."
    return {"about": about, "cases": cases}


def rotation() -> Json:
    """Sums of 16 bits and the values that they stand for; also the lengths of rotated vectors."""
    cases = []
    for length in (3, 70):
        padded = rotated_length(length)
        words = derived("rotated", str(length), size=2 * padded)
        total = [int.from_bytes(words[2 * i : 2 * i + 2], "big") - 2**15 for i in range(padded)]
        state = derived("state of a rotation")
        seed_bytes = hashlib.sha256(b"tacit rotation seed v1\x00" + state).digest()
        values = decode_rotated(np.array(total, dtype=np.int64), 2.0**-10, seed_bytes, length)
        cases.append(
            {
                "length": length,
                "grid": (2.0**-10).hex(),
                "state": state.hex(),
                "sum": total,
                "values": [float(value).hex() for value in values],
            }
        )
    lengths = (1, 64, 65, 4096, 4097, 8193, 100_000, 2**22, 2**22 + 1, 10**8)
    return {
        "about": "Unit none, 16 bits: how a rotated sum is read, given the digest of the state; numbers "
        "as C99 hexadecimal floats. lengths: of a contribution before and after rotation.",
        "cases": cases,
        "lengths": [[length, rotated_length(length)] for length in lengths],
    }


def make_upload(stage: Stage, client: PartyName, start: Envelope) -> tuple[Envelope, list[bytes]]:
    """One client's upload by the real functions, from published numbers; also its open chunks."""
    terms, message = stage.run.terms, open_message(start.message, stage.run.roster.authenticate)
    opened = [open_message(raw, stage.run.roster.authenticate) for raw in message.body.keys]
    keys = [(key.sender.party, key.body.key) for key in opened]
    manifest = terms.manifest
    context = round_context(
        run=terms.run,
        round_number=message.round,
        roster=Digest(manifest.roster),
        job=Digest(manifest.job),
        model=Digest(message.body.model),
        plan=manifest.plan,
        bits=terms.ring.bits,
        keys=keys,
    )
    hidden = mask(
        terms.ring.from_integers(np.array(contribution(client), dtype=np.int64)),
        terms.ring,
        context=context,
        client=client,
        keys=keys,
        sealing=StageSealing(stage.drawer, []),
        entropy=Seeds(client, HELPERS),
    )
    vector, chunks = split_chunks(terms.ring.to_bytes(hidden.vector), len(hidden.vector))
    body = Upload(context=context, seeds=hidden.seeds, vector=vector)
    signed = stage.sign(client, body, message.round)
    known = open_message(signed.message, stage.run.roster.authenticate).digest
    sealed = tuple(
        stage.drawer.seal(chunk, message.body.leader_key, chunk_info(known, index))
        for index, chunk in enumerate(chunks)
    )
    return Envelope(signed.receiver, signed.message, sealed), list(chunks)


def of_kind(stage: Stage, envelopes: Sequence[Envelope], kind: type) -> dict[PartyName, Envelope]:
    """The messages whose body is of a kind, by receiver."""
    authenticate = stage.run.roster.authenticate
    return {
        envelope.receiver.party: envelope
        for envelope in envelopes
        if isinstance(open_message(envelope.message, authenticate).body, kind)
    }


def play(drawer: Drawer) -> Json:
    """One whole round, a late joiner and an adding up again, message by message."""
    stage = Stage(drawer)
    run = stage.run
    said: list[Json] = []

    def say(name: str, envelope: Envelope, chunks: Sequence[bytes] | None = None) -> None:
        shown = envelope.chunks if chunks is None else chunks
        entry: Json = {
            "name": name,
            "to": str(envelope.receiver),
            "message": envelope.message.hex(),
        }
        entry["chunks"] = [chunk.hex() for chunk in shown]
        said.append(entry)

    sent = stage.begin()
    offers = {str(envelope.receiver): envelope for envelope in sent["offers"]}
    say("offer", offers["alice/client"])
    names = [*(f"key/{name}/1" for name in HELPERS), *(f"accept/{name}" for name in CLIENTS)]
    for name, answer in zip(names, sent["answers"], strict=True):
        say(name, answer)
    starts = of_kind(stage, sent["starts"], RoundStart)
    say(
        "witness-request/1/alice",
        of_kind(stage, sent["starts"], WitnessRequest)[PartyName("alice")],
    )
    requests: list[Envelope] = []
    for client in CLIENTS:
        say(f"round-start/1/{client}", starts[client])
        upload, chunks = make_upload(stage, client, starts[client])
        say(f"upload/{client}", upload, chunks)
        said[-1]["sealed_chunks"] = [chunk.hex() for chunk in upload.chunks]
        requests += stage.give(upload)
    second: list[Envelope] = []
    with published_noise():
        for request in requests:
            helper = request.receiver.party
            say(f"mask-request/{helper}", request)
            for answer in stage.give(request):
                body = open_message(answer.message, run.roster.authenticate).body
                kind = "key/{}/2" if isinstance(body, HelperKey) else "mask-sum/{}"
                say(kind.format(helper), answer)
                second += stage.give(answer)
    start = of_kind(stage, second, RoundStart)[PartyName("alice")]
    say("round-start/2/alice", start)
    request = stage.sign(CLIENTS[2], CatchUpRequest(applied=0), 2)
    say("catch-up-request/carol", request)
    say("catch-up/carol", stage.give(request)[0])
    reader = stage.party(CLIENTS[0], "client", ["alice/reader"])
    started = open_message(start.message, run.roster.authenticate)
    aggregate = started.body.previous
    context = open_message(aggregate.answers[0], run.roster.authenticate).body.context
    readd = Readd(reader, run.terms, started, aggregate, context)
    for index in range(len(CLIENTS) + len(HELPERS)):
        request = readd.request()
        say(f"kept-request/{index}", request)
        (kept,) = stage.give(request)
        say(f"kept/{index}", kept)
        readd.take(open_message(kept.message, run.roster.authenticate, chunks=kept.chunks))
    assert readd.exact
    chain = stage.leader.chain
    assert chain.current is not None
    before = ServerState.from_bytes(chain.state.get("model-before") or b"")
    aggregate = Ring(24).from_bytes(b"".join(start.chunks), run.terms.manifest.length)
    return {
        "about": "A whole round of three clients and two helpers, a late joiner, and a client that "
        "adds the round up again. The helpers' noise is replaced by the published integers 'noise'. "
        "Never use any of these keys.",
        "roster": run.roster.canonical.decode(),
        "manifest": encode(run.offer.manifest).hex(),
        "run": run.terms.run.hex(),
        "identities": {name: identity_seed(name).hex() for name in (LEADER, *CLIENTS, *HELPERS)},
        "contributions": {name: contribution(name) for name in CLIENTS},
        "seeds": {c: {h: seed(c, h).hex() for h in HELPERS} for c in CLIENTS},
        "noise": {name: noise(name) for name in HELPERS},
        "sum": Ring(24).centred(aggregate).tolist(),
        "model": before.digest.hex(),
        "state": before.to_bytes().hex(),
        "state_after": chain.current.to_bytes().hex(),
        "messages": said,
    }


def sealed(drawer: Drawer) -> Json:
    keys = {}
    for label in KEYS:
        quantum, classical = private_halves(label)
        keys[label] = {
            "mlkem768_seed": quantum.hex(),
            "x25519": classical.hex(),
            "public": opener(label).public_key.hex(),
        }
    about = (
        "Sealing keys with their private halves, and everything that was sealed to them. Sealed bytes "
        "are random and were made once; they open to the plaintext under the info."
    )
    ordered = sorted(drawer.used.values(), key=lambda e: (e["to"], e["info"], e["plaintext"]))
    return {"about": about, "keys": keys, "sealed": ordered}


def build(drawer: Drawer) -> dict[str, Json]:
    """Every file's content, by its name."""
    played = play(drawer)
    return {
        "ring.json": ring(),
        "keystream.json": keystream(),
        "derivations.json": derivations(),
        "server.json": server(),
        "rotation.json": rotation(),
        "round.json": played,
        "negative.json": negative(played, drawer),
        "sealed.json": sealed(drawer),
    }


def text(content: Json) -> str:
    return json.dumps(content, indent=1, sort_keys=False) + "\n"


def main() -> None:
    drawer = Drawer.load()
    FOLDER.mkdir(exist_ok=True)
    for name, content in build(drawer).items():
        (FOLDER / name).write_text(text(content))
        digest = hashlib.sha256(text(content).encode()).hexdigest()
        print(f"{digest[:16]}  {name}")
    print(f"{drawer.made} sealed anew, {len(drawer.used) - drawer.made} kept")


if __name__ == "__main__":
    main()
