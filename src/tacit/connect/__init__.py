"""Data sources -> ``SanitisedBatch``: contract, tokens, coarser values, receipt."""

from tacit.connect.batch import ColumnReceipt, Receipt, SanitisedBatch
from tacit.connect.compile import read

__all__ = ["ColumnReceipt", "Receipt", "SanitisedBatch", "read"]
