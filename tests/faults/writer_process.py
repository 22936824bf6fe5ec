"""The AuditWriter's core under load, in a process of its own. Made to be killed, stopped, starved.

    python writer_process.py URL HOME USER_ID MODEL_ID CLIENTS [FILE_LIMIT]

It is the service's own recorder, with its checkpoints and anchors. `CLIENTS` callers offer one
result after the other, each again and again until it has its receipt, and tell every receipt as a
line `RESULT_ID SEQ ENTRY_HASH`. Other lines: `ready`; `refused REASON`, once until there is a
receipt again; `alarm REASON`, from the checkpoints; `fenced`, before the process ends because
another writer has taken over. SIGTERM stops it in order. `FILE_LIMIT` is the size in bytes that no
file of this process may exceed: a full disk.
"""

import asyncio
import resource
import signal
import sys
import time
from datetime import timedelta
from pathlib import Path
from uuid import UUID

from configs.settings import DatabaseSettings
from deployments.inference.recorder import Recorder, utc_now
from deployments.telemetry.metrics import Instruments
from registry.contract import ModelRef, Receipt
from registry.errors import MedAIError
from registry.events import AuditEvent
from storage.anchors import AnchorFile
from storage.checkpoints import Checkpointer, CheckpointPolicy
from storage.database import Database
from storage.signing_keys import load_keys
from tests.storage.inferences import inference

RETRY_S = 0.05
POLICY = CheckpointPolicy(at_most=400, interval=timedelta(seconds=1))  # often, to be hit often


def say(line: str) -> None:
    """Tell whoever started this process."""
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


class Load:
    """Callers of one recorder."""

    def __init__(self, recorder: Recorder, user_id: UUID, model: ModelRef) -> None:
        self._recorder = recorder
        self._user_id = user_id
        self._model = model
        self._reasons: set[str] = set()
        self.ended = asyncio.Event()

    async def call(self) -> None:
        """Offer one event after the other."""
        while not self.ended.is_set():
            event = inference(self._user_id, self._model)
            while not self.ended.is_set():
                if await self._offer(event):
                    break
                await asyncio.sleep(RETRY_S)

    async def _offer(self, event: AuditEvent) -> bool:
        try:
            (ended,) = await self._recorder.append([event])
        except MedAIError as error:
            ended = error
        if isinstance(ended, Receipt):
            self._reasons.clear()
            say(f"{ended.event_id} {ended.seq} {ended.entry_hash.hex()}")
            return True
        self.refused(str(ended))
        return False

    def refused(self, reason: str) -> None:
        """Tell why nothing is recorded, where it has not been told."""
        if reason not in self._reasons:
            self._reasons.add(reason)
            say(f"refused {reason}")
        try:
            self._recorder.check_health()
        except MedAIError:
            say("fenced")
            self.ended.set()


async def main(url: str, home: Path, user_id: UUID, model_id: UUID, clients: int) -> None:
    """Work until told to stop, or fenced."""
    database = Database(DatabaseSettings(), url)
    checkpointer = Checkpointer(
        database,
        load_keys(home / "log", generate=True).private,
        AnchorFile(home / "anchors.jsonl"),
        now=utc_now,
        report=lambda _: None,
        alarm=lambda error: say(f"alarm {error}"),
        policy=POLICY,
        monotonic=time.monotonic,
    )
    recorder = Recorder(database, checkpointer, Instruments("audit-writer"))
    model = ModelRef(model_id, "cxr-pneumonia", "1.0.0", "ab" * 32)
    load = Load(recorder, user_id, model)
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, load.ended.set)
    while not load.ended.is_set():
        try:
            await recorder.ready()
        except MedAIError as error:
            load.refused(str(error))
            await asyncio.sleep(RETRY_S)
        else:
            say("ready")
            break
    await asyncio.gather(*(load.call() for _ in range(clients)))
    await recorder.close()
    await database.close()


if __name__ == "__main__":
    _, url, home, user_id, model_id, clients, *limit = sys.argv
    if limit:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (int(limit[0]), resource.RLIM_INFINITY))
    asyncio.run(main(url, Path(home), UUID(user_id), UUID(model_id), int(clients)))
