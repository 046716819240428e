"""Values per second of PyPI ``ff3``; runs in an environment that holds it: ``ff3_rate.py COUNT LENGTH``."""

from __future__ import annotations

import json
import random
import sys
import time

from ff3 import FF3Cipher  # type: ignore[import-not-found]


def main() -> None:
    """Encrypts so many numbers of so many digits under AES-256, prints how many a second."""
    count, length = map(int, sys.argv[1:3])
    drawn = random.Random(1)
    cells = ["".join(drawn.choices("0123456789", k=length)) for _ in range(count)]
    cipher = FF3Cipher(bytes(range(32)).hex(), bytes(7).hex())
    cipher.encrypt(cells[0])
    start = time.process_time()
    for cell in cells:
        cipher.encrypt(cell)
    print(json.dumps({"rate": count / (time.process_time() - start)}))


if __name__ == "__main__":
    main()
