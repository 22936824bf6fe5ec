"""Databases that are open, and the events that go into them.

Every database fixture sees at the end that no connection stayed checked out.
"""

import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest
from hypothesis import settings
from sqlalchemy.ext.asyncio import create_async_engine
from uuid_utils.compat import uuid7

from configs.settings import DatabaseSettings
from registry.contract import (
    Check,
    GateVerdict,
    ImageFacts,
    ModelRef,
    Outcome,
    Reason,
    Receipt,
    Role,
    Validation,
    Verdict,
)
from registry.errors import MedAIError, UndecodableImage
from registry.events import (
    CLI,
    Actor,
    AuditAction,
    AuditEvent,
    Change,
    ModelTransition,
    NewModelVersion,
    NewResult,
    NewUser,
    TokenRevoked,
)
from registry.lifecycle import ModelStatus
from storage.database import Database
from storage.ledger import Ledger, append_once
from storage.verify import Report, verify
from tests.storage.intruder import Intruder

settings.register_profile("medai", deadline=None)  # a busy machine is not a wrong one
settings.load_profile("medai")


OpenDatabase = Callable[..., Database]


@pytest.fixture
async def open_database() -> AsyncIterator[OpenDatabase]:
    """Opens databases with settings of the test's own, and closes them."""
    opened: list[Database] = []
    others = set(threading.enumerate())

    def open_one(url: str, **settings: Any) -> Database:
        database = Database(DatabaseSettings(**settings), url)
        opened.append(database)
        return database

    yield open_one
    for database in opened:
        assert database.state().checked_out == 0
        await database.close()
    for thread in set(threading.enumerate()) - others:
        if "_connection_worker_thread" in thread.name:  # aiosqlite's, one a connection
            thread.join(5)
            assert not thread.is_alive()


@pytest.fixture
def database(open_database: OpenDatabase, url: str) -> Database:
    return open_database(url)


class TestClock:
    """The time, as the test sets it: one millisecond later at each look."""

    __test__ = False

    def __init__(self) -> None:
        self.time = datetime(2026, 11, 24, 8, 0, tzinfo=UTC)

    def __call__(self) -> datetime:
        self.time += timedelta(milliseconds=1)
        return self.time


@pytest.fixture
def clock() -> TestClock:
    return TestClock()


@pytest.fixture
async def ledger(database: Database, clock: TestClock) -> Ledger:
    """The writer of `database`, open."""
    ledger = Ledger(database, software_version="1.2.3", now=clock)
    await ledger.open()
    return ledger


class Site:
    """A hospital's records in `database`: one clinician, one model, and events of theirs."""

    def __init__(self, database: Database, clock: TestClock) -> None:
        self.database = database
        self.clock = clock
        self.user_id = uuid7()
        self.model = ModelRef(uuid7(), "cxr-pneumonia", "1.0.0", "ab" * 32)

    async def found(self) -> None:
        """Record the clinician and the model, as the command line does."""
        card = self.card(self.model)
        await self.record(
            self.event(NewUser(self.user_id, "doe", Role.CLINICIAN, "$argon2id$x"), actor=CLI),
            self.event(
                NewModelVersion(
                    self.model, card, f"{self.model.sha256}.onnx", 1234, "chest-xray", 0.7, "cli"
                ),
                actor=CLI,
            ),
        )

    async def record(self, *events: AuditEvent) -> list[Receipt]:
        """Record beside any writer; every event must be taken."""
        receipts = []
        for ended in await self.offer(*events):
            assert isinstance(ended, Receipt), ended
            receipts.append(ended)
        return receipts

    async def offer(self, *events: AuditEvent) -> list[Receipt | MedAIError]:
        return await append_once(self.database, events, software_version="1.2.3", now=self.clock)

    def event(self, *changes: Change, actor: Actor | None = None, **fields: Any) -> AuditEvent:
        """An event without a result, by default one that changes nothing."""
        return AuditEvent(
            **{
                "event_id": uuid7(),
                "action": AuditAction.RESULT_READ,
                "description": "A result was read.",
                "actor": actor or Actor("user", self.user_id, Role.CLINICIAN, "jti-1"),
                "request_id": "req-1",
                "context": {"note": "ü", "pages": 3, "whole": True, "missing": None},
                "changes": changes,
                **fields,
            }
        )

    def inference(self, verdict: Verdict | None = None, **fields: Any) -> AuditEvent:
        """An event with a result."""
        result_id = uuid7()
        result = NewResult(
            **{
                "result_id": result_id,
                "model": self.model,
                "verdict": verdict or predicted(),
                "created_by": self.user_id,
                "created_at": self.clock(),
                **fields,
            }
        )
        return AuditEvent(
            event_id=result_id,
            action=AuditAction.INFERENCE,
            description="An image was sent for inference.",
            actor=Actor("user", self.user_id, Role.CLINICIAN, "jti-1"),
            changes=(result,),
        )

    @staticmethod
    def card(model: ModelRef) -> str:
        return card_json(model)

    def step(self, model: ModelRef, before: ModelStatus, after: ModelStatus) -> AuditEvent:
        return self.event(ModelTransition(model, before, after, "admin"))

    def bad(self) -> AuditEvent:
        """An event the database must refuse: its user does not exist."""
        return self.event(TokenRevoked("jti-2", uuid7(), self.clock()))


@pytest.fixture
def site_of(clock: TestClock) -> Callable[[Database], Awaitable[Site]]:
    """Founds a site in a database of the test's choice."""

    async def found(database: Database) -> Site:
        site = Site(database, clock)
        await site.found()
        return site

    return found


@pytest.fixture
async def site(database: Database, site_of: Callable[[Database], Awaitable[Site]]) -> Site:
    return await site_of(database)


def card_json(model: ModelRef) -> str:
    """The smallest card there is, as the text of this version."""
    return (
        f'{{"name":"{model.name}","version":"{model.version}","sha256":"{model.sha256}",'
        '"clinical_domain":"chest-xray","intended_use":"A test.","input":{"height":8,"width":8,'
        '"scale":1.0,"mean":[0.0],"std":[1.0]},"output":{"activation":"softmax",'
        '"labels":["normal","pneumonia"]},"confidence_threshold":0.7,'
        '"golden":{"seed":"s","scores":{"normal":0.5,"pneumonia":0.5},"tolerance":0.01},'
        '"data":[{"title":"t","authors":"a","licence":"l"}],"licence":"l","limits":["none"]}'
    )


def predicted() -> Verdict:
    """A verdict in which every field says something."""
    return Verdict(
        outcome=Outcome.PREDICTED,
        facts=ImageFacts(
            sha256="cd" * 32,
            size_bytes=6021,
            format="DICOM",
            width=1024,
            height=2048,
            bit_depth=12,
            photometric="MONOCHROME2",
            modality="DX",
            pixel_spacing_mm=0.139,
        ),
        validation=Validation(
            is_valid=True,
            score=0.8314159265358979,
            checks=(
                Check("brightness", 0.4371, "0.08 to 0.92", passed=True),
                Check("contrast", 0.02, "at least 0.06", passed=False, code="LOW_CONTRAST"),
                Check("motion", 12, "at least 0", passed=True, unit="1"),
                Check("view", None, "PA or AP", passed=True),
            ),
        ),
        prediction="pneumonia",
        confidence=0.9312499761581421,
        scores={"normal": 0.0687500238418579, "pneumonia": 0.9312499761581421},
        threshold=0.7,
        needs_review=True,
        reasons=(Reason.INTENDED_USE_UNKNOWN, Reason.BELOW_THRESHOLD),
        gate=GateVerdict(
            ModelRef(UUID(int=7), "modality-gate", "2.0.0", "ef" * 32),
            "cxr",
            0.99,
            0.5,
            passed=True,
        ),
        patient="p1:00112233445566778899aabbccddeeff",
        decode_ms=0.75,
        validate_ms=0.5,
        preprocess_ms=0.25,
        model_ms=3.0,
        inference_ms=1.25,
        batch_size=4,
    )


def failed() -> Verdict:
    """A verdict in which as little as possible says anything."""
    return Verdict(
        outcome=Outcome.REJECTED,
        facts=ImageFacts(sha256="00" * 32, size_bytes=0),
        error=UndecodableImage("the file ends early"),
    )


@pytest.fixture
def verdicts() -> dict[str, Verdict]:
    return {"predicted": predicted(), "failed": failed()}


@pytest.fixture
async def damaged(
    url: str, database: Database, site: Site, ledger: Ledger
) -> AsyncIterator[Callable[[Callable[[Intruder], None]], Awaitable[Report]]]:
    """Does damage to a log of eleven entries and gives what the verifier says then.

    1 genesis, 2 user, 3 model, 4 writer, 5 result, 6 event, 7 result, 8 event, 9 rejected image,
    10 step of the model, 11 event.
    """
    await ledger.append([site.inference(), site.event(), site.inference(), site.event()])
    await ledger.append([site.inference(failed())])
    await ledger.append([site.step(site.model, ModelStatus.REGISTERED, ModelStatus.VALIDATED)])
    await ledger.append([site.event()])
    assert (await verify(database)).intact
    engine = create_async_engine(url)

    async def after(damage: Callable[[Intruder], None]) -> Report:
        async with engine.begin() as connection:
            await connection.run_sync(lambda sync: damage(Intruder(sync)))
        return await verify(database)

    yield after
    await engine.dispose()
