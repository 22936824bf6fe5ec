"""Replicas and their callers on one machine, for the tests of local calls."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

from deployments.local_calls import Calling
from deployments.local_replicas import LocalReplica, LocalReplicas

NAME = "Validator"
SOON_S = 5.0


async def until(holds: Callable[[], object]) -> None:
    """Wait for `holds`."""
    async with asyncio.timeout(SOON_S):
        while not holds():  # noqa: ASYNC110  # what is waited for happens in other objects
            await asyncio.sleep(0.01)


def sockets(folder: Path) -> list[str]:
    """What is in the folder."""
    return [path.name for path in folder.iterdir()]


async def found(replicas: LocalReplicas) -> Calling:
    """The connection that is picked, once there is one."""
    await until(replicas.pick)
    connection = replicas.pick()
    assert connection is not None
    return connection


@asynccontextmanager
async def connected(
    folder: Path, handler: Callable[[object], Awaitable[object]]
) -> AsyncIterator[tuple[LocalReplica, LocalReplicas]]:
    """A replica and somebody who calls it, in one process."""
    replica = LocalReplica(folder, NAME, handler)
    replicas = LocalReplicas(folder, NAME)
    try:
        await found(replicas)
        yield replica, replicas
    finally:
        await replicas.close()
        await replica.close()


async def double(argument: object) -> object:
    """What the replicas here do."""
    assert isinstance(argument, int)
    return argument * 2
