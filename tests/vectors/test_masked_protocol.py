"""The published vectors of ``masked`` against this implementation, and against a second one.

The second implementation is ``independent_client.py``, written from docs/design/masked-protocol.md
alone. The vectors are written by ``make_masked.py``.
"""

from __future__ import annotations

import ast
import json
from functools import cache
from pathlib import Path
from typing import Any

import independent_client as second
import make_masked
import numpy as np
import pytest
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.mlkem import MLKEM768PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from masked_negative import expanded
from masked_stage import CLIENTS, FOLDER, HELPERS, NOW, Drawer, Stage, identity, published_noise

from tacit import errors
from tacit.algebra.prg import add_keystreams, expand
from tacit.algebra.ring import Ring
from tacit.learn.server import ServerRule, ServerState
from tacit.party.chain import ModelChain
from tacit.party.context import helper_keys
from tacit.party.contribute import chunk_info
from tacit.party.heads import compare_heads
from tacit.party.terms import Terms
from tacit.party.workload import first_model_seed
from tacit.privacy.journal import Heads
from tacit.privacy.rotated import rotated_length
from tacit.secagg.masked import cohort_digest, open_seeds, round_context
from tacit.trust.roster import Roster
from tacit.types import Digest, PartyName
from tacit.wire.codec import decode, encode
from tacit.wire.envelope import Address, Envelope, open_message, split_chunks
from tacit.wire.messages import MESSAGES, Aggregate, CatchUp, Offer

Json = dict[str, Any]


@cache
def load(name: str) -> Json:
    content: Json = json.loads((FOLDER / name).read_text())
    return content


def messages() -> Json:
    return {entry["name"]: entry for entry in load("round.json")["messages"]}


def negatives() -> list[Json]:
    cases: list[Json] = expanded(load("negative.json")["cases"], messages())
    return cases


def raw(name: str) -> bytes:
    return bytes.fromhex(messages()[name]["message"])


def chunks_of(name: str, key: str = "chunks") -> tuple[bytes, ...]:
    return tuple(bytes.fromhex(chunk) for chunk in messages()[name][key])


def unhex(fields: Json, *names: str) -> Json:
    return {name: bytes.fromhex(fields[name]) for name in names}


@cache
def drawer() -> Drawer:
    return Drawer.load()


def opener_of(label: str) -> Any:
    """The private half as the vectors publish it, opened by the second implementation's HPKE."""
    halves = load("sealed.json")["keys"][label]
    return second.SealingKey(
        MLKEM768PrivateKey.from_seed_bytes(bytes.fromhex(halves["mlkem768_seed"])),
        X25519PrivateKey.from_private_bytes(bytes.fromhex(halves["x25519"])),
    )


# --- known answers: both implementations ---------------------------------------------------------


def test_the_generator_writes_what_is_published() -> None:
    kept = drawer()
    for name, content in make_masked.build(kept).items():
        assert make_masked.text(content) == (FOLDER / name).read_text(), name
    assert kept.made == 0


@pytest.mark.parametrize("case", load("ring.json")["cases"], ids=lambda case: str(case["bits"]))
def test_ring(case: Json) -> None:
    ring, data = Ring(case["bits"]), bytes.fromhex(case["bytes"])
    vector = ring.from_integers(np.array(case["integers"], dtype=np.int64))
    assert bytes(ring.to_bytes(vector)) == data == second.to_bytes(case["integers"], case["bits"])
    read = ring.from_bytes(data, len(case["integers"]))
    assert ring.centred(read).tolist() == case["centred"]
    assert second.centred(second.from_bytes(data, case["bits"]), case["bits"]) == case["centred"]


@pytest.mark.parametrize("case", load("keystream.json")["short"])
def test_keystream(case: Json) -> None:
    given, ring = unhex(case, "key", "counter"), Ring(case["bits"])
    assert expand(**given, length=case["length"], ring=ring).tolist() == case["elements"]
    out = ring.zeros(case["length"])
    add_keystreams(None, [(given["key"], given["counter"])], ring, out=out)
    assert out.tolist() == case["elements"]


@pytest.mark.parametrize("case", load("keystream.json")["long"], ids=lambda case: str(case["bits"]))
def test_keystream_of_more_than_one_chunk(case: Json) -> None:
    given, ring, length = unhex(case, "key", "counter"), Ring(case["bits"]), case["length"]
    data = bytes(ring.to_bytes(expand(**given, length=length, ring=ring)))
    vector, chunks = split_chunks(data, length)
    described, parts = second.describe(data, length)
    assert [len(chunk) for chunk in chunks] == case["chunk_sizes"] == [len(part) for part in parts]
    assert encode(vector).hex() == case["vector"] == second.cbor(described).hex()
    assert [known.hex() for known in vector.digests] == case["digests"]


@pytest.mark.parametrize(
    "case", load("derivations.json")["contexts"], ids=lambda case: str(case["bits"])
)
def test_context_and_expansion(case: Json) -> None:
    keys = [(PartyName(key["helper"]), bytes.fromhex(key["key"])) for key in case["keys"]]
    fields = unhex(case, "run", "roster", "job", "model", "plan")
    number, bits, client, helper = (case[k] for k in ("round_number", "bits", "client", "helper"))
    context = round_context(**fields, round_number=number, bits=bits, keys=keys)
    other = {
        "protocol": "tacit masked v1",
        **fields,
        "round": number,
        "bits": bits,
        "keys": [{"helper": name, "key": key} for name, key in keys],
    }
    assert context.hex() == case["context"] == second.sha256(second.cbor(other)).hex()
    for use in ("seal", "expand"):
        assert second.info(use, context, client, helper).hex() == case[f"info_{use}"]
    seed = bytes.fromhex(case["seed"])

    class Opener:
        def open(self, sealed: bytes, info: bytes) -> bytes:
            assert (sealed, info.hex()) == (b"sealed", case["info_seal"])
            return seed

    opener: Any = Opener()
    (stream,) = open_seeds([(client, b"sealed")], context=context, helper=helper, opener=opener)
    assert (stream.key.hex(), stream.counter.hex()) == (case["aes_key"], case["counter"])
    assert second.mask(seed, context, client, helper, (5, bits)) == case["mask"]


def test_cohort_first_model_and_chunk_info() -> None:
    content = load("derivations.json")
    uploads = [Digest(bytes.fromhex(upload)) for upload in content["cohort"]["uploads"]]
    for order in (uploads, uploads[::-1]):
        assert cohort_digest(order).hex() == content["cohort"]["digest"]
    nonces = {name: bytes.fromhex(n) for name, n in content["first_model"]["nonces"].items()}
    seed = first_model_seed([(PartyName(name), nonce) for name, nonce in nonces.items()])
    assert seed.hex() == content["first_model"]["seed"] == second.first_model_seed(nonces).hex()
    chunk = content["chunk"]
    info = chunk_info(Digest(bytes.fromhex(chunk["message"])), chunk["index"])
    assert info.hex() == chunk["info"]


@pytest.mark.parametrize(
    "case", load("server.json")["cases"], ids=lambda case: case["rule"]["optimiser"]
)
def test_server_step(case: Json) -> None:
    rule = ServerRule(**case["rule"])
    state = ServerState.from_bytes(bytes.fromhex(case["states"][0]))
    other = second.State.start(state.theta.tolist())
    assert other.to_bytes() == state.to_bytes()
    for text, expected in zip(case["gradients"], case["states"][1:], strict=True):
        gradient = [float.fromhex(value) for value in text]
        state = rule.step(state, np.array(gradient))
        other = second.step(other, gradient, case["rule"])
        assert state.to_bytes().hex() == expected == other.to_bytes().hex()
    assert state.digest.hex() == case["digest"]
    assert [float(value).hex() for value in rule.released(state)] == case["released"]


@pytest.mark.parametrize(
    "case", load("rotation.json")["cases"], ids=lambda case: str(case["length"])
)
def test_rotated_sum(case: Json) -> None:
    state, grid = bytes.fromhex(case["state"]), float.fromhex(case["grid"])
    values = second.unrotate([x * grid for x in case["sum"]], state, case["length"])
    assert [value.hex() for value in values] == case["values"]


@pytest.mark.parametrize(("length", "rotated"), load("rotation.json")["lengths"])
def test_length_of_a_rotated_vector(length: int, rotated: int) -> None:
    block = 2 ** second.rotation_exponent(length)
    assert -(-length // block) * block == rotated == rotated_length(length)


@pytest.mark.parametrize("place", range(len(load("sealed.json")["sealed"])))
def test_sealed_bytes_open(place: int) -> None:
    entry = load("sealed.json")["sealed"][place]
    given, label = unhex(entry, "sealed", "info", "plaintext"), entry["to"]
    for holder in (make_masked.opener(label), opener_of(label)):
        assert holder.open(given["sealed"], given["info"]) == given["plaintext"]


# --- the round: the second implementation makes every message that a client or helper makes -------


class Second:
    """What the second implementation knows in the round of the vectors."""

    def __init__(self) -> None:
        content = load("round.json")
        self.content = content
        self.private = {
            name: Ed25519PrivateKey.from_private_bytes(bytes.fromhex(seed))
            for name, seed in content["identities"].items()
        }
        members = json.loads(content["roster"])["members"]
        self.roster = {member["name"]: bytes.fromhex(member["key"]) for member in members}
        self.manifest = second.uncbor(bytes.fromhex(content["manifest"]))
        self.run = {
            "run": second.sha256(second.cbor(self.manifest)),
            "roster": second.sha256(content["roster"].encode()),
            "job": self.manifest["job"],
        }

    def read(self, name: str) -> second.Message:
        return second.read(raw(name), self.roster)

    def sender(self, name: str) -> second.Party:
        """Who signed a message, with the log that it showed."""
        header = self.read(name).header
        party, _, role = header["sender"].partition("/")
        return second.Party(party, role, self.private[party], header["log"])


def body_of(message: bytes) -> Any:
    return open_message(message, setting().run.roster.authenticate).body


@cache
def other() -> Second:
    return Second()


def test_run_id_and_offer() -> None:
    offer = other().read("offer")
    assert offer.body["manifest"] == other().manifest
    assert other().run["run"].hex() == other().content["run"] == offer.header["run"].hex()
    assert second.sha256(offer.body["job"]) == other().manifest["job"]
    assert other().run["roster"] == other().manifest["roster"]


@pytest.mark.parametrize("name", sorted(messages()))
def test_every_message_has_one_encoding(name: str) -> None:
    """Ed25519 is deterministic: whoever holds the key makes the same bytes."""
    message = other().read(name)
    header = message.header
    arguments = (header["receiver"], header["type"], header["round"], message.body)
    assert second.sign(other().sender(name), other().run, *arguments) == raw(name)


@pytest.mark.parametrize("client", CLIENTS)
def test_the_second_client_makes_the_published_upload(client: str) -> None:
    start = other().read(f"round-start/1/{client}")
    seeds = other().content["seeds"][client]
    kept = {
        (e["to"], e["plaintext"]): bytes.fromhex(e["sealed"]) for e in load("sealed.json")["sealed"]
    }
    made = {h: (bytes.fromhex(seeds[h]), kept[(f"{h}/1", seeds[h])]) for h in HELPERS}
    upload, chunks = second.upload(
        other().sender(f"upload/{client}"),
        other().run,
        other().manifest,
        start,
        other().content["contributions"][client],
        other().roster,
        made,
    )
    assert upload == raw(f"upload/{client}")
    assert tuple(chunks) == chunks_of(f"upload/{client}")
    sealed = chunks_of(f"upload/{client}", "sealed_chunks")
    key = opener_of("leader/1")
    opened = [key.open(c, second.chunk_info(upload, i)) for i, c in enumerate(sealed)]
    assert opened == chunks


@pytest.mark.parametrize("helper", HELPERS)
def test_the_second_helper_makes_the_published_answer(helper: str) -> None:
    answer, chunks = second.mask_sum(
        other().sender(f"mask-sum/{helper}"),
        other().run,
        other().manifest,
        other().read(f"mask-request/{helper}"),
        other().roster,
        opener_of(f"{helper}/1"),
        other().content["noise"][helper],
    )
    assert answer == raw(f"mask-sum/{helper}")
    assert tuple(chunks) == chunks_of(f"mask-sum/{helper}")


def test_the_aggregate_is_the_sum_and_the_next_model_follows() -> None:
    content, manifest = other().content, other().manifest
    bits = manifest["ring_bits"]
    total = [0] * manifest["length"]
    for sign, names in ((1, CLIENTS), (-1, HELPERS)):
        for name in names:
            data = b"".join(chunks_of(f"{'upload' if sign == 1 else 'mask-sum'}/{name}"))
            vector = second.from_bytes(data, bits)
            total = [x + sign * y for x, y in zip(total, vector, strict=True)]
    start = other().read("round-start/2/alice")
    known = [*content["contributions"].values(), *content["noise"].values()]
    assert (
        second.centred(total, bits) == content["sum"] == [sum(x) for x in zip(*known, strict=True)]
    )
    aggregate = b"".join(chunks_of("round-start/2/alice"))
    assert second.to_bytes(total, bits) == aggregate
    assert start.body["previous"]["vector"]["digests"] == [second.sha256(aggregate)]
    job, plan = json.loads(other().read("offer").body["job"]), json.loads(manifest["plan"])
    training = job["training"]
    rule = {
        "optimiser": training["optimiser"],
        "rounds": job["rounds"],
        **{k: float(training[k]) for k in ("learning_rate", "momentum", "average_from")},
    }
    divisor = float(plan["sampling_rate"]) * plan["expected_units"]
    gradient = [x * float(plan["grid"]) / divisor for x in content["sum"]]
    before = second.State.start([0.0] * manifest["dimension"])
    after = second.step(before, gradient, rule)
    assert before.to_bytes().hex() == content["state"]
    assert after.to_bytes().hex() == content["state_after"]
    assert start.body["model"] == second.sha256(after.to_bytes())


def test_the_second_client_reads_the_catch_up() -> None:
    """The cohort's own headers prove the state to a client that believes nobody."""
    proof = other().read("catch-up/carol")
    state = b"".join(chunks_of("catch-up/carol")[: len(proof.body["state"]["digests"])])
    aggregate = proof.body["aggregate"]
    keys = [second.read(key, other().roster) for key in aggregate["keys"]]
    context = second.context(other().manifest, 1, second.sha256(state), keys)
    uploads = [second.read(upload, other().roster) for upload in proof.body["uploads"]]
    assert {upload.body["context"] for upload in uploads} == {context}
    assert [second.sha256(u.raw) for u in uploads] == [m["upload"] for m in aggregate["cohort"]]


def test_the_second_client_adds_up_again() -> None:
    bits, key = other().manifest["ring_bits"], opener_of("alice/reader")
    total = [0] * other().manifest["length"]
    for index in range(len(CLIENTS) + len(HELPERS)):
        inner = second.read(other().read(f"kept/{index}").body["message"], other().roster)
        sealed = chunks_of(f"kept/{index}")
        opened = [key.open(c, second.chunk_info(inner.raw, i)) for i, c in enumerate(sealed)]
        assert [second.sha256(chunk) for chunk in opened] == inner.body["vector"]["digests"]
        sign = 1 if inner.header["type"] == "upload" else -1
        vector = second.from_bytes(b"".join(opened), bits)
        total = [x + sign * y for x, y in zip(total, vector, strict=True)]
    assert second.to_bytes(total, bits) == b"".join(chunks_of("round-start/2/alice"))


# --- negative vectors ----------------------------------------------------------------------------


@cache
def setting() -> Stage:
    return Stage(drawer())


def chain_at(name: str, state: bytes | None) -> ModelChain:
    """A client's chain before round 1, or in a state of our own."""
    run = setting().run
    party = setting().party(PartyName(name), "client")
    chain = ModelChain(party, run.terms, run.workload, party.state(run.terms.run_id))
    if state is not None:
        with party.ports.store.transaction():
            chain.state.put("model", state)
    return chain


def as_body(case: Json, kind: type) -> Any:
    field = "body" if "body" in case else "aggregate"
    data = bytes.fromhex(case[field])
    return decode(kind, data, len(data))


def open_one(case: Json) -> None:
    open_message(bytes.fromhex(case["message"]), setting().run.roster.authenticate)


def do_decode(case: Json) -> None:
    data = bytes.fromhex(case["bytes"])
    decode(MESSAGES[case["type"]], data, case.get("limit", 4096))


def do_offer(case: Json) -> None:
    Terms.of(as_body(case, Offer), setting().run.roster)


def do_helper_keys(case: Json) -> None:
    party = setting().party(CLIENTS[0], "client")
    keys = [bytes.fromhex(key) for key in case["keys"]]
    helper_keys(party, setting().run.terms, case["round"], keys)


def do_open_seed(case: Json) -> None:
    given = unhex(case, "sealed", "context")
    open_seeds(
        [(PartyName(case["client"]), given["sealed"])],
        context=Digest(given["context"]),
        helper=PartyName(case["helper"]),
        opener=make_masked.opener(case["key"]),
    )


def do_open_chunk(case: Json) -> None:
    given = unhex(case, "sealed", "message")
    info = chunk_info(Digest(given["message"]), case["index"])
    make_masked.opener(case["key"]).open(given["sealed"], info)


def do_apply(case: Json) -> None:
    chain = chain_at("alice", bytes.fromhex(case["state"]))
    chunks = tuple(bytes.fromhex(chunk) for chunk in case["chunks"])
    with chain.party.ports.store.transaction():
        chain.apply(as_body(case, Aggregate), chunks)


def do_catch_up(case: Json) -> None:
    chain = chain_at("carol", None)
    chunks = tuple(bytes.fromhex(chunk) for chunk in case["chunks"])
    with chain.party.ports.store.transaction():
        chain.catch_up(as_body(case, CatchUp), chunks)


def do_accepts(case: Json) -> None:
    chain_at("alice", None).open_accepts([bytes.fromhex(raw) for raw in case["accepts"]])


def as_heads(shown: Json | None) -> Heads | None:
    if shown is None:
        return None
    heads = tuple(Digest(bytes.fromhex(head)) for head in shown["heads"])
    return Heads(shown["reservations"], heads, tuple(shown["released"]))


def do_heads(case: Json) -> None:
    shown = as_heads(case["shown"])
    assert shown is not None
    standing = compare_heads(PartyName("carol"), as_heads(case["known"]), shown, case["spent"])
    assert standing == case["standing"]


OPERATIONS = {
    "decode": do_decode,
    "open": open_one,
    "offer": do_offer,
    "helper-keys": do_helper_keys,
    "open-seed": do_open_seed,
    "open-chunk": do_open_chunk,
    "apply": do_apply,
    "catch-up": do_catch_up,
    "accepts": do_accepts,
    "heads": do_heads,
}


def named(case: Json) -> str:
    return f"{case['op']}: {case['name']}"


@pytest.mark.parametrize("case", [c for c in negatives() if c["op"] in OPERATIONS], ids=named)
def test_negative(case: Json) -> None:
    operation, error = OPERATIONS[case["op"]], case["error"]
    if error is None:
        operation(case)
        return
    with pytest.raises(getattr(errors, error["class"])) as caught:
        operation(case)
    assert (type(caught.value).__name__, caught.value.code) == (error["class"], error["code"])


@pytest.mark.parametrize("case", [c for c in negatives() if c["op"] == "mask-request"], ids=named)
def test_negative_mask_request(case: Json) -> None:
    """A refusal names what it must, answers nothing, and an honest request still gets its answer."""
    stage = Stage(drawer())
    stage.begin()
    helper, to = stage.helpers[HELPERS[0]], Address(HELPERS[0], "helper")
    with published_noise():
        answers = helper.receive(Envelope(to, bytes.fromhex(case["message"])), NOW)
        honest = helper.receive(Envelope(to, raw("mask-request/hanna")), NOW)
    said = [body_of(answer.message) for answer in honest]
    assert said == [body_of(raw(name)) for name in ("mask-sum/hanna", "key/hanna/2")]
    error = case["error"]
    if error is None:
        assert answers == honest
    elif error["class"] == "Ignored":
        assert answers == []
    else:
        (refusal,) = answers
        body = body_of(refusal.message)
        shown = (type(body).__name__, body.code, body.culprit)
        assert shown == (error["class"], error["code"], case["culprit"])


MALFORMED = ("wire.syntax", "wire.not-canonical", "wire.key")


@pytest.mark.parametrize(
    "case",
    [c for c in negatives() if c["op"] == "decode" and (c["error"] or {}).get("code") in MALFORMED],
    ids=named,
)
def test_the_second_decoder_refuses_malformed_bytes(case: Json) -> None:
    with pytest.raises((ValueError, KeyError, IndexError)):
        second.uncbor(bytes.fromhex(case["bytes"]))


@pytest.mark.parametrize("case", [c for c in negatives() if c["op"] == "open-seed"], ids=named)
def test_the_second_helper_opens_what_the_first_opens(case: Json) -> None:
    given, key = unhex(case, "sealed", "context"), opener_of(case["key"])
    info = second.info("seal", given["context"], case["client"], case["helper"])
    if case["error"] is None:
        assert len(key.open(given["sealed"], info)) == 32
        return
    try:
        seed = key.open(given["sealed"], info)
    except (InvalidTag, ValueError):
        return
    assert len(seed) != 32


@pytest.mark.parametrize("case", [c for c in negatives() if c["op"] == "heads"], ids=named)
def test_the_second_client_judges_heads_alike(case: Json) -> None:
    known, shown = (
        heads
        and second.Heads(
            heads["reservations"],
            [bytes.fromhex(head) for head in heads["heads"]],
            heads["released"],
        )
        for heads in (case["known"], case["shown"])
    )
    if case["error"] is None:
        assert second.standing(known, shown, case["spent"]) == case["standing"]
        return
    with pytest.raises(ValueError, match=case["error"]["code"]):
        second.standing(known, shown, case["spent"])


def test_the_second_client_meets_the_others() -> None:
    """The acceptances of a round's start and of a catch-up give it the same heads, all of them new."""
    for name, field in (("round-start/1/alice", "accepts"), ("catch-up/carol", "accepts")):
        accepts = other().read(name).body[field]
        memory: dict[str, Any] = {}
        nonces = second.meet(accepts, other().manifest, other().roster, memory)
        assert sorted(memory) == sorted(nonces) == list(CLIENTS)
        assert memory["carol"].reservations == 70
        assert len(memory["carol"].digests) == 64
        assert memory["bob"].released == [2]
        assert second.meet(accepts, other().manifest, other().roster, memory) == nonces


def test_there_are_enough_negative_vectors() -> None:
    refused = [case for case in negatives() if case["error"] is not None]
    assert len(refused) >= 25
    assert {case["op"] for case in refused} == {
        case["op"] for case in negatives() if case["error"] is None
    }


# --- the second implementation is one ------------------------------------------------------------


def test_the_second_implementation_imports_nothing_of_the_first() -> None:
    tree = ast.parse(Path(second.__file__).read_text())
    names = [
        alias.name if isinstance(node, ast.Import) else node.module or ""
        for node in ast.walk(tree)
        if isinstance(node, ast.Import | ast.ImportFrom)
        for alias in node.names
    ]
    assert names
    assert not [name for name in names if name.split(".")[0] == "tacit"]


def test_the_published_roster_is_that_of_the_signatures() -> None:
    roster = Roster.from_canonical(load("round.json")["roster"].encode())
    for name in ("leader", *CLIENTS, *HELPERS):
        assert roster.member(PartyName(name)).key == identity(name).public_key
    leader = Address(PartyName("leader"), "leader")
    assert open_message(raw("offer"), roster.authenticate).sender == leader
