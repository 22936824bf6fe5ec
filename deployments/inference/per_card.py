"""What is worked out of a card once, and not for each image that is held against it.

By identity, since a part of a card takes longer to hash than its limits take to be told. Cards are
frozen, and one version's card stays the same object for as long as the version is served.
"""

from collections.abc import Callable
from typing import Generic, TypeVar

KEPT = 64  # parts of cards; then all are let go

Part = TypeVar("Part")
Value = TypeVar("Value")


class PerCard(Generic[Part, Value]):
    """A function of a part of a card that remembers its values. May be used from several threads.

    Args:
        work_out: The function. What it gives is shared, and must not be changed.
    """

    def __init__(self, work_out: Callable[[Part], Value]) -> None:
        self._work_out = work_out
        self._kept: dict[int, tuple[Part, Value]] = {}

    def __call__(self, part: Part) -> Value:
        """The value, worked out the first time."""
        kept = self._kept.get(id(part))
        if kept is None:
            if len(self._kept) >= KEPT:
                self._kept.clear()
            # With the part itself, so that no other object can get its id meanwhile.
            kept = self._kept[id(part)] = (part, self._work_out(part))
        return kept[1]
