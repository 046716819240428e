"""A worker process of the main demonstration: ``python -m tacit.demo.worker``."""

from __future__ import annotations

import contextlib
import json
import sys
from typing import Any

from tacit.demo.splits import work


def _answer(value: dict[str, Any]) -> None:
    print(json.dumps(value, allow_nan=False), flush=True)


if __name__ == "__main__":
    # Stopped from the keyboard, or left alone: the process that asked says what there is to say.
    with contextlib.suppress(KeyboardInterrupt, BrokenPipeError):
        work(sys.stdin, _answer)
