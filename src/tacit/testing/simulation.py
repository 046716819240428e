"""Federations for the simulator: real parties whose every secret is remembered, and cheap to make.

Everything immutable is read once per process; pure functions of public bytes, which all parties of a
simulated federation call with the same arguments, run once. Signatures, sealings and keystreams are
those of production, but for the sealing's entropy.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
from numpy.typing import NDArray

from tacit.connect import SanitisedBatch
from tacit.engine.simulator.vault import Sealed, Vault
from tacit.learn.code import LoadedModel
from tacit.party import helper as helper_module
from tacit.party.admission import DataSource
from tacit.party.job import JobSpec
from tacit.party.terms import Terms
from tacit.party.workload import Contributed, Workload
from tacit.policy.cedar import Policy
from tacit.policy.contract import Contract
from tacit.policy.permission import Permission
from tacit.policy.schema import Schema
from tacit.testing.entropy import SeededEntropy
from tacit.testing.federation import SmallFederation
from tacit.testing.files import Files
from tacit.testing.permissions import NOON, permission
from tacit.testing.sealing import KEY_BYTES, SeededOpener, SeededSealing
from tacit.testing.store import MemoryStore
from tacit.trust.roster import Roster
from tacit.types import Digest, Entropy, Milliseconds, PartyName, Sealing
from tacit.wire import envelope as envelope_module
from tacit.wire.codec import decode
from tacit.wire.envelope import Address

__all__ = ["NOISE_SHARE", "SimulatedFederation", "remembering", "watched"]

NOISE_SHARE = 3
"""Every coordinate of a noise share, where the plan asks for noise: a missing share shows."""


class RecordingSealing(SeededSealing):
    """Seals as ``SeededSealing`` does, and tells a vault."""

    def __init__(self, entropy: Entropy, vault: Vault) -> None:
        super().__init__(entropy)
        self._vault = vault

    def generate(self) -> SeededOpener:
        """The next key pair."""
        secret = self._entropy.draw(KEY_BYTES)
        opener = SeededOpener(secret)
        self._vault.owners[opener.public_key] = self._vault.current
        self._vault.secrets[opener.public_key] = secret
        return opener

    def seal(self, plaintext: bytes, public_key: bytes, info: bytes) -> bytes:
        """Encrypts to ``public_key``, bound to ``info``."""
        sealed = super().seal(plaintext, public_key, info)
        self._vault.sealed[sealed] = Sealed(public_key, info, plaintext, self._vault.current)
        return sealed


@dataclass(frozen=True, slots=True)
class BatchSource:
    """A data set in memory: a contract, and the batch that was read under it."""

    contract: Contract
    batch: SanitisedBatch

    def read(self, permission: Permission, at: Milliseconds) -> SanitisedBatch:
        """The batch, whatever is permitted."""
        return self.batch


class SimulatedFederation(SmallFederation):
    """A federation that tells ``vault`` what its sealing does.

    Args:
        folder: Where ``write_small_federation`` wrote.
        files: What is in it.
        seed: What all entropy follows from.
        stores: The durable state that parties begin with, by name; by default none.
    """

    def __init__(
        self,
        folder: Path,
        files: Files,
        seed: int | str,
        stores: Mapping[PartyName, MemoryStore] | None = None,
    ) -> None:
        self.vault = Vault()
        self.restored: frozenset[PartyName] = frozenset()
        super().__init__(folder, seed=seed, files=files, stores=stores)
        self.vault.share = NOISE_SHARE if self.terms.plan.unit != "none" else 0

    def sealing(self, source: SeededEntropy) -> Sealing:
        """Sealing that the vault sees."""
        return RecordingSealing(source.fork("sealing"), self.vault)

    def sources(self, name: PartyName) -> Mapping[str, DataSource]:
        """The site's data sets, in memory."""
        return _batches(self.files)[name]

    def required(self, name: PartyName) -> frozenset[PartyName]:
        """The helpers without which a site takes part in no round."""
        limits = self.folders[name].config.limits
        own = {name} if limits.require_own_helper else set()
        return frozenset(own | {PartyName(helper) for helper in limits.required_helpers})

    def load_model(self, job: JobSpec, schema: Schema, code: Digest | None = None) -> LoadedModel:
        """The job's model for the schema, built once."""
        return _model(super().load_model, job, schema, code)


_MODELS: dict[tuple[bytes, bytes, Digest | None], LoadedModel] = {}
_BATCHES: dict[int, tuple[Files, dict[PartyName, dict[str, BatchSource]]]] = {}


def _model(
    load: Callable[..., LoadedModel], job: JobSpec, schema: Schema, code: Digest | None
) -> LoadedModel:
    key = (job.digest, schema.digest, code)
    if key not in _MODELS:
        _MODELS[key] = load(job, schema, code)
    return _MODELS[key]


def _batches(files: Files) -> dict[PartyName, dict[str, BatchSource]]:
    if id(files) not in _BATCHES:
        read = {
            name: {
                key: BatchSource(source.contract, source.read(permission(source.contract), NOON))
                for key, source in folder.sources.items()
            }
            for name, folder in files.folders.items()
        }
        _BATCHES[id(files)] = (files, read)
    return _BATCHES[id(files)][1]


# --- what the parties compute, seen or remembered ------------------------------------------------


@contextlib.contextmanager
def watched() -> Iterator[Callable[[Vault], None]]:
    """Contributions are noted in a vault, and a noise share is ``NOISE_SHARE`` in every coordinate.

    Yields:
        Call it with the vault of the next simulation.
    """
    vaults: list[Vault] = []
    contribution = Workload.contribution

    def noted(self: Workload, *arguments: Any) -> Contributed:
        made = contribution(self, *arguments)
        if vaults:  # A copy: masks are added in place.
            vaults[-1].contributions.append((vaults[-1].current, made.vector.astype(np.int64)))
        return made

    def share(_variance: int, size: int, _entropy: Entropy) -> Iterator[NDArray[np.int64]]:
        yield np.full(size, NOISE_SHARE, dtype=np.int64)

    with (
        mock.patch.object(Workload, "contribution", noted),
        mock.patch.object(helper_module, "noise_blocks", share),
    ):
        yield vaults.append


REMEMBERED = 4096
LIMIT = 2**30


@contextlib.contextmanager
def remembering() -> Iterator[None]:
    """Pure functions remember their results while the block lasts; what they compute is the same.

    Decoding, the check of a signature, terms of an offer and digests of policies and jobs: in one
    process all parties would compute each of them again. Failures are never remembered.
    """
    decode_once = lru_cache(REMEMBERED)(decode)
    authenticate, of = Roster.authenticate, Terms.of
    checked: dict[tuple[int, Address, bytes, bytes], None] = {}
    rosters: list[Roster] = []

    def authenticate_once(self: Roster, sender: Address, data: bytes, signature: bytes) -> None:
        if not any(one is self for one in rosters):
            rosters.append(self)
        key = (id(self), sender, data, signature)
        if key not in checked:
            authenticate(self, sender, data, signature)
            if len(checked) > REMEMBERED:
                checked.clear()
            checked[key] = None

    def decode_within(kind: Any, data: bytes, limit: int) -> Any:
        # One result for all limits: what is longer than this one fails as it would.
        return decode_once(kind, data, LIMIT) if len(data) <= limit else decode(kind, data, limit)

    @lru_cache(REMEMBERED)
    def terms_once(offer: Any, known: _Known) -> Terms:
        return of(offer, known.value)

    with contextlib.ExitStack() as stack:
        patch = stack.enter_context
        patch(mock.patch.object(envelope_module, "decode", decode_within))
        patch(mock.patch.object(Roster, "authenticate", authenticate_once))
        patch(
            mock.patch.object(Terms, "of", lambda offer, roster: terms_once(offer, _Known(roster)))
        )
        for owner, name in ((Policy, "digest"), (JobSpec, "digest")):
            patch(mock.patch.object(owner, name, property(_once(vars(owner)[name].fget))))
        for owner, name in ((Policy, "decide"), (JobSpec, "canonical")):
            patch(mock.patch.object(owner, name, _once(vars(owner)[name])))
        yield


class _Known:
    """An object that is itself whatever it holds; keeps it alive while it is a key."""

    __slots__ = ("value",)

    def __init__(self, value: Any) -> None:
        self.value = value

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Known) and other.value is self.value

    def __hash__(self) -> int:
        return id(self.value)


def _once(method: Callable[..., Any]) -> Callable[..., Any]:
    """A method that remembers its results, by object and arguments."""
    known = lru_cache(REMEMBERED)(lambda owner, *arguments: method(owner.value, *arguments))
    return lambda self, *arguments: known(_Known(self), *arguments)
