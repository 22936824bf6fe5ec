"""What the tests of recovery share: a log that can be backed up and put back, and who decides."""

from typing import TYPE_CHECKING, Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from sqlalchemy import delete, insert, select

from registry.contract import Role
from registry.events import Actor
from storage.anchors import AnchorFile
from storage.ledger import Ledger
from storage.notes import VerifierKey
from storage.recovery import Decision, Gap, assess, recover
from storage.tables import AuditState, Table

if TYPE_CHECKING:
    from conftest import Intruder, Log

ADA, BEA = "user:01900000-0000-7000-8000-00000000000a", "user:01900000-0000-7000-8000-00000000000b"
CLEO = "user:01900000-0000-7000-8000-00000000000c"
REASON = "the disk of both copies burnt"
DECISION = Decision(REASON, Actor("cli", None, Role.ADMIN), ADA, BEA)
TABLES = Table.metadata.sorted_tables

Rows = dict[str, list[dict[str, Any]]]


class Hospital:
    """A log whose database can be backed up and put back, while its anchors stay."""

    def __init__(self, log: "Log", intruder: "Intruder", key: Ed25519PrivateKey) -> None:
        self.log = log
        self.key = key
        self.vkey = ""
        self._intruder = intruder

    async def serves(self, events: int) -> int:
        """A run of the service: so many events, and a checkpoint. Gives the log's size."""
        log = self.log
        checkpointer = log.checkpointer(self.key)
        await checkpointer.open()
        log.ledger = Ledger(log.database, software_version="1.2.3", now=log.clock)
        await log.ledger.open()
        checkpointer.observe(await log.events(events))
        made = await checkpointer.now()
        assert made is not None
        self.vkey = str(VerifierKey.of(made.origin, self.key))
        return made.size

    async def signs(self) -> None:
        """A checkpoint of what there is."""
        checkpointer = self.log.checkpointer(self.key)
        await checkpointer.open()
        await checkpointer.now()

    async def backup(self) -> Rows:
        """Every row of every table."""
        async with self.log.database.reading() as session:
            return {
                table.name: [dict(row) for row in (await session.execute(select(table))).mappings()]
                for table in TABLES
            }

    async def restore(self, backup: Rows) -> None:
        """Put a backup in the place of the database."""
        await self._intruder.run(
            *(delete(table) for table in reversed(TABLES)),
            *(insert(table).values(backup[table.name]) for table in TABLES if backup[table.name]),
        )

    async def assess(self) -> Gap:
        return await assess(self.log.database, AnchorFile(self.log.path), self.key)

    async def recovers(self, decision: Decision = DECISION) -> int:
        """Both administrators give up what is lost."""
        return await recover(
            self.log.database,
            AnchorFile(self.log.path),
            self.key,
            await self.assess(),
            decision,
            software_version="1.2.3",
            now=self.log.clock,
            report=self.log.reported.append,
        )

    async def size(self) -> int:
        async with self.log.database.reading() as session:
            return await session.scalar(select(AuditState.size)) or 0

    def anchored(self) -> list[int]:
        return [anchor.checkpoint.size for anchor in AnchorFile(self.log.path)]


@pytest.fixture
def hospital(log: "Log", intruder: "Intruder", key: Ed25519PrivateKey) -> Hospital:
    return Hospital(log, intruder, key)


@pytest.fixture
async def restored(hospital: Hospital) -> Hospital:
    """A backup of 6 entries was restored; there had been 13, two anchors more."""
    await hospital.serves(1)
    backup = await hospital.backup()
    await hospital.serves(2)
    await hospital.serves(3)
    await hospital.restore(backup)
    assert (await hospital.size(), hospital.anchored()) == (6, [6, 9, 13])
    return hospital
