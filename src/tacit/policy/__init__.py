"""What a site permits and what its data are: Cedar decisions, row filters and data contracts."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__all__ = [
    "NO_POLICY",
    "UNBOUNDED_EPSILON",
    "Contract",
    "Decision",
    "FeatureColumn",
    "Permission",
    "Policy",
    "Request",
    "RowFilter",
    "Schema",
    "public_permission",
    "schema_difference",
]

if TYPE_CHECKING:
    from tacit.policy.cedar import Decision, Policy
    from tacit.policy.contract import Contract
    from tacit.policy.permission import NO_POLICY, Permission, public_permission
    from tacit.policy.request import UNBOUNDED_EPSILON, Request
    from tacit.policy.rows import RowFilter
    from tacit.policy.schema import FeatureColumn, Schema, schema_difference

_MODULES = {
    "NO_POLICY": "permission",
    "UNBOUNDED_EPSILON": "request",
    "Contract": "contract",
    "Decision": "cedar",
    "FeatureColumn": "schema",
    "Permission": "permission",
    "Policy": "cedar",
    "Request": "request",
    "RowFilter": "rows",
    "Schema": "schema",
    "public_permission": "permission",
    "schema_difference": "schema",
}


def __getattr__(name: str) -> Any:
    """Imports on first use: pytest loads the plugin in here wherever Tacit is installed."""
    if name not in _MODULES:
        raise AttributeError(f"module 'tacit.policy' has no attribute {name!r}")
    return getattr(import_module(f"tacit.policy.{_MODULES[name]}"), name)
