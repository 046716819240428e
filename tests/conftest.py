"""What every test starts from."""

from __future__ import annotations

import os

# Test runners set the width of their own terminal; what Tacit prints must not depend on it here.
os.environ.pop("COLUMNS", None)
