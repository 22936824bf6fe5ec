"""A process that answers local calls until it is killed: `replica_process.py FOLDER DEPLOYMENT`.

It answers a number with its double; "wait" never.
"""

import asyncio
import sys
from pathlib import Path

from deployments.local_replicas import LocalReplica


async def _answer(argument: object) -> object:
    if argument == "wait":
        await asyncio.Event().wait()
    assert isinstance(argument, int)
    return argument * 2


async def _main(folder: str, deployment: str) -> None:
    replica = LocalReplica(Path(folder), deployment, _answer)
    assert replica.ongoing == 0
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(_main(*sys.argv[1:]))
