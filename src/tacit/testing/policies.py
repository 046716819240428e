"""A small contract, a request and a site folder for tests of policies."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tacit.config import parse_table
from tacit.policy.contract import Contract
from tacit.policy.request import Request
from tacit.testing.entropy import SeededEntropy
from tacit.trust.identity import Identity
from tacit.types import Milliseconds, PartyName

__all__ = [
    "NOW",
    "READ",
    "REQUEST",
    "TRAIN",
    "contract_text",
    "small_contract",
    "write_site_folder",
]

NOW = Milliseconds(1_795_687_200_000)
"""2026-11-26T10:00:00Z."""

REQUEST = Request(
    principal=PartyName("coordinator"),
    dataset="records",
    purpose="research",
    region="eu",
    leader_region="eu",
    helper_regions=frozenset({"eu"}),
    data_region="eu",
    now=NOW,
    aggregation="masked",
    epsilon_milli=900,
    unit="record",
    helpers=4,
    max_colluding=1,
    min_cohort=4,
    own_helper=True,
    own_noise=False,
    code="pinned",
)

TRAIN = """\
@id("research")
permit(principal == Party::"coordinator", action == Action::"train", resource)
when { context.purpose == "research" && context.epsilon_milli <= 2000 };
"""

READ = """\
@id("consented")
permit(principal, action == Action::"read", resource)
when { resource.consent };
"""

FEATURE = {
    "name": "size",
    "logicalType": "number",
    "classification": "feature",
    "transform": {"method": "keep"},
    "logicalTypeOptions": {"minimum": 0.0, "maximum": 1.0},
    "bounds_source": "made up for tests",
}
LABEL = {
    "name": "answer",
    "logicalType": "string",
    "classification": "label",
    "transform": {"method": "keep"},
    "values": ["no", "yes"],
}


def small_contract(filters: Mapping[str, str] | None = None, **keys: Any) -> Contract:
    """A contract named ``records``.

    Args:
        filters: Logical type by name, of the columns that rules may speak of; ``consent`` is a consent
            column, every other one sensitive.
        keys: Further keys of the contract.
    """
    content = {
        "apiVersion": "v3.1.0",
        "name": "records",
        "server": {"type": "local", "path": "data.csv", "format": "csv"},
        "properties": [
            *(_filter(name, kind) for name, kind in (filters or {}).items()),
            FEATURE,
            LABEL,
        ],
        **keys,
    }
    return parse_table(content, Contract, "contract.toml")


def _filter(name: str, kind: str) -> dict[str, Any]:
    column = {"name": name, "logicalType": kind}
    if name == "consent":
        return {**column, "classification": "consent"}
    return {**column, "classification": "sensitive", "filter": True}


def contract_text(*, consent: bool = True, name: str = "records") -> str:
    """The text of a contract with or without a consent column."""
    column = (
        '[[properties]]\nname = "consent"\nlogicalType = "boolean"\nclassification = "consent"\n'
    )
    return f"""\
apiVersion = "v3.1.0"
name = "{name}"

[server]
type = "local"
path = "data.csv"
format = "csv"

{column if consent else ""}
[[properties]]
name = "size"
logicalType = "number"
classification = "feature"
transform = {{ method = "keep" }}
logicalTypeOptions = {{ minimum = 0.0, maximum = 1.0 }}
bounds_source = "made up for tests"

[[properties]]
name = "answer"
logicalType = "string"
classification = "label"
transform = {{ method = "keep" }}
values = ["no", "yes"]
"""


def write_site_folder(
    folder: Path, *, rules: str = TRAIN + READ, tests: str = "", approvers: int = 1, needed: int = 1
) -> dict[str, Identity]:
    """Writes a site without data and without a lock; returns its approvers' keys by name.

    Args:
        folder: Destination.
        rules: The text of its only policy file.
        tests: The text of its only file of policy tests; none if empty.
        approvers: How many approvers there are: ``anna``, ``boris``, ``chen``.
        needed: How many of them must approve.
    """
    names = ("anna", "boris", "chen")[:approvers]
    keys = {name: Identity.generate(SeededEntropy(f"approver {name}")) for name in names}
    lines = [f'{name} = "{key.public_key.hex()}"' for name, key in keys.items()]
    site = (
        f'version = 1\nname = "{folder.name}"\noperator = "clinic"\nregion = "eu"\n\n'
        "[budget]\nepsilon = 2.0\ndelta = 1e-4\n\n"
        f"[policy]\napprovals = {needed}\n\n[policy.approvers]\n" + "\n".join(lines) + "\n"
    )
    texts = {
        "site.toml": site,
        "contracts/records.toml": contract_text(),
        "policies/rules.cedar": rules,
        **({"tests/rules.toml": tests} if tests else {}),
    }
    for place, text in texts.items():
        (folder / place).parent.mkdir(parents=True, exist_ok=True)
        (folder / place).write_text(text)
    (folder / "keys").mkdir(mode=0o700, exist_ok=True)
    for name, key in keys.items():
        key.save(folder / "keys" / f"approver-{name}.key")
    return keys
