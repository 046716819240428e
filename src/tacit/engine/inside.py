"""A site's own data, read for attacks that run inside the site and whose results stay there."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from tacit.connect import SanitisedBatch
from tacit.engine.folder import SiteFolder
from tacit.engine.local import wall_clock
from tacit.engine.operators import open_party
from tacit.errors import ConfigError
from tacit.learn.code import LoadedModel
from tacit.party.job import JobSpec
from tacit.policy.contract import Contract
from tacit.policy.request import ATTACK_PURPOSE, UNBOUNDED_EPSILON, Request
from tacit.policy.schema import Schema

__all__ = ["read_for_attack"]


def read_for_attack(
    site: Path, job: JobSpec, load_model: Callable[[Schema], LoadedModel]
) -> tuple[Contract, SanitisedBatch]:
    """The records of a data set, if the site's approved policy permits to attack them.

    The site asks itself: it is leader and helper of every scratch federation. No budget is charged, for
    nothing leaves; what the attacks find is as secret as the records.

    Args:
        site: The site's folder.
        job: Names the data set, and is what is attacked.
        load_model: Loads the job's model, once the policy has said yes: its code will see the records, and the
            log says which code that is.

    Raises:
        PolicyDenied: No permit that names ``Action::"attack"`` matches, or a forbid does.
        ConfigError: There is no such contract, or the policy is not approved as it is.
        LedgerError: The site's log was tampered with.

    Guarantee:
        Nothing is read before the policy said yes and the site's log says so. Checked by
        ``tests/attack/test_inside.py::test_nothing_is_read_without_a_permit_that_names_the_action``.
    """
    now, folder = wall_clock(), SiteFolder.load(site)
    dataset = job.data.contract
    source = folder.sources.get(dataset)
    if source is None:
        raise ConfigError(
            "site.contract",
            f"site {folder.name} has no contract named '{dataset}' "
            f"(it has: {', '.join(sorted(folder.sources)) or 'none'})",
            remedy="correct data.contract in the job",
            key="data.contract",
        )
    contract, lock = source.contract, folder.lock(now)
    request = _request(folder, contract)
    permission = folder.policy.permit(request, contract, lock)
    model = load_model(contract.schema())
    party = open_party(site)
    with party.ports.store.transaction():
        party.act(
            now,
            "operator.attack-begun",
            contract=contract.digest.hex(),
            policy=lock.hex(),
            job=job.digest.hex(),
            code=model.code.hex(),
        )
    return contract, source.read(permission, now)


def _request(folder: SiteFolder, contract: Contract) -> Request:
    """The hardest question of its kind: every record, without privacy, seen by the site alone."""
    region = folder.config.region
    return Request(
        principal=folder.name,
        dataset=contract.name,
        purpose=ATTACK_PURPOSE,
        region=region,
        leader_region=region,
        helper_regions=frozenset({region}),
        data_region=contract.region or region,
        allowed_regions=frozenset(contract.allowed_regions or ()),
        lawful_basis=contract.lawful_basis or "",
        public=contract.public,
        retention=contract.retention,
        now=wall_clock(),
        aggregation="masked",
        epsilon_milli=UNBOUNDED_EPSILON,
        unit="none",
        helpers=1,
        max_colluding=0,
        min_cohort=1,
        own_helper=True,
        own_noise=False,
        code="pinned",
        action="attack",
    )
