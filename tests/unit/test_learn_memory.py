"""Freed memory is kept for the next batch."""

import platform
import subprocess
import sys

import pytest

PROGRAM = """
import resource, sys
import numpy as np
from tacit.learn.memory import keep_freed_memory

if sys.argv[1] == "keep":
    keep_freed_memory()
for batch in range(25):
    if batch == 5:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    arrays = [np.ones(2**18) for _ in range(6)]
    del arrays
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(mode):
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, mode], check=True, capture_output=True, text=True
    )
    return int(done.stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the threshold is one of glibc")
def test_batches_do_not_page_their_memory_in_anew():
    assert 20 * faults("keep") < faults("drop")
