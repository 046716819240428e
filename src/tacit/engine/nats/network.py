"""The network of a federation: where its servers are, and which keys its members connect with.

``network.toml`` belongs to ``federation.toml``. A member's identity signs for its two connection keys:
the NKey that opens its connection to the server, and the key that parcels to it are sealed with. So a
login proves a connection only, and a server that lies about who is connected opens nothing.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import ipaddress
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

import rfc8785
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from pydantic import Field

from tacit.config import Table, load_toml
from tacit.errors import ConfigError, SignatureError
from tacit.files import write_atomic
from tacit.trust.identity import OsEntropy, read_private, verify
from tacit.trust.roster import Roster
from tacit.trust.sealing import SEALING_KEY_BYTES, StoredOpener
from tacit.types import Entropy, Opener, PartyName, Signer

__all__ = [
    "CONNECTION_KEY",
    "NETWORK_FILE",
    "SEALING_KEY",
    "Credentials",
    "Network",
    "NetworkFile",
    "Peer",
    "check_servers",
    "is_loopback",
    "is_user_nkey",
    "sign_peer",
    "slug",
    "verify_peer",
    "write_network",
]

NETWORK_FILE = "network.toml"
CONNECTION_KEY = Path("keys") / "connection.key"
SEALING_KEY = Path("keys") / "sealing.key"

VERSION = 1
DOMAIN = b"tacit connection v1\x00"
SERVER = re.compile(r"(tls|nats)://[A-Za-z0-9.\[\]:-]{1,255}:[0-9]{1,5}")
USER, SEED = 20 << 3, 18 << 3
"""Prefix bytes of NKeys. Reference: nats-io/nkeys, "Encoding" (base32 of prefix, key, CRC-16)."""


class PeerTable(Table):
    """How one member connects."""

    name: str = Field(description="Name of the party in the roster.")
    nkey: str = Field(description="NKey that the party logs in with: `U` and 55 characters.")
    sealing: str = Field(
        description="Key that parcels to the party are sealed with, 2432 hexadecimal digits."
    )
    signature: str = Field(
        description="Signature of the party's identity over its two keys, 128 hexadecimal digits."
    )


class NetworkFile(Table):
    """``network.toml``: servers and connection keys of a federation."""

    version: Literal[1] = Field(description="Version of the file format.")
    federation: str = Field(description="Name of the federation, as in `federation.toml`.")
    servers: tuple[str, ...] = Field(
        min_length=1,
        max_length=16,
        description="Addresses, for example `tls://nats.example.org:4222`; `nats://` without TLS on "
        "this machine only.",
    )
    ca: str = Field(
        default="",
        description="Certificate of the authority that signed the servers' certificates (PEM); the "
        "system's own authorities are not asked.",
    )
    member: tuple[PeerTable, ...] = Field(description="Every party of the roster.")


@dataclass(frozen=True, slots=True)
class Peer:
    """The public connection keys of a member: its NKey (``U...``) and its transport key."""

    nkey: str
    sealing: bytes


@dataclass(frozen=True, slots=True)
class Network:
    """Where a federation meets, and how its members connect.

    Args:
        federation: Name of the federation.
        servers: Addresses of the NATS servers.
        ca: Certificate in PEM that server certificates must come from; empty without TLS.
        peers: The keys of every member.
    """

    federation: str
    servers: tuple[str, ...]
    ca: str
    peers: Mapping[PartyName, Peer]

    @classmethod
    def load(cls, path: Path, roster: Roster) -> Network:
        """Reads ``network.toml`` and checks that every member of the roster signed for its keys.

        Raises:
            ConfigError: Missing or malformed, of another federation, or its members are not the
                roster's.
            SignatureError: A member did not sign for these keys; names it.

        Guarantee: an adversary without a member's identity key cannot make this return another NKey
        or transport key for that member. Checked by
        ``tests/unit/test_engine_nats_network.py::test_every_changed_key_is_refused``.
        """
        file = load_toml(path, NetworkFile)
        if file.federation != roster.federation:
            raise _refuse(path, "federation", f"it is of '{file.federation}'")
        check_servers(file.servers, file.ca, str(path))
        peers: dict[PartyName, Peer] = {}
        for entry in file.member:
            name = PartyName(entry.name)
            if name in peers:
                raise _refuse(path, "member", f"'{name}' is there twice")
            peer = _peer(entry, path)
            try:
                signature = _unhex(entry.signature, 64, entry.name, path)
                verify_peer(roster, name, peer, signature)
            except SignatureError as error:
                error.details.update(file=str(path), party=name)
                raise
            peers[name] = peer
        listed = {member.name for member in roster.members}
        if missing := sorted(listed - peers.keys()):
            raise _refuse(path, "member", f"the roster's '{missing[0]}' is missing")
        if len({peer.nkey for peer in peers.values()}) != len(peers):
            raise _refuse(path, "member", "two members have the same NKey")
        return cls(file.federation, file.servers, file.ca, peers)


@dataclass(frozen=True, slots=True)
class Credentials:
    """The private connection keys of a member.

    Args:
        nkey_seed: Seed of its NKey (``SU...``).
        opener: Private half of its transport key.
    """

    nkey_seed: bytes = field(repr=False)
    opener: Opener

    @classmethod
    def load(cls, folder: Path) -> Credentials:
        """Reads ``keys/connection.key`` and ``keys/sealing.key`` of a party's folder.

        Raises:
            ConfigError: Missing, malformed, or readable by group or others.
        """
        path = folder / CONNECTION_KEY
        seed = read_private(path).strip()
        if _seed_bytes(seed) is None:
            raise ConfigError(
                "network.key",
                f"{path} does not hold the seed of an NKey",
                remedy="restore the file from your backup, or remove it, make a new one and have "
                "the federation's network.toml written again",
                file=str(path),
            )
        return cls(seed, StoredOpener.load(folder / SEALING_KEY))

    @classmethod
    def generate(cls, folder: Path, entropy: Entropy | None = None) -> Credentials:
        """Makes those of the two keys that are missing in a party's folder; replaces none.

        Args:
            folder: The party's folder.
            entropy: Source of the NKey; the operating system's unless a test says otherwise.

        Raises:
            ConfigError: A key that is there is malformed or readable by others.
            TransportError: The disk refuses the write.
        """
        (folder / "keys").mkdir(parents=True, exist_ok=True, mode=0o700)
        if not (folder / CONNECTION_KEY).exists():
            drawn = (OsEntropy() if entropy is None else entropy).draw(32)
            line = _encode(bytes([SEED | USER >> 5, (USER & 31) << 3]) + drawn) + "\n"
            write_atomic(folder / CONNECTION_KEY, line.encode(), private=True, replace=False)
        if not (folder / SEALING_KEY).exists():
            StoredOpener.generate().save(folder / SEALING_KEY)
        return cls.load(folder)

    @property
    def peer(self) -> Peer:
        """The public halves."""
        seed = _seed_bytes(self.nkey_seed)
        if seed is None:
            raise ConfigError("network.key", "the seed of an NKey is malformed")
        public = Ed25519PrivateKey.from_private_bytes(seed).public_key().public_bytes_raw()
        return Peer(_encode(bytes([USER]) + public), self.opener.public_key)


def slug(federation: str) -> str:
    """A federation's name as one token of a subject: readable, and distinct for distinct names."""
    plain = re.sub(r"[^a-z0-9-]", "-", federation.lower())
    return f"{plain}-{hashlib.sha256(federation.encode()).hexdigest()[:8]}"


def sign_peer(signer: Signer, federation: str, name: PartyName, peer: Peer) -> bytes:
    """The signature of a member's identity over its connection keys."""
    return signer.sign(_statement(federation, name, peer))


def verify_peer(roster: Roster, name: PartyName, peer: Peer, signature: bytes) -> None:
    """Checks that a member's identity signed for these connection keys.

    Raises:
        ConfigError: The roster has no such member.
        SignatureError: It did not.
    """
    try:
        verify(roster.member(name).key, signature, _statement(roster.federation, name, peer))
    except SignatureError as error:
        raise SignatureError(
            "network.signature",
            f"{name} did not sign for the connection keys that are listed for it",
            remedy=f"ask {name} for its request again, and write {NETWORK_FILE} anew",
        ) from error


def write_network(path: Path, network: Network, signatures: Mapping[PartyName, bytes]) -> None:
    """Writes ``network.toml``; an existing file is replaced.

    Raises:
        TransportError: The disk refuses the write.
    """
    lines = [
        f"version = {VERSION}",
        f"federation = {json.dumps(network.federation)}",
        f"servers = [{', '.join(json.dumps(server) for server in network.servers)}]",
        *([f'ca = """\n{network.ca.strip()}\n"""'] if network.ca else []),
    ]
    for name, peer in sorted(network.peers.items()):
        lines += [
            "",
            "[[member]]",
            f"name = {json.dumps(name)}",
            f"nkey = {json.dumps(peer.nkey)}",
            f"sealing = {json.dumps(peer.sealing.hex())}",
            f"signature = {json.dumps(signatures[name].hex())}",
        ]
    write_atomic(path, ("\n".join(lines) + "\n").encode())


def check_servers(servers: tuple[str, ...], ca: str, file: str) -> None:
    """Checks addresses and authority: TLS with the federation's own, or plaintext on this machine.

    Raises:
        ConfigError: Anything else.
    """
    for server in servers:
        if SERVER.fullmatch(server) is None or _parts(server) is None:
            raise _refuse(file, "servers", f"'{server}' is not an address")
        scheme, host = _parts(server) or ("", "")
        if scheme == "nats" and not is_loopback(host):
            raise ConfigError(
                "network.plaintext",
                f"{file}: key 'servers': {server} would be reached without TLS",
                remedy="use tls:// and the federation's certificate authority; plaintext is for one "
                "machine only",
                file=file,
                key="servers",
            )
        if scheme == "tls" and not ca:
            raise _refuse(file, "ca", "servers with TLS need the federation's authority")
    if ca:
        try:
            x509.load_pem_x509_certificate(ca.encode())
        except ValueError as error:
            raise _refuse(file, "ca", "it is not a certificate in PEM") from error


def is_loopback(host: str) -> bool:
    """Whether an address never leaves this machine."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _parts(server: str) -> tuple[str, str] | None:
    try:
        url = urlsplit(server)
        return (url.scheme, url.hostname) if url.hostname and url.port else None
    except ValueError:
        return None


def _statement(federation: str, name: PartyName, peer: Peer) -> bytes:
    """What a member's identity signs: its connection keys in this federation."""
    content = {
        "federation": federation,
        "name": name,
        "nkey": peer.nkey,
        "sealing": peer.sealing.hex(),
    }
    return DOMAIN + rfc8785.dumps(content)


def _peer(entry: PeerTable, path: Path) -> Peer:
    if not is_user_nkey(entry.nkey):
        raise _refuse(path, "nkey", f"'{entry.name}' has none that is well-formed")
    return Peer(entry.nkey, _unhex(entry.sealing, SEALING_KEY_BYTES, entry.name, path))


def is_user_nkey(text: str) -> bool:
    """Whether ``text`` is the public NKey of a user."""
    data = _decode(text.encode())
    return data is not None and len(data) == 33 and data[0] == USER


def _seed_bytes(seed: bytes) -> bytes | None:
    """The 32 bytes in the seed of a user's NKey; nothing if it is none."""
    data = _decode(seed)
    head = bytes([SEED | USER >> 5, (USER & 31) << 3])
    return data[2:] if data is not None and len(data) == 34 and data[:2] == head else None


def _encode(data: bytes) -> str:
    checked = data + binascii.crc_hqx(data, 0).to_bytes(2, "little")
    return base64.b32encode(checked).decode().rstrip("=")


def _decode(text: bytes) -> bytes | None:
    try:
        data = base64.b32decode(text + b"=" * (-len(text) % 8))
    except binascii.Error:
        return None
    content, check = data[:-2], data[-2:]
    fits = binascii.crc_hqx(content, 0).to_bytes(2, "little") == check
    return content if fits and _encode(content).encode() == text else None


def _unhex(text: str, size: int, name: str, path: Path) -> bytes:
    if re.fullmatch(rf"[0-9a-f]{{{2 * size}}}", text) is None:
        raise _refuse(path, "member", f"a value of '{name}' is not {2 * size} hexadecimal digits")
    return bytes.fromhex(text)


def _refuse(path: Path | str, key: str, message: str) -> ConfigError:
    return ConfigError(
        "network.file",
        f"{path}: key '{key}': {message}",
        remedy="get the file again from the coordinator's operator, or write it anew there with "
        "'tacit federation roster finish'",
        file=str(path),
        key=key,
    )
