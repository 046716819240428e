"""Data at rest -> Arrow record batches: files, objects, databases."""

from tacit.connect.sources.base import BATCH_ROWS, Piece, Source
from tacit.connect.sources.checks import cell_error
from tacit.connect.sources.open import open_source
from tacit.connect.sources.secret import read_secret

__all__ = ["BATCH_ROWS", "Piece", "Source", "cell_error", "open_source", "read_secret"]
