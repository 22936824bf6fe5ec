"""A log with its key, its anchors and its verifier, and one who can write everything."""

import json
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from sqlalchemy import delete, insert, select, text, update
from uuid_utils.compat import uuid7

from deployments import medai_verify
from registry.contract import ModelRef, Receipt
from registry.errors import MedAIError
from registry.events import CLI, AuditAction, AuditEvent, NewModelVersion
from storage.anchors import AnchorFile
from storage.checkpoints import Checkpointer, CheckpointPolicy
from storage.database import Database
from storage.evidence import EvidenceReader
from storage.export import export_log
from storage.hashchain import Frontier, canonical, entry_hash, genesis_hash, leaf_hash
from storage.ledger import Ledger
from storage.notes import VerifierKey
from storage.tables import AuditCheckpoint, AuditLog, AuditState, InferenceResult, Table
from tests.storage.conftest import clock, database, ledger, open_database, site, site_of, verdicts

__all__ = ["clock", "database", "ledger", "open_database", "site", "site_of", "verdicts"]

Rows = list[dict[str, Any]]


@pytest.fixture
def key() -> Ed25519PrivateKey:
    """The log's own key, the same in every test."""
    return Ed25519PrivateKey.from_private_bytes(bytes(range(32)))


@pytest.fixture
def anchors(tmp_path: Path) -> AnchorFile:
    return AnchorFile(tmp_path / "anchors.jsonl")


class Log:
    """A site's log under way: its writer, its checkpoints, and what was said of them.

    Attributes:
        reported: The lines a SIEM would have.
        alarms: What kept checkpoints from being made.
        seconds: What the monotonic clock shows.
    """

    def __init__(
        self, database: Database, ledger: Ledger, clock: Any, path: Path, site: Any = None
    ) -> None:
        self.database = database
        self.ledger = ledger
        self.clock = clock
        self.site = site
        self.path = path
        self.anchors = AnchorFile(path)
        self.reported: list[str] = []
        self.alarms: list[MedAIError] = []
        self.seconds = 0.0

    def checkpointer(self, key: Ed25519PrivateKey, **policy: Any) -> Checkpointer:
        return Checkpointer(
            self.database,
            key,
            self.anchors,
            now=self.clock,
            report=self.reported.append,
            alarm=self.alarms.append,
            policy=CheckpointPolicy(**policy),
            monotonic=lambda: self.seconds,
        )

    async def append(self, *events: AuditEvent) -> Receipt:
        """Record through the writer; gives the last receipt."""
        receipts = await self.ledger.append(events)
        assert all(isinstance(receipt, Receipt) for receipt in receipts), receipts
        last = receipts[-1]
        assert isinstance(last, Receipt)
        return last

    async def stored(self) -> list[AuditCheckpoint]:
        """The checkpoints in the database, by size."""
        async with self.database.reading() as session:
            found = await session.scalars(select(AuditCheckpoint).order_by(AuditCheckpoint.size))
            return list(found)

    async def events(self, count: int) -> Receipt:
        return await self.append(*(self.site.event() for _ in range(count)))

    async def model(self, version: str) -> ModelRef:
        """Another model version, registered as the command line does it."""
        model = ModelRef(uuid7(), "cxr-pneumonia", version, "cd" * 32)
        card = self.site.card(model)
        await self.append(
            self.site.event(
                NewModelVersion(model, card, "cd.onnx", 99, "chest-xray", 0.7, "cli"),
                actor=CLI,
                action=AuditAction.MODEL_REGISTERED,
            )
        )
        return model


@pytest.fixture
async def log(database: Database, ledger: Ledger, site: Any, clock: Any, tmp_path: Path) -> Log:
    return Log(database, ledger, clock, tmp_path / "anchors.jsonl", site)


@pytest.fixture
def log_of(clock: Any, tmp_path: Path) -> Callable[[Database], Log]:
    """The log in some database, as a process that starts finds it: nothing is open yet."""

    def found(database: Database) -> Log:
        ledger = Ledger(database, software_version="1.2.3", now=clock)
        return Log(database, ledger, clock, tmp_path / "anchors.jsonl")

    return found


@pytest.fixture
async def checkpointer(log: Log, key: Ed25519PrivateKey) -> Checkpointer:
    """Has made the first checkpoint; admits ten entries without one."""
    checkpointer = log.checkpointer(key, at_most=10)
    await checkpointer.open()
    assert await checkpointer.now() is not None
    return checkpointer


class Audited:
    """A log with 15 entries, of which 7, and then 12, are signed and anchored."""

    FIRST, SIGNED, SIZE = 7, 12, 15

    def __init__(self, log: Log, checkpointer: Checkpointer, vkey: str) -> None:
        self.log = log
        self.checkpointer = checkpointer
        self.vkey = vkey


@pytest.fixture
async def audited(log: Log, key: Ed25519PrivateKey) -> Audited:
    checkpointer = log.checkpointer(key)
    await checkpointer.open()
    head = await log.append(log.site.event(), log.site.inference(), log.site.event())
    await checkpointer.now()
    receipt = await log.append(*(log.site.event() for _ in range(Audited.SIGNED - head.seq)))
    made = await checkpointer.maybe(receipt) or await checkpointer.now()
    assert made is not None
    assert made.size == Audited.SIGNED
    receipt = await log.append(log.site.event(), log.site.inference(), log.site.event())
    checkpointer.observe(receipt)
    return Audited(log, checkpointer, str(VerifierKey.of(made.origin, key)))


class Intruder:
    """One who has the database, and everything that is public about the log."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def run(self, *statements: Any) -> None:
        """Run statements where no trigger and no foreign key stands in the way."""
        async with self._database.transaction() as session:
            if self._database.is_sqlite:
                for name in ("audit_logs_no_update", "audit_logs_no_delete"):
                    await session.execute(text(f"DROP TRIGGER IF EXISTS {name}"))
            else:
                await session.execute(text("ALTER TABLE audit_logs DISABLE TRIGGER ALL"))
            for statement in statements:
                await session.execute(statement)

    async def rows(self) -> Rows:
        """The whole log, by number."""
        table = Table.metadata.tables["audit_logs"]
        async with self._database.reading() as session:
            found = await session.execute(select(*table.columns).order_by(table.c.seq))
            return [dict(row) for row in found.mappings()]

    async def origin(self) -> str:
        async with self._database.reading() as session:
            return await session.scalar(select(AuditState.origin)) or ""

    async def write(self, rows: Sequence[dict[str, Any]], *, agree: bool = True) -> None:
        """Put `rows` in the place of the log; with `agree`, make its state fit."""
        statements: list[Any] = [delete(AuditLog)]
        if rows:
            statements.append(insert(AuditLog).values(list(rows)))
        if agree:
            frontier = Frontier()
            for row in rows:
                frontier.append(row["leaf_hash"])
            tip = rows[-1]["entry_hash"] if rows else genesis_hash(await self.origin())
            statements.append(
                update(AuditState).values(
                    size=len(rows), tip_hash=tip, frontier=frontier.to_bytes()
                )
            )
        await self.run(*statements)

    async def chained(self, rows: Rows, start: int = 0, *, skip: int = 0) -> Rows:
        """`rows` with numbers and hashes that fit, from index `start` on; `skip` numbers less."""
        tip = rows[start - 1]["entry_hash"] if start else genesis_hash(await self.origin())
        for seq, row in enumerate(rows[start:], start=start + 1 + skip):
            payload = canonical({**json.loads(row["payload"]), "seq": seq})
            leaf = leaf_hash(payload)
            row.update(seq=seq, payload=payload.decode(), leaf_hash=leaf, previous_hash=tip)
            tip = row["entry_hash"] = entry_hash(tip, seq, leaf)
        return rows

    async def forget_checkpoints(self) -> None:
        await self.run(delete(AuditCheckpoint))

    async def change_result(self, **values: Any) -> None:
        """Change the first stored result."""
        async with self._database.reading() as session:
            result = await session.scalar(
                select(InferenceResult.id).order_by(InferenceResult.id).limit(1)
            )
        await self.run(update(InferenceResult).where(InferenceResult.id == result).values(**values))


@pytest.fixture
def intruder(database: Database) -> Intruder:
    return Intruder(database)


Verify = Callable[..., tuple[int, dict[str, Any]]]


@pytest.fixture
def verify(capsys: pytest.CaptureFixture[str]) -> Verify:
    """Runs medai-verify; gives its exit code and its report."""

    def run(*arguments: object) -> tuple[int, dict[str, Any]]:
        code = medai_verify.main([*map(str, arguments), "--json"])
        report: dict[str, Any] = json.loads(capsys.readouterr().out)
        return code, report

    return run


Export = Callable[..., Awaitable[Path]]


@pytest.fixture
def export(database: Database, tmp_path: Path) -> Export:
    """Writes an export to a file."""

    async def write(**options: Any) -> Path:
        path = tmp_path / "export.jsonl"
        with path.open("wb") as file:
            async for piece in export_log(database, **options):
                file.write(piece)
        return path

    return write


class Case:
    """A result whose model was registered, the evidence of it, and the log's key."""

    def __init__(self, log: Log, result_id: UUID, document: dict[str, Any], vkey: str) -> None:
        self.log = log
        self.result_id = result_id
        self.document = document
        self.vkey = vkey

    def check(self, document: object) -> tuple[list[str], dict[str, Any]]:
        return medai_verify.check_evidence(document, [medai_verify.Key(self.vkey)])


@pytest.fixture
async def case(log: Log, key: Ed25519PrivateKey) -> Case:
    model = await log.model("2.0.0")
    event = log.site.inference(model=model)
    await log.append(event, log.site.event())
    checkpointer = log.checkpointer(key)
    await checkpointer.open()
    made = await checkpointer.now()
    assert made is not None
    await log.events(3)
    await checkpointer.now()
    document = await EvidenceReader(log.database).of_result(event.event_id, with_subject=True)
    text = json.dumps(document)  # as it travels
    vkey = str(VerifierKey.of(made.origin, key))
    return Case(log, event.event_id, json.loads(text), vkey)
