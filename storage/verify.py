"""Verification of the records: the whole log against itself, and the rows against the log.

It sees one moment of the database, holds no lock that a writer waits for, and needs memory for one
chunk of rows at a time. What it can and cannot find is told in `storage.verify_log` and
`storage.verify_rows`.
"""

import asyncio
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from sqlalchemy import String, cast, func, or_, select
from sqlalchemy.ext.asyncio import AsyncSession

from storage.anchors import Anchor, AnchorFile
from storage.database import Database
from storage.erasure import check_erasures
from storage.findings import Findings, Flaw, Problem
from storage.recovered import Recovery, check_anchored
from storage.tables import AuditState, Table
from storage.verify_heads import LogKeys, SignedHeads
from storage.verify_log import COLUMNS, LogWalk
from storage.verify_rows import check_registry, check_results, check_users

CHUNK = 1000  # larger ones are slower: they leave the cache


@dataclass(frozen=True, slots=True)
class Report:
    """What a verification found.

    Attributes:
        origin: The log's name; "" where it has not begun.
        entries: How many entries it has.
        tip: The hash of the last one.
        root: The root of the Merkle tree over all of them (RFC 6962).
        problems: The findings, at most the first 1,000.
        problem_count: All of them.
        recoveries: Where entries were given up as lost. No findings, and never to be left unsaid.
        anchored: How many entries the last good anchor by the present key speaks of; None where no
            keys were given, so that nothing that is signed was checked.
        succeeded_in: The entry in which the present key handed over to another; 0 where it did not.
        written_since: When a writer, which signs what it records, first opened the log, RFC 3339;
            "" where none has.
    """

    origin: str
    entries: int
    tip: bytes
    root: bytes
    problems: tuple[Problem, ...]
    problem_count: int
    recoveries: tuple[Recovery, ...]
    anchored: int | None = None
    succeeded_in: int = 0
    written_since: str = ""

    @property
    def unsigned(self) -> int:
        """How many entries at the end no anchor by the present key speaks of."""
        return self.entries - (self.anchored or 0)

    @property
    def intact(self) -> bool:
        """Whether nothing was found."""
        return self.problem_count == 0


async def verify(
    database: Database, anchors: AnchorFile | None = None, keys: LogKeys | None = None
) -> Report:
    """Verify everything.

    Args:
        database: Where the log and the records are.
        anchors: What must agree with the entries that give others up as lost. Whether the log ends
            with its last anchor is asked by `storage.anchors.startup_check`.
        keys: Whose signatures count. With them every checkpoint and every anchor is checked: its
            signature, and that it is the head of these very entries.

    Raises:
        DatabaseUnavailable: The database is away.
        AuditUnavailable: The anchor file cannot be read, or was not only added to.
    """
    findings = Findings()
    heads = None
    if keys is not None:
        heads = await asyncio.to_thread(SignedHeads, keys, _all(anchors), findings)
    async with database.reading() as session:
        walk = await _walk(session, findings, heads)
        committed = await check_results(session, findings)
        await check_erasures(session, committed, walk.changes, findings)
        await check_registry(session, walk.changes, findings)
        await check_users(session, walk.changes, findings)
    if anchors is not None:
        await asyncio.to_thread(_check_anchors, walk.recoveries, anchors, findings)
    return Report(
        origin=walk.origin,
        entries=walk.seq,
        tip=walk.tip,
        root=walk.frontier.root(),
        problems=tuple(findings.kept),
        problem_count=findings.count,
        recoveries=tuple(walk.recoveries),
        anchored=None if heads is None else heads.anchored,
        succeeded_in=0 if heads is None else heads.succeeded_in,
        written_since=walk.written_since,
    )


def _check_anchors(recoveries: Sequence[Recovery], anchors: AnchorFile, findings: Findings) -> None:
    if recoveries or anchors.last() is not None:  # before the first anchor there is no file
        check_anchored(recoveries, anchors, findings)


def _all(anchors: AnchorFile | None) -> Iterable[Anchor]:
    return () if anchors is None or anchors.last() is None else anchors


async def _walk(
    session: AsyncSession, findings: Findings, heads: SignedHeads | None = None
) -> LogWalk:
    found = await session.execute(
        select(AuditState.origin, AuditState.size, AuditState.tip_hash, AuditState.frontier)
    )
    state = found.first()
    walk = LogWalk(state.origin if state else "", findings, heads)
    while True:
        rows = (await session.execute(_ROWS.where(_LOG.seq > walk.seq).order_by(_LOG.seq))).all()
        if not rows:
            break
        if heads is not None:
            between = _SIGNED.size > walk.seq, _SIGNED.size <= rows[-1].seq
            signed = await session.execute(_CHECKPOINTS.where(*between))
            heads.expect((row.size, row.root, row.note) for row in signed)
        walk.feed(rows)
    outside = or_(_SIGNED.size > walk.seq, _SIGNED.size < 1)
    beyond = await session.scalar(select(func.max(_SIGNED.size)).where(outside))
    if beyond is not None:
        findings.add(walk.seq, Flaw.MISSING, f"a checkpoint speaks of {beyond} entries")
    if state is not None:
        walk.finish(size=state.size, tip_hash=state.tip_hash, frontier=state.frontier)
    elif walk.seq > 0:
        findings.add(walk.seq, Flaw.STATE, "the log has no state")
    return walk


_LOG = Table.metadata.tables["audit_logs"].c
_IDS = {"event_id", "user_id", "model_version_id", "inference_result_id"}
_SIGNED = Table.metadata.tables["audit_checkpoints"].c
_CHECKPOINTS = select(_SIGNED.size, _SIGNED.root, _SIGNED.note).order_by(_SIGNED.size)
_ROWS = select(
    *(cast(_LOG[name], String) if name in _IDS else _LOG[name] for name in COLUMNS)
).limit(CHUNK)
