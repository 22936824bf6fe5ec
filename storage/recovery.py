"""Going on with a log whose end is lost for ever: the way out of read-only.

The order makes an interruption harmless. First the entry that gives the lost head up is committed;
the log is then still behind its anchors, and nobody writes. Then the head with that entry is signed
and anchored, after the lost one, and the writer opens. If the two begin again in between, the entry
is found and only anchored. Nobody else can do that: whoever has the database can write an entry.

Given up is only what an old backup explains: the database holds the same log, whole, continuing an
earlier anchor of it, and the lost head was signed by the log's own key. Everything else is somebody
who changed the log, and stays refused.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from sqlalchemy import select
from uuid_utils.compat import uuid7

from registry.contract import Receipt
from registry.errors import (
    AuditUnavailable,
    Conflict,
    Forbidden,
    ValidationFailed,
    Violation,
    is_read_only,
)
from registry.events import Actor, AuditAction, AuditEvent, ContextValue
from storage.anchors import Anchor, AnchorFile, check_key, startup_check
from storage.appender import Appender
from storage.checkpoints import publish
from storage.database import Database
from storage.entries import Draft
from storage.heads import Diverged, Head, read_head, tip_at
from storage.notes import VerifierKey, claimed_time, open_checkpoint
from storage.recovered import Recovery
from storage.recovery_entries import begun as begun_recovery
from storage.tables import AuditLog, AuditState

REASON = (10, 200)  # characters


@dataclass(frozen=True, slots=True)
class Decision:
    """Who gives the lost entries up, and why.

    Attributes:
        reason: One printable line without anything of a patient, 10 to 200 characters.
        actor: Who asked, as the entry's actor.
        requested_by: The same administrator, as `user:` and the id.
        approved_by: Another one.
    """

    reason: str
    actor: Actor
    requested_by: str
    approved_by: str

    def check(self) -> None:
        """Raises `ValidationFailed` for the reason, `Forbidden` where one person decides alone."""
        length = len(self.reason)
        if not REASON[0] <= length <= REASON[1] or not self.reason.isprintable():
            allowed = f"one printable line of {REASON[0]} to {REASON[1]} characters"
            raise ValidationFailed(
                "the reason is not accepted", (Violation("reason", f"{length} long", allowed),)
            )
        if self.requested_by == self.approved_by:
            raise Forbidden("two different administrators must give lost entries up")


@dataclass(frozen=True, slots=True)
class Gap:
    """What is lost, and where the log can go on.

    Attributes:
        head: The log as it is, found to continue its anchors.
        lost: The last anchor, which speaks of more.
        last: The time of the log's last entry, RFC 3339.
        begun: A recovery of this head that was recorded and not anchored; None where there is none.
    """

    head: Head
    lost: Anchor
    last: str
    begun: Recovery | None

    @property
    def first(self) -> int:
        """The number of the first lost entry."""
        return (self.head.size if self.begun is None else self.begun.size) + 1

    @property
    def lost_size(self) -> int:
        """The number of the last one."""
        return self.lost.checkpoint.size

    @property
    def signed_at(self) -> str:
        """When the last anchor was signed, in whole seconds of UTC; "" where it does not say."""
        at = claimed_time(self.lost.note)
        return f"{at:%Y-%m-%dT%H:%M:%SZ}" if at else ""

    def event(self, decision: Decision) -> AuditEvent:
        """The entry that gives the lost head up; its context is told in `storage.recovered`."""
        context: dict[str, ContextValue] = {
            "size": self.head.size,
            "tip": self.head.tip.hex(),
            "last": self.last,
            "lost_size": self.lost_size,
            "lost_root": self.lost.checkpoint.root.hex(),
            "lost_at": self.signed_at,
            "lost": self.lost_size - self.head.size,
            "reason": decision.reason,
            "requested_by": decision.requested_by,
            "approved_by": decision.approved_by,
        }
        description = "Entries that were lost with the database were given up."
        return AuditEvent(
            uuid7(), AuditAction.LOG_RECOVERY, description, decision.actor, context=context
        )


async def assess(database: Database, anchors: AnchorFile, key: Ed25519PrivateKey) -> Gap:
    """See what is lost. Changes nothing.

    Args:
        database: Where the log is.
        anchors: What was said of it.
        key: The log's own signing key.

    Raises:
        Conflict: The log is not behind its anchors, or there is none to go on with.
        AuditUnavailable: It is not an older copy of the log that was anchored, but another log, or
            one that was changed; or the anchor file cannot be read.
        DatabaseUnavailable: The database is away.
    """
    last = await asyncio.to_thread(anchors.last)
    begun = None if last is None else await begun_recovery(database, last.checkpoint)
    if begun is None:
        try:
            await startup_check(database, anchors, key.public_key().public_bytes_raw())
        except AuditUnavailable as refusal:
            if not is_read_only(refusal):
                raise await _no_restore(database, anchors, refusal) from None
        else:
            raise Conflict("there is nothing to recover: the audit log is not behind its anchors")
    assert last is not None  # else the check would have passed, or said that anchors are missing
    try:
        return await _gap(database, anchors, last, key, begun)
    except Diverged as diverged:
        raise await _no_restore(database, anchors, diverged.refusal()) from None


async def recover(
    database: Database,
    anchors: AnchorFile,
    key: Ed25519PrivateKey,
    gap: Gap,
    decision: Decision,
    *,
    software_version: str,
    now: Callable[[], datetime],
    report: Callable[[str], None],
) -> int:
    """Give the lost entries up. Gives the number of the entry that says so.

    Args:
        database: Where the log is.
        anchors: The file that has more.
        key: The log's own signing key.
        gap: As it was shown to those who decided.
        decision: Whose it is; where an earlier try was recorded, its reason stands.
        software_version: What the entry says it was written by.
        now: The time, aware.
        report: Takes the anchor's line.

    Raises:
        ValidationFailed: The reason is not accepted.
        Forbidden: One person decides alone, or others than those who began.
        Conflict: The log has moved since `gap` was read. Nothing has changed.
        AuditUnavailable: The new head could not be anchored. Beginning again is safe.
        DatabaseUnavailable: The database is away. Beginning again is safe.
    """
    decision.check()
    if gap.begun is not None:
        seq = gap.begun.seq
        if set(gap.begun.accepted_by) != {decision.requested_by, decision.approved_by}:
            raise Forbidden(
                f"entry {seq} gives the lost entries up by the word of two others",
                (Violation("administrators", advice="let those go on, or restore again"),),
            )
    else:
        draft = Draft(gap.event(decision))
        appender = Appender(database, software_version=software_version, now=now)
        await appender.go_on(draft, size=gap.head.size, tip=gap.head.tip)
        receipt = draft.ended()
        assert isinstance(receipt, Receipt)
        seq = receipt.seq
    try:
        head = await read_head(database, gap.head)
    except Diverged as diverged:
        raise diverged.refusal() from None
    assert head is not None  # it continues one that is known
    await publish(database, anchors, head, key, at=now(), report=report, recovers=gap.lost_size)
    return seq


async def _gap(
    database: Database,
    anchors: AnchorFile,
    last: Anchor,
    key: Ed25519PrivateKey,
    begun: Recovery | None,
) -> Gap:
    state, recorded_at = await _end(database)
    if state is None or not state.size:
        raise Conflict(
            "the database holds no entry of the log to go on from: restore a backup first"
        )
    left = state.size if begun is None else begun.size
    within = await asyncio.to_thread(_newest_within, anchors, left)
    head = await read_head(database, await _known(database, within))
    assert head is not None  # there is a state
    public = VerifierKey.of(head.origin, key)
    check_key(head, public, within)
    try:
        open_checkpoint(last.note, public)
    except ValueError:
        raise Diverged(
            "the last anchor was not signed by the key that signs where the database ends"
        ) from None
    return Gap(head, last, recorded_at, begun)


async def _end(database: Database) -> tuple[Any, str]:
    """The log's state, None where it has none, and the time of its last entry."""
    async with database.reading() as session:
        state = (await session.execute(select(AuditState.origin, AuditState.size))).first()
        recorded_at = await session.scalar(
            select(AuditLog.created_at).order_by(AuditLog.seq.desc()).limit(1)
        )
    return state, recorded_at or ""


def _newest_within(anchors: AnchorFile, size: int) -> Anchor | None:
    """The newest anchor that the log should hold. Reads the whole file."""
    newest = None
    for anchor in anchors:
        if anchor.checkpoint.size <= size:
            newest = anchor
    return newest


async def _known(database: Database, anchor: Anchor | None) -> Head | None:
    if anchor is None:
        return None
    checkpoint = anchor.checkpoint
    async with database.reading() as session:
        tip = await tip_at(session, checkpoint.size)
    if tip is None:
        raise Diverged("an entry is missing", limit=f"entry {checkpoint.size}")
    return Head(checkpoint.origin, tip, anchor.frontier)


async def _no_restore(
    database: Database, anchors: AnchorFile, refusal: AuditUnavailable
) -> AuditUnavailable:
    """A refusal, with the word that nothing is recovered here."""
    if refusal.retry_after_s is not None:  # the anchor file cannot be read now
        return refusal
    state, _ = await _end(database)
    size = state.size if state else 0
    kept = await _given_up_before(database, anchors, size)
    if kept is not None:
        return AuditUnavailable(
            f"this backup holds entries that were given up: restore one of at most {kept} entries,"
            " or one made since",
            (Violation("backup", f"{size} entries", f"{kept}"),),
        )
    return AuditUnavailable(
        f"this is not an older copy of the log, and is not recovered: {refusal.detail}",
        refusal.violations
        or (Violation("audit log", advice="run `medai audit verify`, and medai-verify"),),
    )


async def _given_up_before(database: Database, anchors: AnchorFile, size: int) -> int | None:
    """How many entries were kept when those were given up with which the database ends.

    None where it ends with no such entries.
    """
    if await _continues(database, await asyncio.to_thread(anchors.last)):
        return None
    for anchor, kept in await asyncio.to_thread(_ended, anchors, size):
        if await _continues(database, anchor):
            return kept
    return None


async def _continues(database: Database, anchor: Anchor | None) -> bool:
    try:
        await read_head(database, await _known(database, anchor))
    except Diverged:
        return False
    return True


def _ended(anchors: AnchorFile, size: int) -> list[tuple[Anchor, int]]:
    """The newest anchors within `size` of the parts that were given up, and what was kept."""
    ended: list[tuple[Anchor, int]] = []
    newest: Anchor | None = None
    for anchor in anchors:
        here = anchor.checkpoint.size
        if anchor.recovers is not None:
            ended = [(one, min(kept, here - 1)) for one, kept in ended]
            if newest is not None and newest.checkpoint.size >= here:
                ended.append((newest, here - 1))
        if here <= size:
            newest = anchor
    return ended
