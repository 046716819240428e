"""Data sources -> ``SanitisedBatch``: permission, contract, tokens, coarser values, receipts."""

from tacit.connect.batch import SanitisedBatch
from tacit.connect.keys import DataKeys, KeyFolder
from tacit.connect.plan import Plan
from tacit.connect.read import Inspection, Reading, inspect, read
from tacit.connect.receipt import ColumnReceipt, Quarantined, Receipt, Rows
from tacit.connect.subset import take

__all__ = [
    "ColumnReceipt",
    "DataKeys",
    "Inspection",
    "KeyFolder",
    "Plan",
    "Quarantined",
    "Reading",
    "Receipt",
    "Rows",
    "SanitisedBatch",
    "inspect",
    "read",
    "take",
]
