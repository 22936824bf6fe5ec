"""Checkpoints: the log's head, signed at short intervals and kept where the database cannot reach.

Rules this file keeps:

- At most 1,000 entries, and none for longer than 10 seconds, are without a checkpoint: the head is
  read, signed, anchored (`storage.anchors`), offered to a SIEM and stored, in this order. So a
  checkpoint in the database has an anchor, and a missing anchor file is noticed. Signing begins at
  half of that; whoever records waits where it has not come far enough (`admit`).
- Nothing is signed that was not read: each new payload is hashed, and the tree must grow out of the
  one signed last (`storage.heads`). A log that does not is refused for good; the service goes on
  reading and records nothing.
- Nothing is signed before the log was found to continue its anchors (`open`): whoever signs a log
  that was cut or rewritten makes it a good one.
- What the writer saw committed must be in what is signed, so the entries since the last checkpoint
  cannot be exchanged behind its back either.
- Where the head cannot be anchored, that is told at each try; after `patience` nothing may be
  recorded any more, because nobody could prove it.
- The key signs for the log until a `key.rotated` entry, signed by it, names the next.
"""

import asyncio
import contextlib
import math
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import datetime, timedelta

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from registry.contract import Receipt
from registry.errors import AuditUnavailable, MedAIError, Violation
from registry.events import ContextValue
from storage.anchors import Anchor, AnchorFile, startup_check
from storage.database import Database
from storage.heads import Diverged, Head, read_head
from storage.notes import Checkpoint, VerifierKey, sign, sign_rotation
from storage.tables import AuditCheckpoint
from storage.upsert import insert_if_absent

RETRY = timedelta(seconds=5)


@dataclass(frozen=True, slots=True)
class CheckpointPolicy:
    """How far the log may run ahead of its last checkpoint.

    Attributes:
        at_most: How many entries may be without one. Half as many begin the next.
        interval: After how long there is a next one, where there are fewer.
        patience: How long a recorded entry may wait for its anchor before no more are recorded.
    """

    at_most: int = 1000
    interval: timedelta = timedelta(seconds=10)
    patience: timedelta = timedelta(minutes=15)


class Checkpointer:
    """Signs the log's head. One for each writer, on the writer's event loop.

    Args:
        database: Where the log is.
        key: The log's own signing key, which signs nothing else.
        anchors: The file outside the database.
        now: The time, aware.
        report: Takes each anchor line, for a log that is collected elsewhere.
        alarm: Takes each error that kept a checkpoint from being made.
        policy: How often.
        monotonic: Seconds that never go back.
    """

    def __init__(
        self,
        database: Database,
        key: Ed25519PrivateKey,
        anchors: AnchorFile,
        *,
        now: Callable[[], datetime],
        report: Callable[[str], None],
        alarm: Callable[[MedAIError], None],
        policy: CheckpointPolicy | None = None,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._database = database
        self._key = key
        self._anchors = anchors
        self._now = now
        self._report = report
        self._alarm = alarm
        self._policy = policy or CheckpointPolicy()
        self._monotonic = monotonic
        self._known: Head | None = None  # read and found to continue the one before
        self._in_force: VerifierKey | None = None  # the key that signs at the known head
        self._opened = False
        self._signed_size = 0
        self._newest: Receipt | None = None
        self._waiting_since: float | None = None  # the oldest entry without an anchor
        self._looked_at = monotonic()
        self._retry_at = -math.inf
        self._refusal: AuditUnavailable | None = None
        self._one_at_a_time = asyncio.Lock()
        self._due = asyncio.Event()
        self._closed = False

    async def open(self) -> None:
        """Check the log against its anchors. To be done before the writer opens the log.

        Raises:
            AuditUnavailable: See `storage.anchors.startup_check`.
            DatabaseUnavailable: The database is away. Opening again is safe.
        """
        public = self._key.public_key().public_bytes_raw()
        head = await startup_check(self._database, self._anchors, public)
        last = await asyncio.to_thread(self._anchors.last)
        self._signed_size = 0 if last is None else last.checkpoint.size
        if head is not None:
            self._known, self._in_force = head, VerifierKey(head.origin, public)
        self._opened = True

    def observe(self, receipt: Receipt) -> None:
        """Hear of a commit. Of a group, the receipt with the highest number is enough."""
        if self._newest is None or receipt.seq > self._newest.seq:
            self._newest = receipt
        if self._waiting_since is None and self._unanchored() > 0:
            self._waiting_since = self._monotonic()
        if self._is_due():
            self._due.set()

    def check(self) -> None:
        """Raises `AuditUnavailable` where nothing more may be recorded."""
        if self._refusal is not None:
            raise self._refusal
        if self._waiting_since is None:
            return
        waited_s = self._monotonic() - self._waiting_since
        limit_s = self._policy.patience.total_seconds()
        if waited_s > limit_s:
            raise AuditUnavailable(
                "the audit log cannot be anchored",
                (
                    Violation(
                        "audit anchor",
                        f"{waited_s:.0f} s without one",
                        f"{limit_s:.0f} s",
                        "see the alarms before this one",
                    ),
                ),
                retry_after_s=int(RETRY.total_seconds()),
            )

    async def admit(self, count: int) -> None:
        """Wait until so many more entries may be recorded. Before each commit.

        While the head cannot be anchored nobody waits for it, until the patience ends.

        Raises:
            AuditUnavailable: Nothing more may be recorded.
        """
        self.check()
        room = self._policy.at_most - count
        while 0 < self._unanchored() > room and self._monotonic() >= self._retry_at:
            await self._attempt()
            self.check()

    async def maybe(self, newest: Receipt | None = None) -> Checkpoint | None:
        """Make a checkpoint if one is due. What keeps it from being made goes to the alarm.

        Args:
            newest: The last entry that was committed, where the caller knows it.
        """
        if newest is not None:
            self.observe(newest)
        if not self._is_due() or self._one_at_a_time.locked():
            return None
        return await self._attempt()

    async def now(self) -> Checkpoint | None:
        """Make a checkpoint, at a stop or before an archive; None where there is nothing new.

        Raises:
            AuditUnavailable: The head cannot be anchored, is not one to sign, or nothing is open.
            DatabaseUnavailable: The database is away.
        """
        async with self._one_at_a_time:
            if self._refusal is not None:
                raise self._refusal
            if not self._opened:
                raise AuditUnavailable("the log was not compared with its anchors yet")
            try:
                return await self._make()
            except Diverged as diverged:
                self._refusal = diverged.refusal()
                raise self._refusal from None

    async def run(self) -> None:
        """Make checkpoints as they fall due, until `close`."""
        pause_s = min(self._policy.interval, RETRY).total_seconds()
        while not self._closed:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(pause_s):
                    await self._due.wait()
            self._due.clear()
            await self.maybe()

    async def close(self) -> None:
        """Make the last checkpoint, after the writer's last entry, and let `run` end.

        None where the log was never opened. Quiet where it cannot be made: the alarm hears of it,
        and the next start makes it.
        """
        self._closed = True
        self._due.set()
        if self._opened:
            await self._attempt()

    async def rotate(
        self,
        new: Ed25519PrivateKey,
        record: Callable[[dict[str, ContextValue]], Awaitable[Receipt]],
    ) -> VerifierKey:
        """Let `new` sign from now on, by an entry that both keys have signed.

        Args:
            new: The next key. The settings must name it from the next start on.
            record: Records a `key.rotated` event with this context.

        Returns:
            The new public key, to be handed to whoever verifies.

        Raises:
            AuditUnavailable: The log has not begun, or the entry could not be recorded. If nobody
                knows whether it was, this process signs no more, and the next start tells.
            DatabaseUnavailable: The database is away. Nothing has changed.
        """
        await self.now()
        async with self._one_at_a_time:
            if self._known is None:
                raise AuditUnavailable("the audit log has not begun")
            public = VerifierKey.of(self._known.origin, new)
            note = sign_rotation(self._key, new, self._known.origin)
            self.observe(await record({"note": str(note)}))
            self._key = new
        await self.now()
        return public

    async def _attempt(self) -> Checkpoint | None:
        try:
            return await self.now()
        except MedAIError as error:
            self._retry_at = self._monotonic() + RETRY.total_seconds()
            self._alarm(error)
            return None

    def _unanchored(self) -> int:
        return 0 if self._newest is None else self._newest.seq - self._signed_size

    def _is_due(self) -> bool:
        now = self._monotonic()
        if not self._opened or self._refusal is not None or now < self._retry_at:
            return False
        waited_s = now - self._looked_at
        many = self._unanchored() * 2 >= self._policy.at_most
        return many or waited_s >= self._policy.interval.total_seconds()

    async def _make(self) -> Checkpoint | None:
        newest = self._newest
        head = await read_head(self._database, self._known, newest)
        if head is None:
            self._looked_at = self._monotonic()
            return None
        self._accept(head)
        if head.size == self._signed_size:
            self._done(head)
            return None
        checkpoint = await publish(
            self._database, self._anchors, head, self._key, at=self._now(), report=self._report
        )
        self._done(head)
        return checkpoint

    def _accept(self, head: Head) -> None:
        """See that our key still signs; what was read need not be read again."""
        key = VerifierKey.of(head.origin, self._key)
        first = head.rotations[0].old if head.rotations else key
        in_force = head.key_after(self._in_force or first)
        if in_force != key:
            raise Diverged("the signing key was replaced by another: use that one")
        self._known, self._in_force = head, in_force

    def _done(self, head: Head) -> None:
        self._signed_size = head.size
        self._looked_at = self._monotonic()
        behind = self._newest is not None and self._newest.seq > head.size
        self._waiting_since = self._looked_at if behind else None


async def publish(
    database: Database,
    anchors: AnchorFile,
    head: Head,
    key: Ed25519PrivateKey,
    *,
    at: datetime,
    report: Callable[[str], None],
    recovers: int | None = None,
) -> Checkpoint:
    """Sign a head, anchor it, tell of it and store it, in this order.

    Args:
        database: Where the log is.
        anchors: The file outside the database.
        head: What was read and found good.
        key: The log's own signing key.
        at: The time, aware.
        report: Takes the anchor's line, where one was added.
        recovers: See `Anchor`.

    Raises:
        AuditUnavailable: It could not be anchored.
        DatabaseUnavailable: It is anchored and not stored. Doing it again is safe.
    """
    checkpoint = Checkpoint(head.origin, head.size, head.frontier.root())
    note = sign(checkpoint, key, at=at)
    line = await asyncio.to_thread(anchors.append, Anchor(note, head.frontier, recovers))
    if line is not None:
        report(line)
    async with database.transaction() as session:
        await insert_if_absent(
            session,
            AuditCheckpoint,
            size=checkpoint.size,
            root=checkpoint.root,
            note=str(note),
            created_at=at,
        )
    return checkpoint
