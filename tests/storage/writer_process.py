"""A writer that records groups without end and tells what has its receipt. Made to be killed.

python writer_process.py URL USER_ID MODEL_ID
"""

import asyncio
import sys
from datetime import UTC, datetime
from uuid import UUID

from configs.settings import DatabaseSettings
from registry.contract import ModelRef, Receipt
from storage.database import Database
from storage.ledger import Ledger
from tests.storage.inferences import inference

GROUP = 16


async def main(url: str, user_id: UUID, model_id: UUID) -> None:
    model = ModelRef(model_id, "cxr-pneumonia", "1.0.0", "ab" * 32)
    ledger = Ledger(
        Database(DatabaseSettings(), url), software_version="1", now=lambda: datetime.now(UTC)
    )
    await ledger.open()
    while True:
        recorded = await ledger.append([inference(user_id, model) for _ in range(GROUP)])
        told = " ".join(str(ended.event_id) for ended in recorded if isinstance(ended, Receipt))
        sys.stdout.write(told + "\n")
        sys.stdout.flush()


asyncio.run(main(sys.argv[1], UUID(sys.argv[2]), UUID(sys.argv[3])))
