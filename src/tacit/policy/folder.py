"""What a site's folder says about its policy: contracts, rules and policy tests, without keys and data."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from pathlib import Path

from tacit.errors import ConfigError
from tacit.files import read_limited
from tacit.policy.cases import CaseFile, load_cases
from tacit.policy.cedar import Policy
from tacit.policy.contract import Contract

__all__ = ["PolicyFolder", "load_contracts"]

_FILE_LIMIT = 1024 * 1024


@dataclass(frozen=True, slots=True)
class PolicyFolder:
    """The policy of one site.

    Args:
        path: The folder.
        region: The site's region.
        contracts: Its contracts by name.
        policy: Its rules.
        tests: Its files of policy tests by name.
    """

    path: Path
    region: str
    contracts: dict[str, Contract]
    policy: Policy
    tests: dict[str, CaseFile]

    @classmethod
    def load(cls, path: Path) -> PolicyFolder:
        """Reads a site's folder; of ``site.toml`` the region alone.

        Raises:
            ConfigError: Not a site folder, or one of its files is wrong; names file and remedy.
        """
        contracts = load_contracts(path / "contracts")
        return cls(
            path=path,
            region=_region(path / "site.toml"),
            contracts=contracts,
            policy=Policy.load(path / "policies", contracts.values()),
            tests=load_cases(path / "tests"),
        )


def load_contracts(folder: Path) -> dict[str, Contract]:
    """The contracts of a site by name; none if it has no such folder.

    Raises:
        ConfigError: A file is wrong, or two contracts have one name.
    """
    found: dict[str, Contract] = {}
    for file in sorted(folder.glob("*.toml")):
        contract = Contract.load(file)
        if contract.name in found:
            raise ConfigError(
                "site.two-contracts",
                f"{file}: a second contract is named '{contract.name}'",
                remedy="give every contract of a site its own name",
                file=str(file),
            )
        found[contract.name] = contract
    return found


def _region(path: Path) -> str:
    try:
        region = tomllib.loads(read_limited(path, _FILE_LIMIT).decode()).get("region")
    except ValueError:
        region = None
    if not isinstance(region, str) or not region:
        raise ConfigError(
            "policy.site",
            f"{path} does not say in which region the site is",
            remedy="correct the file; docs/reference/configuration.md lists every key",
            file=str(path),
        )
    return region
