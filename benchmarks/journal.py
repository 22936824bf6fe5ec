"""Records to write: inferences as the gateway hands them to the AuditWriter."""

import asyncio
import contextlib
import tempfile
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path

from uuid_utils.compat import uuid7

from benchmarks.classifier import load_card
from benchmarks.densenet import write as write_model
from benchmarks.postgres import postgres
from configs.settings import DatabaseSettings
from deployments.inference.service import inference_event
from registry.contract import (
    Check,
    ImageFacts,
    ModelRef,
    Outcome,
    Principal,
    Receipt,
    Role,
    Validation,
    Verdict,
)
from registry.events import (
    CLI,
    AuditAction,
    AuditEvent,
    Change,
    NewModelVersion,
    NewResult,
    NewUser,
)
from storage import schema
from storage.database import Database
from storage.ledger import Ledger

SOFTWARE = "bench"


class Engine(StrEnum):
    """Where records go. Both durable: SQLite with synchronous=FULL, PostgreSQL with fsync."""

    SQLITE = "sqlite"
    POSTGRESQL = "postgresql"


@dataclass(frozen=True, slots=True)
class Journal:
    """An open log with one user and one model, and inferences to put into it."""

    database: Database
    ledger: Ledger
    principal: Principal
    model: ModelRef

    def inferences(self, count: int) -> list[AuditEvent]:
        """New events, each with a result and a validation of the usual size."""
        made = datetime.now(UTC)
        return [
            inference_event(
                NewResult(
                    result_id=uuid7(),
                    model=self.model,
                    verdict=_VERDICT,
                    created_by=self.principal.user_id,
                    created_at=made,
                ),
                self.principal,
                "bench-request",
            )
            for _ in range(count)
        ]

    async def append(self, events: list[AuditEvent]) -> None:
        """Commit events. Raises the first refusal."""
        for outcome in await self.ledger.append(events):
            if not isinstance(outcome, Receipt):
                raise outcome


@contextlib.contextmanager
def place(engine: Engine) -> Iterator[str]:
    """The URL of an empty database with the schema; gone afterwards."""
    with contextlib.ExitStack() as stack:
        if engine is Engine.POSTGRESQL:
            url = stack.enter_context(postgres()).url("postgres")
        else:
            folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-journal-"))
            url = f"sqlite+aiosqlite:///{folder}/medai.db"
        asyncio.run(schema.upgrade(url))
        yield url


@contextlib.asynccontextmanager
async def opened(url: str, workspace: Path) -> AsyncIterator[Journal]:
    """The log at `url`, with its user and its model. `workspace` holds the bench's models."""
    database = Database(DatabaseSettings(), url)
    try:
        ledger = Ledger(database, software_version=SOFTWARE, now=lambda: datetime.now(UTC))
        await ledger.open()
        user = Principal(uuid7(), "bench", Role.CLINICIAN, "bench-token")
        card = load_card(write_model(workspace))
        model = ModelRef(uuid7(), card.name, card.version, card.sha256)
        version = NewModelVersion(
            model=model,
            card=card.model_dump_json(),
            path=f"{card.sha256}.onnx",
            size_bytes=1,
            clinical_domain=card.clinical_domain,
            confidence_threshold=card.confidence_threshold,
            registered_by="bench",
        )
        account = NewUser(user.user_id, user.username, user.role, "$argon2id$bench")
        journal = Journal(database, ledger, user, model)
        await journal.append(
            [
                _founding(AuditAction.USER_CREATED, account),
                _founding(AuditAction.MODEL_REGISTERED, version),
            ]
        )
        yield journal
        await ledger.close()
    finally:
        await database.close()


def _founding(action: AuditAction, change: Change) -> AuditEvent:
    return AuditEvent(uuid7(), action, "The bench is set up.", CLI, changes=(change,))


_VERDICT = Verdict(
    outcome=Outcome.PREDICTED,
    facts=ImageFacts(
        sha256="ab" * 32,
        size_bytes=6364,
        format="JPEG",
        width=224,
        height=224,
        bit_depth=8,
        photometric="MONOCHROME2",
    ),
    validation=Validation(
        is_valid=True,
        score=0.8437,
        checks=(
            Check("width_px", 224, "at least 64", passed=True, unit="px"),
            Check("height_px", 224, "at least 64", passed=True, unit="px"),
            Check("brightness", 0.7537, "0.08 to 0.92", passed=True),
            Check("contrast", 0.1521, "at least 0.06", passed=True),
            Check("sharpness", 0.0314, "at least 0", passed=True),
        ),
    ),
    prediction="NORMAL",
    confidence=0.8437,
    scores={"NORMAL": 0.8437, "ABNORMAL": 0.1563},
    threshold=0.5,
    decode_ms=0.3,
    validate_ms=0.2,
    preprocess_ms=0.1,
    model_ms=3.0,
    inference_ms=1.0,
    batch_size=4,
)
