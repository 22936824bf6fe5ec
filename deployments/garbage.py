"""Python's cyclic garbage collector in a process that stays."""

import gc
from typing import Final

# How many containers may be made and not freed before the young ones are looked through, and how
# many such looks there are before older ones are. Python's own 700 (3.11) is for programs that make
# circles; here reference counts free whatever holds an image (tests/inference/test_garbage.py).
THRESHOLDS: Final = (2_000, 10, 20)


def settle() -> None:
    """Leave alone what is there, code and settings for the most part, and look less often.

    To be called once a replica is built. A tenth of a busy gateway's time went into looking through
    some 190,000 objects that live as long as it does (docs/performance.md).
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(*THRESHOLDS)
