"""A contract as a document of the Open Data Contract Standard, for catalogues and other tools.

Reference: Bitol, Open Data Contract Standard v3.1.0 and its JSON schema
``odcs-json-schema-v3.1.0.json``.
"""

from __future__ import annotations

from datetime import date
from typing import Any

from tacit.errors import ConfigError
from tacit.policy.column import Column
from tacit.policy.contract import Contract
from tacit.policy.server import Server
from tacit.policy.wording import treatment

__all__ = ["to_odcs", "to_odcs_yaml"]

_SERVER_KEYS: dict[str, tuple[str, ...]] = {
    "local": ("path", "format"),
    "s3": ("location", "endpointUrl", "format", "delimiter"),
    "azure": ("location", "format", "delimiter"),
    "gcs": ("location", "format", "delimiter"),
    "postgres": ("host", "port", "database", "schema"),
    "duckdb": ("database",),
    "sqlite": ("path",),
}
"""What the standard's JSON schema lets a server of each of our types have."""

_CUSTOM = ("gcs", "sqlite")
"""Types that the standard does not name."""

_POSTGRES_PORT = 5432


def to_odcs(contract: Contract) -> dict[str, Any]:
    """The contract with the keys of ODCS v3.1.0; the same contract gives the same document.

    Everything that the standard has no key for is a custom property. The columns are those of the
    source; what becomes of each is its ``transformLogic``, in words, and the custom property
    ``transform``, in full. Canaries are left out: whoever knows them can filter them.

    Guarantee:
        No secret is in it: a contract holds only the name of a login, and that is left out, too.
        Checked by tests/unit/test_policy_odcs.py::test_no_secret_and_no_canary_is_exported.

    Args:
        contract: A validated contract.
    """
    content = contract.model_dump(mode="json", by_alias=True, exclude_none=True)
    custom = {
        "public": contract.public,
        "entity": contract.entity,
        "population": contract.population,
        "region": contract.region,
        "allowedRegions": content.get("allowed_regions"),
        "lawfulBasis": contract.lawful_basis,
        "invalidRows": contract.invalid_rows,
        "anonymity": content.get("anonymity"),
        # With canaries in it, whoever knows the rest could test guesses of them against the digest.
        "contractDigest": None if contract.canaries else contract.digest.hex(),
    }
    document: dict[str, Any] = {
        "apiVersion": contract.api_version,
        "kind": contract.kind,
        "id": contract.name,
        "name": contract.name,
        "version": contract.version,
        "status": contract.status,
    }
    if contract.description:
        document["description"] = {"purpose": contract.description}
    document["servers"] = [_server(contract.server, contract.name)]
    document["schema"] = [_table(contract)]
    if contract.retention is not None:
        document["slaProperties"] = [_retention(contract.retention)]
    document["customProperties"] = _custom(custom)
    return document


def to_odcs_yaml(contract: Contract) -> str:
    """The same as YAML text.

    Raises:
        ConfigError: PyYAML is not installed.
    """
    try:
        import yaml  # type: ignore[import-untyped] # noqa: PLC0415
    except ImportError as error:
        raise ConfigError(
            "odcs.yaml", "PyYAML is not installed", remedy="pip install pyyaml, or use --json"
        ) from error
    text: str = yaml.safe_dump(
        to_odcs(contract), sort_keys=False, allow_unicode=True, default_flow_style=False
    )
    return text


def _server(server: Server, name: str) -> dict[str, Any]:
    given = server.model_dump(mode="json", by_alias=True, exclude_none=True)
    if server.type == "postgres":
        given = {"port": _POSTGRES_PORT, "schema": "public", **given}
    if server.type == "duckdb":
        given["database"] = given.pop("path")
    if server.format != "csv":
        given.pop("delimiter")
    keys = _SERVER_KEYS[server.type]
    custom = {
        "serverType": server.type if server.type in _CUSTOM else None,
        **{key: given.get(key) for key in ("table", "query", "delimiter") if key not in keys},
    }
    result: dict[str, Any] = {
        "server": name,
        "type": "custom" if server.type in _CUSTOM else server.type,
        **{key: given[key] for key in keys if key in given},
    }
    return {**result, **_optional("customProperties", _custom(custom))}


def _table(contract: Contract) -> dict[str, Any]:
    server = contract.server
    if server.table is not None:
        place = {"physicalName": server.table, "physicalType": "table"}
    else:
        place = {"physicalType": "file" if server.query is None else "query"}
    return {
        "name": contract.name,
        "logicalType": "object",
        **place,
        "properties": [
            _property(column, entity=column.name == contract.entity) for column in contract.columns
        ],
    }


def _property(column: Column, *, entity: bool) -> dict[str, Any]:
    content = column.model_dump(mode="json", by_alias=True, exclude_none=True)
    custom = {
        "transform": content["transform"],
        "train": column.train or None,
        "filter": column.filter or None,
        "synthetic": column.synthetic or None,
        "entity": entity or None,
        "impute": column.impute,
        "unit": column.unit,
        "values": content.get("values"),
        "boundsSource": column.bounds_source,
        "hipaa": column.hipaa,
        "gdpr": column.gdpr,
    }
    return {
        "name": column.name,
        "logicalType": column.logical_type,
        **_optional("logicalTypeOptions", content["logicalTypeOptions"]),
        "classification": column.classification,
        "required": column.required,
        "transformLogic": treatment(column, entity=entity),
        "customProperties": _custom(custom),
    }


def _retention(last: date) -> dict[str, Any]:
    return {
        "property": "endOfLife",
        "value": last.isoformat(),
        "driver": "regulatory",
        "description": "Last day (UTC) on which the data may be used.",
    }


def _custom(values: dict[str, Any]) -> list[dict[str, Any]]:
    return [{"property": key, "value": value} for key, value in values.items() if value is not None]


def _optional(key: str, value: Any) -> dict[str, Any]:
    return {key: value} if value else {}
