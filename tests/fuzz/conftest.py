"""Lets the fuzz tests share the modules beside them, which also run as a script."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
