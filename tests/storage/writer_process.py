"""A writer that records groups without end and tells what has its receipt. Made to be killed.

python writer_process.py URL USER_ID MODEL_ID
"""

import asyncio
import sys
from datetime import UTC, datetime
from uuid import UUID

from uuid_utils.compat import uuid7

from configs.settings import DatabaseSettings
from registry.contract import ImageFacts, ModelRef, Outcome, Receipt, Role, Verdict
from registry.events import Actor, AuditAction, AuditEvent, NewResult
from storage.database import Database
from storage.ledger import Ledger

GROUP = 16


def inference(user_id: UUID, model: ModelRef) -> AuditEvent:
    result_id = uuid7()
    verdict = Verdict(Outcome.ABSTAINED, ImageFacts("cd" * 32, 1), patient="p1:00")
    return AuditEvent(
        event_id=result_id,
        action=AuditAction.INFERENCE,
        description="An image was sent for inference.",
        actor=Actor("user", user_id, Role.CLINICIAN),
        changes=(NewResult(result_id, model, verdict, user_id, datetime.now(UTC)),),
    )


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
