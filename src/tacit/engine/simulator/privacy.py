"""Two checkers of what an adversary knows: by linear algebra, and from a stolen machine."""

from __future__ import annotations

import gc
from collections.abc import Hashable, Iterator, Mapping
from types import BuiltinFunctionType, FrameType, FunctionType, MethodType, ModuleType
from typing import Any

from tacit.engine.simulator.algebra import isolated
from tacit.engine.simulator.checkers import Rule
from tacit.engine.simulator.core import Simulation
from tacit.engine.simulator.history import Mask, UploadSeen
from tacit.engine.simulator.vault import Vault
from tacit.errors import TacitError
from tacit.trust.roster import Roster
from tacit.types import PartyName
from tacit.wire.envelope import Received
from tacit.wire.messages import MaskSum

__all__ = ["ForwardSecrecy", "NoIsolation"]

Equation = Mapping[Hashable, int]


class NoIsolation(Rule):
    """No input, nor a difference of sums that mixes too few operators, follows from what is known.

    Known are all uploads, every answer of an honest helper with its noise taken off, the masks whose
    seeds were sealed to a key of a corrupt party or of nobody, and all that corrupt clients did. The
    unknowns are the honest clients' inputs and the remaining keystreams, which are uniform. Under a plan
    without noise a client's input counts as the same in every round: models change little.
    """

    name = "no-isolation"

    def ended(self, simulation: Simulation) -> None:
        """Eliminates the keystreams and looks for a combination of too few operators' inputs."""
        roster, manifest = simulation.cluster.roster, simulation.cluster.terms.manifest
        noisy = simulation.cluster.terms.plan.unit != "none"
        fresh = noisy or bool(simulation.rolled_back)
        clients = set(simulation.cluster.terms.clients)
        corrupt = roster.operators(simulation.corrupt & clients)
        threshold = manifest.min_cohort - len(corrupt)
        for equations, owners in self._systems(simulation, by_round=fresh):
            found = isolated(equations, owners, threshold)
            self.require(
                found is None,
                f"{sorted(found or ())} can be told from all others; honest sums mix {threshold}",
            )

    def _systems(
        self, simulation: Simulation, *, by_round: bool
    ) -> Iterator[tuple[list[Equation], dict[Hashable, str]]]:
        """The equations of each round apart, or of all rounds together."""
        uploads = simulation.history.uploads.values()
        rounds = {upload.round for upload in uploads}
        for group in [{number} for number in sorted(rounds)] if by_round else [rounds]:
            equations: list[Equation] = []
            owners: dict[Hashable, str] = {}
            for upload in uploads:
                if upload.round in group and upload.genuine:
                    unknown = ("x", upload.client)
                    equations.append({unknown: 1, **self._secret(simulation, upload)})
                    owners[unknown] = simulation.cluster.roster.member(upload.client).operator
            equations += self._answers(simulation, group)
            yield equations, owners

    def _answers(self, simulation: Simulation, group: set[int]) -> Iterator[Equation]:
        uploads = simulation.history.uploads
        for answer in simulation.history.answers.values():
            equation: dict[Hashable, int] = {}
            for digest in answer.cohort:
                upload = uploads[digest]
                if not upload.genuine:
                    continue
                for unknown in self._secret(simulation, upload, answer.helper):
                    equation[unknown] = equation.get(unknown, 0) + 1
            if equation and answer.round in group:
                yield equation

    def _secret(
        self, simulation: Simulation, upload: UploadSeen, helper: PartyName | None = None
    ) -> dict[Hashable, int]:
        """The keystreams of an upload that the adversary cannot compute, or those of one helper."""
        return {
            ("k", mask.stream): 1
            for mask in upload.masks
            if not self._known(simulation, mask) and helper in (None, mask.helper)
        }

    def _known(self, simulation: Simulation, mask: Mask) -> bool:
        owner = simulation.vault.owners.get(mask.public_key)
        return owner is None or owner in simulation.corrupt


class ForwardSecrecy(Rule):
    """Whoever steals a machine after a round opens nothing of that round or an earlier one.

    Everything in the store and everything that is reachable in memory is searched: for live keys that
    open a recorded seed, for the bytes of private keys, for the seeds themselves, and for inputs.
    """

    name = "forward-secrecy"

    def sent(self, simulation: Simulation, message: Received) -> None:
        """A helper is looked into right after some of its answers."""
        if isinstance(message.body, MaskSum) and simulation.random.random() < 0.1:
            self._search(simulation, message.sender.party, message.round)

    def ended(self, simulation: Simulation) -> None:
        """Some honest site is stolen in the end."""
        for name in simulation.random.sample(simulation.honest_sites, 1):
            rounds = [a.round for a in simulation.history.answers.values() if a.helper == name]
            closed = simulation.cluster.helpers[name].state(simulation.cluster.terms.run_id)
            last = 2**32 if closed.number("closed") else max(rounds, default=0)
            self._search(simulation, name, last)

    def _search(self, simulation: Simulation, name: PartyName, last: int) -> None:
        vault, history = simulation.vault, simulation.history
        loot = _Loot(simulation.cluster.helpers[name], simulation.cluster.sites[name])
        loot.bytes += simulation.cluster.stores[name].dump()
        everything = b"\x00".join(loot.bytes)
        past = [u for u in history.uploads.values() if u.round <= last]
        keys = {
            m.public_key for u in past for m in u.masks if vault.owners.get(m.public_key) == name
        }
        for key in keys:
            self.require(
                vault.secrets[key] not in everything, f"{name} still holds a private key in bytes"
            )
        for upload in past:
            for mask in upload.masks:
                mine = mask.helper == name and mask.seed
                self.require(
                    not mine or mask.seed not in everything,
                    f"{name} kept a seed of {upload.client}, round {upload.round}",
                )
            for seed in upload.body.seeds:
                inside = vault.sealed.get(seed.sealed)
                if inside is None or vault.owners.get(inside.public_key) != name:
                    continue
                self.require(
                    not loot.opens(seed.sealed, inside.public_key, inside.info),
                    f"{name} can still open a seed of {upload.client}, round {upload.round}",
                )
        for upload in history.uploads.values():
            if upload.client == name:
                self.require(
                    not any(mask.seed and mask.seed in everything for mask in upload.masks),
                    f"{name} kept a seed of its own upload of round {upload.round}",
                )
        self._search_inputs(simulation, name, everything)

    def _search_inputs(self, simulation: Simulation, name: PartyName, everything: bytes) -> None:
        fields = simulation.history.fields
        kind = {16: "<u2", 24: "<u4", 32: "<u4"}[fields.bits]
        for party, vector in simulation.vault.contributions:
            if party == name and vector.any():
                reduced = (vector % fields.modulus).astype(kind).tobytes()
                self.require(
                    reduced not in everything and vector.tobytes() not in everything,
                    f"{name} kept an input",
                )


class _Loot:
    """What a thief finds in the memory of a machine."""

    def __init__(self, *roots: object) -> None:
        self.bytes: list[bytes] = []
        self.openers: list[Any] = []
        for found in _reachable(roots):
            if isinstance(found, bytes):
                self.bytes.append(found)
            elif hasattr(found, "open") and hasattr(found, "erase"):
                self.openers.append(found)

    def opens(self, sealed: bytes, public_key: bytes, info: bytes) -> bool:
        """Whether a live key opens a sealing."""
        for opener in self.openers:
            if opener.public_key == public_key:
                try:
                    opener.open(sealed, info)
                except TacitError:
                    continue
                return True
        return False


SHARED = (type, ModuleType, FunctionType, BuiltinFunctionType, MethodType, Roster, Vault)
"""Code, public things, and the observer's own memory: they lead everywhere."""


def _reachable(roots: tuple[object, ...]) -> Iterator[object]:
    seen: set[int] = set()
    stack = list(roots)
    while stack:
        found = stack.pop()
        if id(found) in seen or isinstance(found, SHARED):
            continue
        seen.add(id(found))
        yield found
        stack.extend(_frame(found) if isinstance(found, FrameType) else gc.get_referents(found))


def _frame(frame: FrameType) -> list[object]:
    """What a frame that an exception kept alive holds, its caller and its globals left out."""
    others = (frame.f_back, frame.f_globals, frame.f_builtins, frame.f_code)
    return [one for one in gc.get_referents(frame) if not any(one is other for other in others)]
