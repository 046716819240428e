"""``policy.lock``: what a site's policy is, signed by the people who answer for it.

The digest is that of the validated content of rules, contracts and policy tests, never of their bytes:
comments and layout can change, what a rule says cannot.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import rfc8785
from pydantic import AwareDatetime, Field, model_validator

from tacit.config import Table, load_toml
from tacit.errors import ConfigError, SignatureError
from tacit.files import write_atomic
from tacit.policy.cases import CaseFile
from tacit.policy.cedar import Policy
from tacit.policy.contract import Contract
from tacit.policy.request import EPOCH, integers_as_text
from tacit.trust.identity import verify as verify_signature
from tacit.types import Digest, Milliseconds, Signer

__all__ = [
    "APPROVER_NAME",
    "LOCK_FILE",
    "Approval",
    "Approvers",
    "Parts",
    "PolicyLock",
    "approved_by",
    "verify_lock",
]

LOCK_FILE = "policy.lock"
VERSION = 1
DOMAIN = b"tacit policy lock v1\x00"
TOLERANCE = timedelta(minutes=5)
"""By how much the clocks of approvers and sites may differ."""

APPROVER_NAME = r"^[a-z0-9][a-z0-9-]{0,63}$"
ApproverName = Annotated[str, Field(pattern=APPROVER_NAME)]
PublicKey = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
HexDigest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
HEADER = """\
# Written by 'tacit policy lock'. It says which rules, contracts and policy tests are approved, and by
# whom; a site takes part in no run with others.
"""


class Approvers(Table):
    """``[policy]``: who must approve rules, contracts and policy tests before a run may use them."""

    approvals: int = Field(ge=1, le=100, description="How many approvers must sign `policy.lock`.")
    approvers: Annotated[dict[ApproverName, PublicKey], Field(min_length=1, max_length=100)] = (
        Field(
            description='`NAME = "key"`: Ed25519 public key of each, 64 hexadecimal digits, as '
            "`tacit policy key NAME` prints it."
        )
    )

    @model_validator(mode="after")
    def _enough_of_them(self) -> Self:
        if self.approvals > len(self.approvers):
            raise ValueError(
                f"{self.approvals} approvals are needed, but there are {len(self.approvers)} approvers"
            )
        if len(set(self.approvers.values())) != len(self.approvers):
            raise ValueError("two approvers have the same key")
        return self


@dataclass(frozen=True, slots=True)
class Parts:
    """Digests of everything that is approved.

    Args:
        policy: Of all rules, the built-in ones too, and the schema.
        policies: Of the rules of each ``*.cedar`` file, by its name.
        contracts: Of each contract, by the contract's name.
        tests: Of each file of policy tests, by its name.
    """

    policy: str
    policies: Mapping[str, str]
    contracts: Mapping[str, str]
    tests: Mapping[str, str]

    @classmethod
    def of(
        cls, policy: Policy, contracts: Iterable[Contract], tests: Mapping[str, CaseFile]
    ) -> Self:
        """The parts as they are now."""
        rules: dict[str, list[Any]] = {}
        for rule in policy.rules:
            if not rule.built_in:
                rules.setdefault(rule.file, []).append(integers_as_text(rule.content))
        return cls(
            policy=policy.digest.hex(),
            policies={file: _digest(sorted(map(rfc8785.dumps, rules[file]))) for file in rules},
            contracts={contract.name: contract.digest.hex() for contract in contracts},
            tests={name: file.digest.hex() for name, file in tests.items()},
        )

    def digest(self, site: str) -> Digest:
        """What approvers sign for, of one site."""
        return Digest(hashlib.sha256(rfc8785.dumps({"site": site, **self.record()})).digest())

    def record(self) -> dict[str, Any]:
        """For canonical JSON and for scripts."""
        return {
            "version": VERSION,
            "policy": self.policy,
            "policies": dict(sorted(self.policies.items())),
            "contracts": dict(sorted(self.contracts.items())),
            "tests": dict(sorted(self.tests.items())),
        }

    def changes(self, now: Parts) -> list[str]:
        """What differs from these parts now, a line each, files by the names that people know."""
        found = []
        for kind in ("policies", "contracts", "tests"):
            before, after = getattr(self, kind), getattr(now, kind)
            for name in sorted({*before, *after}):
                if before.get(name) != after.get(name):
                    word = "changed" if name in before and name in after else "added"
                    what = f"contract '{name}'" if kind == "contracts" else f"{kind}/{name}"
                    found.append(f"{what} was {word if name in after else 'removed'}")
        if not found and self.policy != now.policy:
            found.append("the built-in rules or the schema are those of another version of Tacit")
        return found


@dataclass(frozen=True, slots=True)
class Approval:
    """One approver's signature, 64 bytes."""

    approver: str
    signature: bytes


@dataclass(frozen=True, slots=True)
class PolicyLock:
    """The content of a ``policy.lock``.

    Args:
        site: The site that it is for.
        parts: What is approved.
        locked_at: When the first approver signed; UTC, whole seconds.
        approvals: The signatures.
    """

    site: str
    parts: Parts
    locked_at: datetime
    approvals: tuple[Approval, ...] = ()

    @classmethod
    def new(cls, site: str, parts: Parts, now: Milliseconds) -> Self:
        """A lock that nobody has approved yet."""
        return cls(site, parts, EPOCH + timedelta(seconds=now // 1000))

    @classmethod
    def load(cls, path: Path) -> Self:
        """Reads what ``write`` wrote; signatures are checked by ``verify_lock``.

        Raises:
            ConfigError: Missing or malformed file, or its digest is not that of its parts.
        """
        file = load_toml(path, _LockFile)
        parts = Parts(
            file.parts.policy, file.parts.policies, file.parts.contracts, file.parts.tests
        )
        approvals = tuple(
            Approval(entry.approver, bytes.fromhex(entry.signature)) for entry in file.approvals
        )
        lock = cls(file.site, parts, file.locked_at.astimezone(UTC), approvals)
        if lock.digest.hex() != file.digest:
            raise ConfigError(
                "policy.altered",
                f"{path}: the digest is not that of the parts: the file was altered",
                remedy="restore the file, or review the policy and run 'tacit policy lock'",
                file=str(path),
            )
        return lock

    @property
    def digest(self) -> Digest:
        """What permissions and logs know the policy by."""
        return self.parts.digest(self.site)

    @property
    def statement(self) -> bytes:
        """The bytes that approvers sign."""
        content: dict[str, Any] = {
            "version": VERSION,
            "site": self.site,
            "digest": self.digest.hex(),
            "locked_at": self.locked_at_text,
        }
        return DOMAIN + rfc8785.dumps(content)

    @property
    def locked_at_text(self) -> str:
        """``locked_at`` as approvers sign it."""
        return _time(self.locked_at)

    @property
    def time(self) -> Milliseconds:
        """``locked_at`` as parties tell time."""
        return Milliseconds((self.locked_at - EPOCH) // timedelta(milliseconds=1))

    def is_ahead_of(self, now: Milliseconds) -> bool:
        """Whether the clock of the first approver was ahead of a time, by more than clocks differ."""
        return EPOCH + timedelta(milliseconds=now) < self.locked_at - TOLERANCE

    def approved(self, approver: str, signer: Signer) -> PolicyLock:
        """The lock with the approval of one more; it replaces an earlier one of the same approver."""
        others = [entry for entry in self.approvals if entry.approver != approver]
        mine = Approval(approver, signer.sign(self.statement))
        ordered = sorted([*others, mine], key=lambda entry: entry.approver)
        return replace(self, approvals=tuple(ordered))

    def write(self, path: Path) -> None:
        """Writes the file, whole or not at all.

        Raises:
            TransportError: The disk refuses the write.
        """
        lines = [
            f"{HEADER}version = {VERSION}",
            f'site = "{self.site}"',
            f'digest = "{self.digest.hex()}"',
            f"locked_at = {_time(self.locked_at)}",
            "",
            "[parts]",
            f'policy = "{self.parts.policy}"',
        ]
        record = self.parts.record()
        for kind in ("policies", "contracts", "tests"):
            lines += ["", f"[parts.{kind}]"]
            lines += [f'{_key(name)} = "{digest}"' for name, digest in record[kind].items()]
        for entry in self.approvals:
            lines += [
                "",
                "[[approvals]]",
                f'approver = "{entry.approver}"',
                f'signature = "{entry.signature.hex()}"',
            ]
        write_atomic(path, ("\n".join(lines) + "\n").encode())


def verify_lock(
    path: Path,
    parts: Parts,
    approvers: Approvers,
    *,
    site: str,
    now: Milliseconds,
) -> Digest:
    """Checks that enough approvers signed for exactly these parts; returns the lock's digest.

    Args:
        path: The ``policy.lock`` of the site.
        parts: What the site would use.
        approvers: ``[policy]`` of its ``site.toml``.
        site: Its name.
        now: The time.

    Guarantee:
        Who holds fewer than ``approvals`` of the approvers' keys cannot make this return for rules,
        contracts or policy tests that differ in what they say from those that were approved.
        Checked by tests/unit/test_policy_lock.py::test_every_altered_part_is_refused,
        tests/unit/test_policy_lock.py::test_a_forged_approval_is_refused and
        tests/unit/test_policy_lock.py::test_too_few_approvals_are_refused.

    Raises:
        ConfigError: There is no lock, it is for something else, an approver is unknown, there are too
            few of them, or the clock is before the lock's time.
        SignatureError: An approval is forged or by another key.
    """
    if not path.is_file():
        raise ConfigError(
            "policy.unlocked",
            f"{path} is missing: nobody has approved the policy of site '{site}'",
            remedy="review it, then run 'tacit policy lock'",
            file=str(path),
        )
    lock = PolicyLock.load(path)
    if lock.site != site:
        raise ConfigError(
            "policy.lock-site",
            f"{path} is the lock of site '{lock.site}', not of '{site}'",
            remedy="restore the site's own lock, or run 'tacit policy lock'",
            file=str(path),
        )
    changes = lock.parts.changes(parts)
    if changes:
        raise ConfigError(
            "policy.altered",
            f"the policy of site '{site}' is not the one that was approved: {'; '.join(changes)}",
            remedy="undo the change, or review it and run 'tacit policy lock'",
            file=str(path),
            changes="; ".join(changes),
        )
    if lock.is_ahead_of(now):
        raise ConfigError(
            "policy.clock",
            f"{path} was locked at {_time(lock.locked_at)}, which is in the future of this machine",
            remedy="correct the clock of this machine, or of the approver's and lock again",
            file=str(path),
        )
    _check_approvals(path, lock, approvers)
    return lock.digest


def approved_by(lock: PolicyLock, approvers: Approvers) -> PolicyLock:
    """The lock with those of its approvals only that are by approvers and with their keys."""
    valid = []
    for entry in lock.approvals:
        key = approvers.approvers.get(entry.approver)
        with contextlib.suppress(SignatureError):
            if key is not None:
                verify_signature(bytes.fromhex(key), entry.signature, lock.statement)
                valid.append(entry)
    return replace(lock, approvals=tuple(valid))


def _check_approvals(path: Path, lock: PolicyLock, approvers: Approvers) -> None:
    signed: set[str] = set()
    for entry in lock.approvals:
        key = approvers.approvers.get(entry.approver)
        if key is None or entry.approver in signed:
            problem = "twice" if entry.approver in signed else "by somebody who is no approver"
            raise ConfigError(
                "policy.approver",
                f"{path} is approved {problem}: '{entry.approver}'",
                remedy=f"approvers in site.toml: {', '.join(sorted(approvers.approvers))}; "
                "lock again as one of them",
                file=str(path),
                approver=entry.approver,
            )
        try:
            verify_signature(bytes.fromhex(key), entry.signature, lock.statement)
        except SignatureError:
            raise SignatureError(
                "policy.signature",
                f"{path}: the approval of '{entry.approver}' is forged, or made with another key "
                "than site.toml has",
                remedy=f"have '{entry.approver}' review the policy and run 'tacit policy lock'",
                file=str(path),
                approver=entry.approver,
            ) from None
        signed.add(entry.approver)
    lacking = approvers.approvals - len(signed)
    if lacking > 0:
        others = sorted(set(approvers.approvers) - signed)
        raise ConfigError(
            "policy.approvals",
            f"{path} has {len(signed)} of {approvers.approvals} approvals; missing: "
            + (
                ", ".join(others) if len(others) == lacking else f"{lacking} of {', '.join(others)}"
            ),
            remedy="have them review the policy and run 'tacit policy lock --as NAME'",
            file=str(path),
            missing=", ".join(others),
        )


class _PartsTable(Table):
    policy: HexDigest
    policies: dict[str, HexDigest] = Field(default={})
    contracts: dict[str, HexDigest] = Field(default={})
    tests: dict[str, HexDigest] = Field(default={})


class _ApprovalTable(Table):
    approver: ApproverName
    signature: str = Field(pattern=r"^[0-9a-f]{128}$")


class _LockFile(Table):
    version: Literal[1]
    site: ApproverName
    digest: HexDigest
    locked_at: AwareDatetime
    parts: _PartsTable
    approvals: tuple[_ApprovalTable, ...] = ()


def _digest(contents: list[bytes]) -> str:
    return hashlib.sha256(rfc8785.dumps([content.decode() for content in contents])).hexdigest()


def _time(moment: datetime) -> str:
    return f"{moment:%Y-%m-%dT%H:%M:%S}Z"


def _key(name: str) -> str:
    """A quoted TOML key; JSON's escapes are TOML's."""
    return "".join(_quoted(name))


def _quoted(name: str) -> Iterator[str]:
    yield '"'
    for character in name:
        plain = character.isprintable() and character not in '"\\'
        yield character if plain else f"\\U{ord(character):08x}"
    yield '"'
