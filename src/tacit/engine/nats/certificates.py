"""The certificate authority of a federation's servers: TLS proves to members which server they reach.

It is the federation's own, so that no authority of the public web can stand in for its server. Members
are known by NKeys and identities, never by certificates.

Reference: RFC 5280 sections 4.2.1.6 and 4.2.1.9; ECDSA over P-256 (FIPS 186-5).
"""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from tacit.errors import ConfigError
from tacit.files import read_limited, write_atomic
from tacit.trust.identity import read_private
from tacit.types import Milliseconds

__all__ = ["Authority", "server_names"]

CA_FILE, CA_KEY = "ca.pem", "ca.key"
SERVER_FILE, SERVER_KEY = "server.pem", "server.key"
CA_DAYS, SERVER_DAYS = 3652, 730
EARLY = timedelta(hours=1)
"""Certificates count from this long ago: clocks differ."""
FILE_LIMIT = 64 * 1024
MAX_COMMON_NAME = 64


@dataclass(frozen=True, slots=True)
class Authority:
    """The authority in a folder: ``ca.pem``, ``ca.key``, and the server's ``server.pem``, ``server.key``."""

    folder: Path

    @property
    def certificate(self) -> str:
        """Its certificate in PEM.

        Raises:
            ConfigError: The file is missing or no certificate.
        """
        text = read_limited(self.folder / CA_FILE, FILE_LIMIT)
        try:
            x509.load_pem_x509_certificate(text)
            return text.decode("ascii")
        except ValueError as error:
            raise _damaged(self.folder / CA_FILE) from error

    @property
    def server(self) -> tuple[Path, Path]:
        """Files of the server's certificate and key."""
        return self.folder / SERVER_FILE, self.folder / SERVER_KEY

    @property
    def file(self) -> Path:
        """The file of its certificate."""
        return self.folder / CA_FILE

    @classmethod
    def create(cls, folder: Path, federation: str, now: Milliseconds) -> Authority:
        """A new authority for ten years.

        Raises:
            ConfigError: There is one in the folder.
            TransportError: The disk refuses the write.
        """
        key = ec.generate_private_key(ec.SECP256R1())
        name = _name(f"{federation} servers"[:MAX_COMMON_NAME])
        start = _time(now)
        made = (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(start - EARLY)
            .not_valid_after(start + timedelta(days=CA_DAYS))
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(_usage(authority=True), critical=True)
            .add_extension(
                x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False
            )
            .sign(key, hashes.SHA256())
        )
        write_atomic(folder / CA_KEY, _private(key), private=True, replace=False)
        write_atomic(folder / CA_FILE, made.public_bytes(Encoding.PEM), replace=False)
        return cls(folder)

    def issue(self, hosts: Sequence[str], now: Milliseconds) -> datetime:
        """Gives the server a new key and certificate for two years, and returns when it ends.

        Args:
            hosts: Names and IP addresses that members reach the server by.
            now: The time.

        Raises:
            ConfigError: The authority's files are missing, damaged or readable by others, or ``hosts``
                holds something else.
            TransportError: The disk refuses the write.
        """
        names = server_names(hosts)
        authority = x509.load_pem_x509_certificate(self.certificate.encode())
        signer = self._key()
        key = ec.generate_private_key(ec.SECP256R1())
        start = _time(now)
        end = min(start + timedelta(days=SERVER_DAYS), authority.not_valid_after_utc)
        made = (
            x509.CertificateBuilder()
            .subject_name(_name(hosts[0][:MAX_COMMON_NAME]))
            .issuer_name(authority.subject)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(start - EARLY)
            .not_valid_after(end)
            .add_extension(x509.SubjectAlternativeName(names), critical=False)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_usage(authority=False), critical=True)
            .add_extension(
                # Servers of a cluster are clients of each other.
                x509.ExtendedKeyUsage(
                    [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
                ),
                critical=False,
            )
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key()),
                critical=False,
            )
            .sign(signer, hashes.SHA256())
        )
        certificate, private = self.server
        write_atomic(private, _private(key), private=True)
        write_atomic(certificate, made.public_bytes(Encoding.PEM))
        return end

    def _key(self) -> ec.EllipticCurvePrivateKey:
        try:
            key = load_pem_private_key(read_private(self.folder / CA_KEY), password=None)
        except (ValueError, TypeError) as error:
            raise _damaged(self.folder / CA_KEY) from error
        if not isinstance(key, ec.EllipticCurvePrivateKey):
            raise _damaged(self.folder / CA_KEY)
        return key


def server_names(hosts: Sequence[str]) -> list[x509.GeneralName]:
    """Host names and addresses as a certificate lists them.

    Raises:
        ConfigError: There is none, or one is neither.
    """
    names: list[x509.GeneralName] = []
    for host in hosts:
        try:
            names.append(x509.IPAddress(ipaddress.ip_address(host)))
        except ValueError:
            label = host.replace(".", "").replace("-", "")
            if not (label.isascii() and label.isalnum()) or len(host) > 253:
                raise _no_host(host) from None
            names.append(x509.DNSName(host.lower()))
    if not names:
        raise _no_host("")
    return names


def _no_host(host: str) -> ConfigError:
    return ConfigError(
        "network.host",
        f"'{host}' is neither a host name nor an IP address",
        remedy="name the host as members reach it, without scheme and port",
        key="host",
    )


def _damaged(path: Path) -> ConfigError:
    return ConfigError(
        "network.authority",
        f"{path} is damaged",
        remedy="restore it from your backup; a new authority needs a new network.toml at every member",
        file=str(path),
    )


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def _time(now: Milliseconds) -> datetime:
    return datetime.fromtimestamp(now // 1000, UTC)


def _private(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def _usage(*, authority: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not authority,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=authority,
        crl_sign=authority,
        encipher_only=False,
        decipher_only=False,
    )
