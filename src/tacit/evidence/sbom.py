"""What software the leader ran: a CycloneDX list of its Python environment, the same every time.

Reference: CycloneDX 1.6, https://cyclonedx.org/docs/1.6/json; package URLs, ECMA-427, type ``pypi``.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from functools import lru_cache
from importlib import metadata
from typing import Any
from urllib.parse import quote

import rfc8785

from tacit.errors import DecodeError

__all__ = ["installed_sbom", "read_sbom", "sbom"]

FORMAT, SPEC_VERSION = "CycloneDX", "1.6"
PRODUCT = "tacit"
RUNS = re.compile(r"[-_.]+")


def sbom(packages: Iterable[tuple[str, str]]) -> bytes:
    """The list of some packages, RFC 8785 JSON, sorted; without time or serial number.

    Args:
        packages: Name and version of each; ``tacit`` is the product that the list is about.
    """
    known = {(RUNS.sub("-", name).lower(), version) for name, version in packages}
    product = next((version for name, version in sorted(known) if name == PRODUCT), "0")
    return rfc8785.dumps(
        {
            "bomFormat": FORMAT,
            "specVersion": SPEC_VERSION,
            "version": 1,
            "metadata": {"component": _component("application", PRODUCT, product)},
            "components": [
                _component("library", name, version)
                for name, version in sorted(known)
                if name != PRODUCT
            ],
        }
    )


@lru_cache(maxsize=1)
def installed_sbom() -> bytes:
    """The list of what is installed beside this process."""
    return sbom(
        (distribution.metadata["Name"], distribution.version)
        for distribution in metadata.distributions()
        if distribution.metadata["Name"]
    )


def read_sbom(data: bytes) -> tuple[tuple[str, str], ...]:
    """Name and version of every package of a list.

    Raises:
        DecodeError: Not a list in the form that ``sbom`` writes.
    """
    try:
        record: Any = json.loads(data)
        components = record["components"]
        packages = tuple((item["name"], item["version"]) for item in components)
        product = record["metadata"]["component"]
        whole = (*packages, (product["name"], product["version"]))
        right = (
            all(isinstance(text, str) for pair in whole for text in pair) and sbom(whole) == data
        )
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        right = False
    if not right:
        raise DecodeError("evidence.sbom", "the list of software is not in the form that it has")
    return packages


def _component(kind: str, name: str, version: str) -> dict[str, str]:
    url = f"pkg:pypi/{name}@{quote(version, safe='')}"
    return {"type": kind, "name": name, "version": version, "purl": url, "bom-ref": url}
