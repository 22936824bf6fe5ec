"""Python's cyclic garbage collector in a process that stays."""

import gc
from typing import Final

# Containers made and not freed before the young are looked through; and how many such looks before
# the older ones are. Python's own 700 (3.11) is for programs that make cycles: answers make none,
# and reference counts free them. Three full requests of the largest batch stay below the first.
THRESHOLDS: Final = (20_000, 20, 50)


def settle() -> None:
    """Leave alone what is there, code and settings for the most part, and look less often.

    To be called once a replica is built. A tenth of a busy gateway's time went into looking through
    some 200,000 objects that live as long as it does (docs/performance.md).
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(*THRESHOLDS)
