"""What a site permits and what its data are: Cedar decisions and data contracts."""

from tacit.policy.cedar import UNBOUNDED_EPSILON, Decision, Policy, Request
from tacit.policy.contract import Contract
from tacit.policy.schema import FeatureColumn, Schema, schema_difference

__all__ = [
    "UNBOUNDED_EPSILON",
    "Contract",
    "Decision",
    "FeatureColumn",
    "Policy",
    "Request",
    "Schema",
    "schema_difference",
]
