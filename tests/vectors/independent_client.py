"""A second implementation of a client and a helper of ``masked``, from docs/design/masked-protocol.md.

It shares no code with Tacit: its own CBOR, its own HPKE from an ML-KEM, an X25519 and an AES-GCM
primitive, its own vectors in plain integers. Slow and small on purpose; section numbers are those of
the specification. It leaves out what a site decides for itself: policy, budget, training, noise.
"""

from __future__ import annotations

import hashlib
import hmac
import math
import struct
from dataclasses import dataclass, field
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.mlkem import MLKEM768PrivateKey, MLKEM768PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

EMPTY_LOG = {"size": 0, "root": hashlib.sha256(b"").digest()}
"""Section 4.1: the head of a log that holds nothing."""
DOMAIN = b"tacit message v1\x00"
PROTOCOL = "tacit masked v1"
CHUNK_ELEMENTS = 2**18


def sha256(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()


# --- section 3: deterministic CBOR ---------------------------------------------------------------


def _head(major: int, argument: int) -> bytes:
    if argument < 24:
        return bytes([major << 5 | argument])
    for code, size in ((24, 1), (25, 2), (26, 4), (27, 8)):
        if argument < 1 << 8 * size:
            return bytes([major << 5 | code]) + argument.to_bytes(size, "big")
    raise ValueError("too large")


def cbor(value: Any) -> bytes:
    """Section 3.1."""
    if value is None or isinstance(value, bool):
        return {None: b"\xf6", False: b"\xf4", True: b"\xf5"}[value]
    if isinstance(value, int):
        return _head(0, value)
    if isinstance(value, bytes):
        return _head(2, len(value)) + value
    if isinstance(value, str):
        return _head(3, len(value.encode())) + value.encode()
    if isinstance(value, list):
        return _head(4, len(value)) + b"".join(map(cbor, value))
    pairs = sorted((cbor(key), cbor(item)) for key, item in value.items())
    return _head(5, len(pairs)) + b"".join(key + item for key, item in pairs)


def uncbor(data: bytes) -> Any:
    """The value whose one encoding ``data`` is."""
    value, rest = _item(data)
    if rest or cbor(value) != data:
        raise ValueError("not the one encoding of a value")
    return value


def _item(data: bytes, depth: int = 0) -> tuple[Any, bytes]:
    major, argument, data = data[0] >> 5, data[0] & 31, data[1:]
    if major == 7:
        return {20: False, 21: True, 22: None}[argument], data
    if argument >= 24:
        size = 1 << argument - 24
        argument, data = int.from_bytes(data[:size], "big"), data[size:]
    if major == 0:
        return argument, data
    if major in (2, 3):
        text = data[:argument]
        return (text if major == 2 else text.decode()), data[argument:]
    if major not in (4, 5) or depth == 8:
        raise ValueError("outside the format, or too deep")
    items = []
    for _ in range(argument * (2 if major == 5 else 1)):
        item, data = _item(data, depth + 1)
        items.append(item)
    return (items if major == 4 else dict(zip(items[::2], items[1::2], strict=True))), data


# --- section 4: signed messages ------------------------------------------------------------------


@dataclass
class Party:
    """A roster member in one role."""

    name: str
    role: str
    key: Ed25519PrivateKey
    log: dict[str, Any] = field(default_factory=lambda: EMPTY_LOG)

    @property
    def address(self) -> str:
        return f"{self.name}/{self.role}"


@dataclass
class Message:
    """A checked message: header, body, and the bytes that its digest is of."""

    header: dict[str, Any]
    body: dict[str, Any]
    raw: bytes

    @property
    def sender(self) -> str:
        return self.header["sender"].partition("/")[0]


def sign(party: Party, run: dict[str, bytes], to: str, kind: str, number: int, body: Any) -> bytes:
    header = cbor(
        {
            "version": 1,
            "type": kind,
            "run": run["run"],
            "round": number,
            "sender": party.address,
            "receiver": to,
            "roster": run["roster"],
            "job": run["job"],
            "log": party.log,
            "body": cbor(body),
        }
    )
    return cbor({"header": header, "signature": party.key.sign(DOMAIN + header)})


def read(raw: bytes, keys: dict[str, bytes]) -> Message:
    """Opens a message of a member of the roster; ``keys`` are the members' public keys."""
    signed = uncbor(raw)
    header = uncbor(signed["header"])
    name = header["sender"].partition("/")[0]
    public = Ed25519PublicKey.from_public_bytes(keys[name])
    public.verify(signed["signature"], DOMAIN + signed["header"])
    return Message(header, uncbor(header["body"]), raw)


# --- section 5: vectors --------------------------------------------------------------------------


def to_bytes(vector: list[int], bits: int) -> bytes:
    return b"".join((x % 2**bits).to_bytes(bits // 8, "little") for x in vector)


def from_bytes(data: bytes, bits: int) -> list[int]:
    size = bits // 8
    return [int.from_bytes(data[i : i + size], "little") for i in range(0, len(data), size)]


def centred(vector: list[int], bits: int) -> list[int]:
    half = 2 ** (bits - 1)
    return [(x + half) % 2**bits - half for x in vector]


def describe(data: bytes, length: int) -> tuple[dict[str, Any], list[bytes]]:
    """A Vector and its chunks."""
    size = CHUNK_ELEMENTS * (len(data) // length)
    chunks = [data[start : start + size] for start in range(0, len(data), size)]
    return {"length": length, "digests": [sha256(chunk) for chunk in chunks]}, chunks


# --- section 6: sealing --------------------------------------------------------------------------

SUITE_ID = b"HPKE" + (0x647A).to_bytes(2, "big") + (1).to_bytes(2, "big") + (2).to_bytes(2, "big")
X_WING_LABEL = b"\\.//^\\"


def hkdf_extract(salt: bytes, material: bytes) -> bytes:
    return hmac.digest(salt or bytes(32), material, "sha256")


def hkdf_expand(key: bytes, info: bytes, size: int) -> bytes:
    block, out, counter = b"", b"", 1
    while len(out) < size:
        block = hmac.digest(key, block + info + bytes([counter]), "sha256")
        out, counter = out + block, counter + 1
    return out[:size]


def _labelled_extract(salt: bytes, label: bytes, material: bytes) -> bytes:
    return hkdf_extract(salt, b"HPKE-v1" + SUITE_ID + label + material)


def _labelled_expand(key: bytes, label: bytes, info: bytes, size: int) -> bytes:
    return hkdf_expand(key, size.to_bytes(2, "big") + b"HPKE-v1" + SUITE_ID + label + info, size)


def _cipher(shared: bytes, info: bytes) -> tuple[AESGCM, bytes]:
    context = b"\x00" + _labelled_extract(b"", b"psk_id_hash", b"")
    context += _labelled_extract(b"", b"info_hash", info)
    secret = _labelled_extract(shared, b"secret", b"")
    key = _labelled_expand(secret, b"key", context, 32)
    return AESGCM(key), _labelled_expand(secret, b"base_nonce", context, 12)


def _combine(quantum: bytes, classical: bytes, ephemeral: bytes, public: bytes) -> bytes:
    return hashlib.sha3_256(quantum + classical + ephemeral + public + X_WING_LABEL).digest()


@dataclass
class SealingKey:
    """A key pair of section 6.1."""

    quantum: MLKEM768PrivateKey = field(default_factory=MLKEM768PrivateKey.generate)
    classical: X25519PrivateKey = field(default_factory=X25519PrivateKey.generate)

    @property
    def public(self) -> bytes:
        return (
            self.quantum.public_key().public_bytes_raw()
            + self.classical.public_key().public_bytes_raw()
        )

    def open(self, sealed: bytes, info: bytes) -> bytes:
        quantum, ephemeral, ciphertext = sealed[:1088], sealed[1088:1120], sealed[1120:]
        shared = _combine(
            self.quantum.decapsulate(quantum),
            self.classical.exchange(X25519PublicKey.from_public_bytes(ephemeral)),
            ephemeral,
            self.public[1184:],
        )
        cipher, nonce = _cipher(shared, info)
        return cipher.decrypt(nonce, ciphertext, b"")


def seal(plaintext: bytes, public: bytes, info: bytes) -> bytes:
    quantum, ciphertext = MLKEM768PublicKey.from_public_bytes(public[:1184]).encapsulate()
    ephemeral = X25519PrivateKey.generate()
    own = ephemeral.public_key().public_bytes_raw()
    classical = ephemeral.exchange(X25519PublicKey.from_public_bytes(public[1184:]))
    cipher, nonce = _cipher(_combine(quantum, classical, own, public[1184:]), info)
    return ciphertext + own + cipher.encrypt(nonce, plaintext, b"")


def chunk_info(message: bytes, index: int) -> bytes:
    return b"tacit chunk v1\x00" + sha256(message) + index.to_bytes(8, "big")


# --- section 7: context, masks, cohort -----------------------------------------------------------


def context(manifest: dict[str, Any], number: int, model: bytes, keys: list[Message]) -> bytes:
    value = {
        "protocol": PROTOCOL,
        "run": sha256(cbor(manifest)),
        "round": number,
        "roster": manifest["roster"],
        "job": manifest["job"],
        "model": model,
        "plan": manifest["plan"],
        "bits": manifest["ring_bits"],
        "keys": [{"helper": key.sender, "key": key.body["key"]} for key in keys],
    }
    return sha256(cbor(value))


def info(use: str, ctx: bytes, client: str, helper: str) -> bytes:
    return cbor({"use": use, "context": ctx, "client": client, "helper": helper})


def mask(seed: bytes, ctx: bytes, client: str, helper: str, shape: tuple[int, int]) -> list[int]:
    """The keystream of one seed: ``shape`` is (length, bits)."""
    length, bits = shape
    material = hkdf_expand(hkdf_extract(ctx, seed), info("expand", ctx, client, helper), 48)
    cipher = Cipher(algorithms.AES256(material[:32]), modes.CTR(material[32:])).encryptor()
    return from_bytes(cipher.update(bytes(length * bits // 8)), bits)


def cohort_digest(uploads: list[bytes]) -> bytes:
    return sha256(cbor({"protocol": PROTOCOL, "uploads": sorted(map(sha256, uploads))}))


def first_model_seed(nonces: dict[str, bytes]) -> bytes:
    data = b"tacit first model v1\x00"
    for name in sorted(nonces):
        data += len(name).to_bytes(2, "big") + name.encode() + nonces[name]
    return sha256(data)


def checked_keys(start: list[bytes], manifest: dict[str, Any], number: int, roster: Any) -> Any:
    """Section 7.1: the signed helper keys of a round."""
    keys = [read(raw, roster) for raw in start]
    names = [key.sender for key in keys]
    run = sha256(cbor(manifest))
    if names != [name for name in manifest["helpers"] if name in names]:
        raise ValueError("not helpers of the run in its order")
    if any((key.header["round"], key.header["run"]) != (number, run) for key in keys):
        raise ValueError("a key of another round or run")
    if any(
        key.header["type"] != "helper-key" or not key.header["sender"].endswith("/helper")
        for key in keys
    ):
        raise ValueError("not a helper's key")
    return keys


# --- section 8.2: acceptances and budget heads ---------------------------------------------------

WINDOW = 64


@dataclass
class Heads:
    """Reservations ever made, the digests after each of the last ones, and which were released."""

    reservations: int
    digests: list[bytes]
    released: list[int] = field(default_factory=list)

    def at(self, count: int) -> bytes | None:
        oldest = self.reservations - len(self.digests) + 1
        return self.digests[count - oldest] if oldest <= count <= self.reservations else None


def standing(known: Heads | None, shown: Heads, spent: list[int]) -> str:
    """What a peer makes of what a client shows; ``spent``: reservations in whose runs it uploaded."""
    count = shown.reservations
    window = range(count - len(shown.digests) + 1, count + 1)
    if len(shown.digests) != min(count, WINDOW):
        raise ValueError("budget.head")
    if [number for number in window if number in shown.released] != shown.released:
        raise ValueError("budget.head")
    word = "first"
    if known is not None and known.reservations > count:
        word = "repeated"
        if count == 0 or shown.at(count) != known.at(count):
            raise ValueError("budget.rolled-back")
    elif known is not None and known.reservations > 0:
        then = shown.at(known.reservations)
        word = "unprovable" if then is None else "continued"
        if then not in (None, known.at(known.reservations)):
            raise ValueError("budget.forked")
    if set(shown.released) & set(spent):
        raise ValueError("budget.refunded")
    return word


def meet(
    accepts: list[bytes], manifest: dict[str, Any], roster: Any, memory: dict[str, Heads]
) -> dict[str, bytes]:
    """The nonces of all clients; ``memory`` is what is remembered of their budgets, and is updated."""
    opened = [read(raw, roster) for raw in accepts]
    run, nonces, seen = sha256(cbor(manifest)), {}, dict(memory)
    for one in opened:
        if (one.header["type"], one.header["run"]) != ("accept", run):
            raise ValueError("message.carried")
        shown = Heads(one.body["reservations"], one.body["heads"], one.body["released"])
        if standing(memory.get(one.sender), shown, []) != "repeated":
            seen[one.sender] = shown
        nonces[one.sender] = one.body["nonce"]
    if len(opened) != len(nonces) or sorted(nonces) != sorted(manifest["clients"]):
        raise ValueError("chain.accepts")
    memory.update(seen)
    return nonces


# --- sections 8 and 9: client and helper ---------------------------------------------------------


def upload(
    party: Party,
    run: dict[str, bytes],
    manifest: dict[str, Any],
    start: Message,
    vector: list[int],
    roster: dict[str, bytes],
    made: dict[str, tuple[bytes, bytes]],
) -> tuple[bytes, list[bytes]]:
    """A signed Upload and its chunks in the clear; ``made`` is seed and sealed seed by helper."""
    bits, length = manifest["ring_bits"], manifest["length"]
    number = start.header["round"]
    keys = checked_keys(start.body["keys"], manifest, number, roster)
    ctx = context(manifest, number, start.body["model"], keys)
    seeds, total = [], list(vector)
    for key in keys:
        seed, sealed = made[key.sender]
        seeds.append({"helper": key.sender, "sealed": sealed})
        stream = mask(seed, ctx, party.name, key.sender, (length, bits))
        total = [x + y for x, y in zip(total, stream, strict=True)]
    described, chunks = describe(to_bytes(total, bits), length)
    body = {"context": ctx, "seeds": seeds, "vector": described}
    return sign(party, run, start.header["sender"], "upload", number, body), chunks


def fresh_seeds(
    manifest: dict[str, Any], start: Message, client: str, roster: dict[str, bytes], entropy: Any
) -> dict[str, tuple[bytes, bytes]]:
    number = start.header["round"]
    keys = checked_keys(start.body["keys"], manifest, number, roster)
    ctx = context(manifest, number, start.body["model"], keys)
    made = {}
    for key in keys:
        seed = entropy(32)
        sealed = seal(seed, key.body["key"], info("seal", ctx, client, key.sender))
        made[key.sender] = (seed, sealed)
    return made


def encrypt_chunks(message: bytes, chunks: list[bytes], leader_key: bytes) -> list[bytes]:
    return [seal(chunk, leader_key, chunk_info(message, i)) for i, chunk in enumerate(chunks)]


def mask_sum(
    party: Party,
    run: dict[str, bytes],
    manifest: dict[str, Any],
    request: Message,
    roster: dict[str, bytes],
    key: SealingKey,
    noise: list[int],
) -> tuple[bytes, list[bytes]]:
    """Section 9.3: the signed MaskSum and its chunks."""
    bits, length = manifest["ring_bits"], manifest["length"]
    number = request.header["round"]
    keys = checked_keys(request.body["keys"], manifest, number, roster)
    if {k.sender: k.body["key"] for k in keys}.get(party.name) != key.public:
        raise ValueError("another key than this helper holds")
    ctx = context(manifest, number, request.body["model"], keys)
    uploads = [read(raw, roster) for raw in request.body["uploads"]]
    clients = [one.sender for one in uploads]
    if len(set(clients)) != len(clients) or not set(clients) <= set(manifest["clients"]):
        raise ValueError("a stranger or a repeat")
    if len(clients) < manifest["min_cohort"]:
        raise ValueError("the cohort is too small")
    total = [-z for z in noise]
    for one in uploads:
        if one.body["context"] != ctx or one.header["round"] != number:
            raise ValueError("another context")
        sealed = {seed["helper"]: seed["sealed"] for seed in one.body["seeds"]}[party.name]
        seed = key.open(sealed, info("seal", ctx, one.sender, party.name))
        stream = mask(seed, ctx, one.sender, party.name, (length, bits))
        total = [x + y for x, y in zip(total, stream, strict=True)]
    described, chunks = describe(to_bytes(total, bits), length)
    body = {
        "context": ctx,
        "cohort": cohort_digest(request.body["uploads"]),
        "vector": described,
    }
    return sign(party, run, request.header["sender"], "mask-sum", number, body), chunks


# --- section 11: the server step -----------------------------------------------------------------


@dataclass
class State:
    """Section 11.1; lists of floats."""

    theta: list[float]
    momentum: list[float]
    second: list[float]
    average: list[float]
    averaged: int = 0
    steps: int = 0
    clip_scale: float = 1.0

    def to_bytes(self) -> bytes:
        arrays = (self.theta, self.momentum, self.second, self.average)
        header = struct.pack("<QQQd", len(self.theta), self.averaged, self.steps, self.clip_scale)
        numbers = b"".join(struct.pack(f"<{len(a)}d", *a) for a in arrays)
        return b"tacit server state v1\x00" + header + numbers

    @classmethod
    def start(cls, theta: list[float]) -> State:
        zero = [0.0] * len(theta)
        return cls(theta, zero, zero, zero)


def _power(base: float, exponent: int) -> float:
    result = 1.0
    while exponent:
        if exponent & 1:
            result *= base
        base *= base
        exponent >>= 1
    return result


def step(state: State, gradient: list[float], rule: dict[str, Any]) -> State:
    """Section 11.2; every operation is one IEEE 754 double operation."""
    rate, decay, steps = rule["learning_rate"], rule["momentum"], state.steps + 1
    momentum, second, direction = state.momentum, state.second, gradient
    if rule["optimiser"] == "momentum":
        momentum = [decay * m + g for m, g in zip(momentum, gradient, strict=True)]
        direction = momentum
    elif rule["optimiser"] == "adam":
        momentum = [decay * m + (1.0 - decay) * g for m, g in zip(momentum, gradient, strict=True)]
        second = [
            0.999 * v + (1.0 - 0.999) * (g * g) for v, g in zip(second, gradient, strict=True)
        ]
        low, high = 1.0 - _power(decay, steps), 1.0 - _power(0.999, steps)
        direction = [
            (m / low) / (math.sqrt(v / high) + 1e-8) for m, v in zip(momentum, second, strict=True)
        ]
    theta = [t - rate * d for t, d in zip(state.theta, direction, strict=True)]
    average, averaged = state.average, state.averaged
    if steps > math.floor(rule["average_from"] * rule["rounds"]):
        averaged += 1
        average = [a + (t - a) / averaged for a, t in zip(average, theta, strict=True)]
    return State(theta, momentum, second, average, averaged, steps, state.clip_scale)


def rotation_exponent(length: int) -> int:
    """Section 11.3: e, where a block has 2^e elements."""
    groups = (length - 1) // 64
    return min(max(6, groups.bit_length() - 1), 16)


def unrotate(values: list[float], state_digest: bytes, length: int) -> list[float]:
    """Section 11.3: what a rotated sum says."""
    e = rotation_exponent(length)
    seed = sha256(b"tacit rotation seed v1\x00" + state_digest)
    material = hkdf_expand(hkdf_extract(b"", seed), b"tacit rotation v1", 48)
    cipher = Cipher(algorithms.AES256(material[:32]), modes.CTR(material[32:])).encryptor()
    octets = cipher.update(bytes(-(-len(values) // 8)))
    out = list(values)
    for start in range(0, len(out), 2**e):
        for bit in [*range(e // 2, e), *range(e // 2)]:
            for low in range(start, start + 2**e):
                if not (low - start) >> bit & 1:
                    a, b = out[low], out[low + 2**bit]
                    out[low], out[low + 2**bit] = a + b, a - b
    scale = 1.0 / math.sqrt(2**e)
    scaled = [x * scale for x in out[:length]]
    return [-x if octets[j // 8] >> (j % 8) & 1 else x for j, x in enumerate(scaled)]
