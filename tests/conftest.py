"""What every test starts from."""

from __future__ import annotations

import os

from hypothesis import settings

# Test runners set the width of their own terminal; what Tacit prints must not depend on it here.
os.environ.pop("COLUMNS", None)

# A busy machine must not decide whether a property holds.
settings.register_profile("tacit", deadline=None)
settings.load_profile("tacit")
