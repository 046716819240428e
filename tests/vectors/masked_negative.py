"""Negative vectors: what an implementation must refuse, with the error of this one.

Every operation also has a case that succeeds, so that no refusal is an accident.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from independent_client import DOMAIN, cbor, info, sha256, uncbor
from masked_stage import Drawer, derived, head, identity_seed, opener

Json = dict[str, Any]
L = 2**252 + 27742317777372353535851937790883648493
"""Order of the Ed25519 base point, RFC 8032 section 5.1."""


class Run:
    """The messages of ``round.json``, to be taken apart."""

    def __init__(self, played: Json, drawer: Drawer) -> None:
        self.messages = {entry["name"]: entry for entry in played["messages"]}
        self.played = played
        self.drawer = drawer

    def raw(self, name: str) -> bytes:
        return bytes.fromhex(self.messages[name]["message"])

    def chunks(self, name: str) -> list[bytes]:
        return [bytes.fromhex(chunk) for chunk in self.messages[name]["chunks"]]

    def header(self, name: str) -> Json:
        header: Json = uncbor(uncbor(self.raw(name))["header"])
        return header

    def body(self, name: str) -> Json:
        body: Json = uncbor(self.header(name)["body"])
        return body

    def resign(
        self, name: str, body: Json | None = None, *, signer: str = "", **changes: Any
    ) -> bytes:
        """The message with other fields, signed by its sender all the same."""
        header = {**self.header(name), **changes}
        if body is not None:
            header["body"] = cbor(body)
        return signed(cbor(header), signer or header["sender"].partition("/")[0])


def signed(header: bytes, signer: str, domain: bytes = DOMAIN) -> bytes:
    key = Ed25519PrivateKey.from_private_bytes(identity_seed(signer))
    return cbor({"header": header, "signature": key.sign(domain + header)})


def case(name: str, op: str, error: Sequence[str] | None, **inputs: Any) -> Json:
    """``error``: class and code; None for success."""
    entry: Json = {"name": name, "op": op, **_shown(inputs)}
    entry["error"] = None if error is None else {"class": error[0], "code": error[1]}
    return entry


def _shown(value: Any) -> Any:
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, dict):
        return {key: _shown(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_shown(item) for item in value]
    return value


def _decode() -> list[Json]:
    good = cbor({"code": "abc", "culprit": ""})
    assert good == b"\xa2\x64code\x63abc\x67culprit\x60"
    hello, culprit = b"\x64code\x63abc", b"\x67culprit\x60"

    def bad(name: str, code: str, data: bytes, kind: str = "refusal") -> Json:
        return case(name, "decode", ("DecodeError", code), type=kind, bytes=data)

    request = b"\xa1\x67applied"
    accept: Json = {"nonce": bytes(32), "policy": bytes(32), "contract": bytes(32)}
    accept |= {"reservations": 1, "heads": [bytes(32)], "released": []}
    return [
        case("valid", "decode", None, type="refusal", bytes=good),
        bad("empty", "wire.syntax", b""),
        bad("trailing byte", "wire.syntax", good + b"\x00"),
        bad("cut off", "wire.syntax", good[:-1]),
        bad("keys in another order", "wire.not-canonical", b"\xa2" + culprit + hello),
        bad("key twice", "wire.not-canonical", b"\xa3" + hello + hello + culprit),
        bad("key that is no text", "wire.key", b"\xa3" + hello + culprit + b"\x00\x00"),
        bad("missing field", "wire.fields", b"\xa1" + hello),
        bad("unknown field", "wire.fields", b"\xa3\x61a\x00" + hello + culprit),
        bad("indefinite map", "wire.syntax", b"\xbf" + hello + culprit + b"\xff"),
        bad("tag", "wire.syntax", b"\xc1" + good),
        bad("float", "wire.syntax", request + b"\xf9\x00\x00", "catch-up-request"),
        bad("undefined", "wire.syntax", request + b"\xf7", "catch-up-request"),
        bad(
            "integer in two bytes", "wire.not-canonical", request + b"\x18\x01", "catch-up-request"
        ),
        bad("negative integer", "wire.int", request + b"\x20", "catch-up-request"),
        bad("integer too large", "wire.int", request + b"\x1b" + b"\xff" * 8, "catch-up-request"),
        bad("boolean for an integer", "wire.int", request + b"\xf5", "catch-up-request"),
        bad("null for an integer", "wire.int", request + b"\xf6", "catch-up-request"),
        bad("long head of a text", "wire.not-canonical", b"\xa2\x64code\x78\x03abc" + culprit),
        bad("bytes for a text", "wire.string", b"\xa2\x64code\x43abc" + culprit),
        bad("text that is not UTF-8", "wire.syntax", b"\xa2\x64code\x63\xff\xfe\xfd" + culprit),
        bad("text too long", "wire.string", cbor({"code": "a" * 65, "culprit": ""})),
        bad("text too short", "wire.string", cbor({"code": "", "culprit": ""})),
        bad("digest of 31 bytes", "wire.string", cbor({**accept, "nonce": bytes(31)}), "accept"),
        bad("head of 33 bytes", "wire.string", cbor({**accept, "heads": [bytes(33)]}), "accept"),
        bad("65 heads", "wire.array", cbor({**accept, "heads": [bytes(32)] * 65}), "accept"),
        bad("heads left out", "wire.fields", cbor(without(accept, "heads")), "accept"),
        bad("nine levels deep", "wire.syntax", b"\x81" * 9 + b"\x00"),
        bad("beyond the limit", "wire.too-long", cbor({"code": "c" * 64, "culprit": "d" * 64}))
        | {"limit": 128},
    ]


def without(value: Json, *names: str) -> Json:
    return {key: item for key, item in value.items() if key not in names}


def _open(run: Run) -> list[Json]:
    name = "accept/alice"
    parts = uncbor(run.raw(name))
    header, signature = parts["header"], parts["signature"]
    larger = int.from_bytes(signature[32:], "little") + L
    moved = signature[:32] + larger.to_bytes(32, "little")

    def bad(what: str, error: str, code: str, raw: bytes) -> Json:
        return case(what, "open", (error, code), message=raw)

    def forged(signature: bytes) -> bytes:
        return cbor({"header": header, "signature": signature})

    return [
        case("valid", "open", None, message=run.raw(name)),
        bad("no domain", "SignatureError", "trust.signature", signed(header, "alice", b"")),
        bad(
            "domain of a roster",
            "SignatureError",
            "trust.signature",
            signed(header, "alice", b"tacit roster v1\x00"),
        ),
        bad("S + L", "SignatureError", "trust.signature", forged(moved)),
        bad("another signer", "SignatureError", "trust.signature", signed(header, "bob")),
        bad("short signature", "DecodeError", "wire.string", forged(signature[:63])),
        bad(
            "role that the sender has not",
            "SignatureError",
            "trust.role",
            run.resign(name, sender="alice/helper"),
        ),
        bad(
            "sender who is not in the roster",
            "SignatureError",
            "trust.unknown-party",
            run.resign(name, sender="mallory/client", signer="alice"),
        ),
        bad(
            "address without a role",
            "DecodeError",
            "wire.address",
            run.resign(name, sender="alice"),
        ),
        bad("version 2", "DecodeError", "wire.int", run.resign(name, version=2)),
        bad("unknown type", "DecodeError", "wire.type", run.resign(name, type="greeting")),
        bad("body of another type", "DecodeError", "wire.fields", run.resign(name, type="refusal")),
    ]


def _keys(run: Run) -> list[Json]:
    one, two = run.raw("key/hanna/1"), run.raw("key/hugo/1")
    elsewhere = run.resign("key/hugo/1", run=derived("another run"))

    def bad(name: str, code: str, keys: list[bytes]) -> Json:
        return case(name, "helper-keys", ("RemoteProtocolError", code), round=1, keys=keys)

    return [
        case("valid", "helper-keys", None, round=1, keys=[one, two]),
        bad("too few helpers", "round.helpers", [one]),
        bad("no helper", "round.helpers", []),
        bad("another order", "round.helper-keys", [two, one]),
        bad("a helper twice", "round.helper-keys", [one, one]),
        bad("key of another round", "round.stale-key", [one, run.raw("key/hugo/2")]),
        bad("key of another run", "message.carried", [one, elsewhere]),
        bad("another kind of message", "message.carried", [one, run.raw("accept/alice")]),
    ]


def _seeds(run: Run) -> list[Json]:
    upload = run.body("upload/alice")
    sealed = {seed["helper"]: seed["sealed"] for seed in upload["seeds"]}
    good: Json = {
        "key": "hanna/1",
        "sealed": sealed["hanna"],
        "context": upload["context"],
        "client": "alice",
        "helper": "hanna",
    }
    place = info("seal", upload["context"], "alice", "hanna")
    public = opener("hanna/1").public_key
    short = run.drawer.seal(derived("short seed", size=31), public, place)
    expand = info("expand", upload["context"], "alice", "hanna")
    other_use = run.drawer.seal(derived("a seed"), public, expand)
    flipped = sealed["hanna"][:-1] + bytes([sealed["hanna"][-1] ^ 1])

    def bad(name: str, **changes: Any) -> Json:
        return case(
            name, "open-seed", ("RemoteProtocolError", "secagg.seed"), **{**good, **changes}
        )

    return [
        case("valid", "open-seed", None, **good),
        bad("seed of another client", client="bob"),
        bad("seed for another helper", helper="hugo"),
        bad("seed of another context", context=derived("another context")),
        bad("seed sealed to another key", sealed=sealed["hugo"]),
        bad("one bit flipped", sealed=flipped),
        bad("cut off", sealed=sealed["hanna"][:-1]),
        bad("seed of 31 bytes", sealed=short),
        bad("sealed under the other use", sealed=other_use),
    ]


def _helper(run: Run) -> list[Json]:
    name = "mask-request/hanna"
    body = run.body(name)
    alice, bob, carol = body["uploads"]
    other_key = run.resign("key/hanna/1", {"key": opener("hanna/2").public_key})
    upload = run.body("upload/bob")
    copied = run.resign("upload/bob", {**upload, "seeds": run.body("upload/alice")["seeds"]})
    missing = run.resign("upload/bob", {**upload, "seeds": upload["seeds"][1:]})
    foreign = run.resign("upload/bob", {**upload, "context": derived("another context")})
    late = run.resign("upload/bob", round=2)

    def bad(what: str, code: str, culprit: str = "", **changes: Any) -> Json:
        raw = run.resign(name, {**body, **changes})
        found = case(what, "mask-request", ("Refusal", code), message=raw)
        return {**found, "culprit": culprit}

    return [
        case("valid", "mask-request", None, message=run.raw(name)),
        bad("too few operators", "helper.cohort-too-small", "leader", uploads=[alice, bob]),
        bad("a client twice", "helper.cohort", uploads=[alice, bob, carol, alice]),
        bad("a client twice to make up the number", "helper.cohort", uploads=[alice, bob, bob]),
        bad("another model", "helper.context", "leader", model=derived("another model")),
        bad(
            "another key of this helper",
            "helper.other-key",
            "leader",
            keys=[other_key, body["keys"][1]],
        ),
        bad("fewer helpers than the plan needs", "round.helpers", "leader", keys=body["keys"][:1]),
        bad("upload of another context", "helper.context", "bob", uploads=[alice, foreign, carol]),
        bad("upload of another round", "helper.context", "bob", uploads=[alice, late, carol]),
        bad("upload without a seed", "helper.seed-missing", "bob", uploads=[alice, missing, carol]),
        bad("copied seeds", "secagg.seed", "bob", uploads=[alice, copied, carol]),
        case(
            "round whose key was never issued",
            "mask-request",
            ("Refusal", "helper.no-key"),
            message=run.resign(name, round=2),
        )
        | {"culprit": ""},
        case(
            "request that is not the leader's",
            "mask-request",
            ("Ignored", ""),
            message=run.resign(name, sender="alice/client"),
        ),
    ]


def _aggregates(run: Run) -> list[Json]:
    start = run.body("round-start/2/alice")
    good, chunks = start["previous"], run.chunks("round-start/2/alice")
    huge = (2**22).to_bytes(3, "little") * 13
    described = {"length": 13, "digests": [sha256(huge)]}
    wide = bytes(4 * 13)
    members = good["cohort"]
    replaced = [{**members[0], "upload": derived("another upload")}, *members[1:]]
    renamed = [{**members[0], "client": "mallory"}, *members[1:]]
    other = run.resign("mask-sum/hugo", {**run.body("mask-sum/hugo"), "context": bytes(32)})

    def bad(name: str, code: str, error: str = "RemoteProtocolError", **changes: Any) -> Json:
        given: Json = {"chunks": chunks, "state": run.played["state"], **changes}
        shown = {key: given.pop(key) for key in ("chunks", "state")}
        return case(name, "apply", (error, code), aggregate=cbor({**good, **given}), **shown)

    moved = bytearray(bytes.fromhex(run.played["state"]))
    moved[60] ^= 1
    return [
        case(
            "valid", "apply", None, aggregate=cbor(good), chunks=chunks, state=run.played["state"]
        ),
        bad("too few operators", "chain.cohort-too-small", cohort=members[:2]),
        bad("a client twice", "chain.cohort", cohort=[*members, members[0]]),
        bad("a stranger", "chain.cohort", cohort=renamed),
        bad("another upload", "chain.answer", cohort=replaced),
        bad("an answer missing", "chain.helpers", answers=good["answers"][:1]),
        bad("answers in another order", "chain.helpers", answers=good["answers"][::-1]),
        bad("answer for another context", "chain.context", answers=[good["answers"][0], other]),
        bad("too few helpers", "round.helpers", keys=good["keys"][:1], answers=good["answers"][:1]),
        bad("another round", "round.stale-key", round=2),
        bad("another model", "chain.behind", state=bytes(moved)),
        bad("too large a sum", "chain.norm", vector=described, chunks=[huge]),
        bad("another vector", "wire.chunk-digest", "DecodeError", chunks=[bytes(39)]),
        bad("another width", "wire.chunks", "DecodeError", chunks=[wide]),
        bad("chunk missing", "wire.chunks", "DecodeError", chunks=[]),
        bad("two chunks for one", "wire.chunks", "DecodeError", chunks=[bytes(20), bytes(19)]),
    ]


def _catch_ups(run: Run) -> list[Json]:
    body, chunks = run.body("catch-up/carol"), run.chunks("catch-up/carol")
    moved = bytearray(chunks[0])
    moved[60] ^= 1
    state = {**body["state"], "digests": [sha256(bytes(moved))]}

    def bad(name: str, code: str, data: list[bytes], error: str, **changes: Any) -> Json:
        return case(name, "catch-up", (error, code), body=cbor({**body, **changes}), chunks=data)

    remote = "RemoteProtocolError"
    return [
        case("valid", "catch-up", None, body=cbor(body), chunks=chunks),
        bad("another state", "chain.proof", [bytes(moved), *chunks[1:]], remote, state=state),
        bad("an upload missing", "chain.proof", chunks, remote, uploads=body["uploads"][:2]),
        bad(
            "uploads in another order", "chain.proof", chunks, remote, uploads=body["uploads"][::-1]
        ),
        bad("state damaged", "wire.chunk-digest", [bytes(moved), *chunks[1:]], "DecodeError"),
    ]


def _accepts(run: Run) -> list[Json]:
    alice, bob, carol = (run.raw(f"accept/{name}") for name in ("alice", "bob", "carol"))
    elsewhere = run.resign("accept/carol", run=derived("another run"))

    def bad(name: str, code: str, *accepts: bytes) -> Json:
        return case(name, "accepts", ("RemoteProtocolError", code), accepts=accepts)

    return [
        case("valid", "accepts", None, accepts=[alice, bob, carol]),
        case("in another order", "accepts", None, accepts=[carol, alice, bob]),
        bad("one missing", "chain.accepts", alice, bob),
        bad("one twice", "chain.accepts", alice, bob, carol, bob),
        bad("one for another", "chain.accepts", alice, bob, bob),
        bad("one of another run", "message.carried", alice, bob, elsewhere),
        bad("another kind of message", "message.carried", alice, bob, run.raw("upload/carol")),
    ]


def _heads() -> list[Json]:
    """What is remembered of a client, what it shows, and what a peer makes of it."""

    def heads(count: int, *released: int, other_from: int = 1000, kept: int = 64) -> Json:
        shown = range(max(count - kept, 0) + 1, count + 1)
        names = ["carol" if n < other_from else "another carol" for n in shown]
        made = [head(name, n) for name, n in zip(names, shown, strict=True)]
        return {"reservations": count, "heads": made, "released": list(released)}

    def judged(name: str, error: Any, known: Json | None, shown: Json) -> Json:
        return case(name, "heads", error, known=known, spent=[2, 50], shown=shown)

    def good(name: str, standing: str, known: Json | None, shown: Json) -> Json:
        return judged(name, None, known, shown) | {"standing": standing}

    def bad(name: str, code: str, known: Json | None, shown: Json) -> Json:
        return judged(name, ("RemoteProtocolError", code), known, shown)

    return [
        good("nothing known", "first", None, heads(70)),
        good("nothing known, nothing reserved", "first", None, heads(0)),
        good("known before it reserved anything", "first", heads(0), heads(2)),
        good("the same again", "continued", heads(3), heads(3)),
        good("one reservation more", "continued", heads(3), heads(4)),
        good("63 more", "continued", heads(7), heads(70)),
        good("64 more", "unprovable", heads(6), heads(70)),
        good("an acceptance that was overtaken", "repeated", heads(4), heads(3)),
        bad("an older state", "budget.rolled-back", heads(4), heads(3, other_from=3)),
        bad("no state any more", "budget.rolled-back", heads(4), heads(0)),
        bad("a state older than what is remembered", "budget.rolled-back", heads(70), heads(6)),
        bad("as many others", "budget.forked", heads(4), heads(4, other_from=4)),
        bad("more, but others", "budget.forked", heads(4), heads(9, other_from=3)),
        bad("too few heads", "budget.head", None, heads(70, kept=63)),
        bad("only the last head", "budget.head", heads(4), heads(9, kept=1)),
        bad("more heads than reservations", "budget.head", None, {**heads(3), "reservations": 2}),
        bad("heads of nothing", "budget.head", None, {**heads(1), "reservations": 0}),
        good("others were released", "continued", heads(3), heads(4, 1, 3)),
        bad("what was spent was released", "budget.refunded", heads(3), heads(4, 2)),
        bad("spent and released, nothing else known", "budget.refunded", None, heads(70, 50)),
        bad("released before its reservation", "budget.head", None, heads(3, 4)),
        bad("released outside the window", "budget.head", None, heads(70, 6)),
        bad("released, in another order", "budget.head", None, heads(4, 3, 1)),
        bad("released twice", "budget.head", None, heads(4, 1, 1)),
    ]


def _offers(run: Run) -> list[Json]:
    offer = run.body("offer")
    manifest = offer["manifest"]
    plan = json.loads(manifest["plan"])

    def bad(name: str, **changes: Any) -> Json:
        body = cbor({**offer, "manifest": {**manifest, **changes}})
        return case(name, "offer", ("RemoteProtocolError", "offer.inconsistent"), body=body)

    fewer = json.dumps({**plan, "min_helpers": 1}, sort_keys=True, separators=(",", ":")).encode()
    spaced = json.dumps(plan, sort_keys=True).encode()
    return [
        case("valid", "offer", None, body=cbor(offer)),
        bad("width that is none", ring_bits=17),
        bad("another width than the plan's", ring_bits=32),
        bad("another length", length=14),
        bad("another roster", roster=derived("another roster")),
        bad("another job", job=derived("another job")),
        bad("another protocol", protocol="plain/1"),
        bad("a smaller cohort", min_cohort=2),
        bad("one helper", helpers=["hanna"]),
        bad("a helper that is none", helpers=["hanna", "alice"]),
        bad("plan with too few helpers", plan=fewer),
        bad("plan that is not canonical", plan=spaced),
        bad("more rounds", rounds=3),
    ]


def _chunks(run: Run) -> list[Json]:
    message = run.messages["upload/alice"]
    good: Json = {
        "key": "leader/1",
        "sealed": message["sealed_chunks"][0],
        "message": sha256(run.raw("upload/alice")),
        "index": 0,
    }

    def bad(name: str, **changes: Any) -> Json:
        return case(name, "open-chunk", ("DecodeError", "trust.sealed"), **{**good, **changes})

    return [
        case("valid", "open-chunk", None, **good),
        bad("chunk at another place", index=1),
        bad("chunk of another upload", message=sha256(run.raw("upload/bob"))),
        bad("chunk for another round's key", key="leader/2"),
    ]


def negative(played: Json, drawer: Drawer) -> Json:
    """The content of ``negative.json``."""
    run = Run(played, drawer)
    makers: list[Callable[[Run], list[Json]]] = [
        lambda _: _decode(),
        _open,
        _offers,
        _keys,
        _seeds,
        _chunks,
        _helper,
        _aggregates,
        _catch_ups,
        _accepts,
        lambda _: _heads(),
    ]
    about = (
        "Operations on bytes, in the setting of round.json, and what becomes of them; 'error' is null "
        "for success. decode: 'bytes' as a body of 'type', at most 'limit' (4096) bytes long. "
        "open: a signed message. offer: the body of an Offer. helper-keys: the signed keys "
        "of 'round'. open-seed: what 'client' sealed to the key 'key' of 'helper'. open-chunk: a chunk "
        "of the upload whose digest is 'message'. mask-request: to hanna, who holds hanna/1; Ignored: "
        "no answer. apply: an aggregate, to a client in 'state'. catch-up: to a client of round 0. "
        "accepts: those of a round's start. heads: what a peer remembers of a client's budget, the "
        "reservations that it saw spent, and what the client shows; 'standing' is what the peer logs."
    )
    names = sorted(run.messages, key=lambda name: -len(run.messages[name]["message"]))
    known = [(name, run.messages[name]["message"]) for name in names]
    cases = [_abbreviated(entry, known) for make in makers for entry in make(run)]
    return {"about": about + NAMES, "cases": cases}


NAMES = " <name> stands for the bytes of the message of that name in round.json."


def _abbreviated(value: Any, known: Sequence[tuple[str, str]]) -> Any:
    """Hexadecimal text in which every whole message of the round is named instead."""
    if isinstance(value, dict):
        return {key: _abbreviated(item, known) for key, item in value.items()}
    if isinstance(value, list):
        return [_abbreviated(item, known) for item in value]
    if isinstance(value, str):
        for name, message in known:
            value = value.replace(message, f"<{name}>")
    return value


def expanded(value: Any, messages: Json) -> Any:
    """The inverse: ``messages`` are those of round.json by name."""
    if isinstance(value, dict):
        return {key: expanded(item, messages) for key, item in value.items()}
    if isinstance(value, list):
        return [expanded(item, messages) for item in value]
    if isinstance(value, str) and "<" in value:
        return re.sub(r"<([^>]*)>", lambda found: messages[found[1]]["message"], value)
    return value
