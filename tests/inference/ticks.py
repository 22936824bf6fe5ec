"""Waiting by loop ticks, for what becomes true without telling anybody."""

import asyncio
from collections.abc import Callable


async def until(condition: Callable[[], object], *, ticks: int = 1_000_000) -> None:
    """Give way to the loop until `condition` holds; an error where it never does."""
    for _ in range(ticks):
        if condition():
            return
        await asyncio.sleep(0)
    msg = "it never became true"
    raise AssertionError(msg)
