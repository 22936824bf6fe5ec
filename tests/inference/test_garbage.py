"""A replica's garbage collector leaves alone what stays, and still finds what does not."""

import subprocess
import sys

# In a process of its own: the collector belongs to the whole process.
PROGRAM = """
import gc, weakref
from deployments import garbage

class Ring:
    pass

kept = [Ring() for _ in range(1000)]
garbage.settle()
frozen = gc.get_freeze_count()
ring = Ring()
ring.itself = ring
gone = weakref.ref(ring)
del ring
lists = [[] for _ in range(garbage.THRESHOLDS[0] + 1)]
print(frozen > 1000, gone() is None)
"""


def test_what_was_built_is_left_alone_and_a_cycle_is_still_found() -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True
    )

    assert done.stdout.split() == ["True", "True"]
