"""Comparisons of challengers, read and counted in the caller's transaction.

Each replica writes the totals of its own life under its own name, so that writing them twice, or
after a commit whose end was not heard, counts nothing twice. A report adds the replicas up.
"""

import json
from collections.abc import Sequence
from datetime import datetime
from uuid import UUID

from sqlalchemy import select, update
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import aliased

from registry.contract import ModelRef
from registry.errors import NotFound, Violation
from registry.shadow import ShadowRun, Tally
from storage.shadow_tables import ModelShadow, ShadowCount
from storage.tables import ModelVersion
from storage.upsert import insert_if_absent


class ShadowRepository:
    """The comparisons, in the caller's transaction."""

    def __init__(self, session: AsyncSession) -> None:
        self._session = session

    async def save(self, shadow_id: UUID, replica_id: str, tally: Tally, *, at: datetime) -> None:
        """Store all that a replica has counted of a comparison so far, in place of what it had."""
        counts = json.dumps(tally.document(), separators=(",", ":"))
        await insert_if_absent(
            self._session,
            ShadowCount,
            shadow_id=shadow_id,
            replica_id=replica_id,
            counts=counts,
            counted_at=at,
        )
        await self._session.execute(
            update(ShadowCount)
            .where(ShadowCount.shadow_id == shadow_id, ShadowCount.replica_id == replica_id)
            .values(counts=counts, counted_at=at)
        )

    async def latest(self, name: str) -> ShadowRun:
        """The newest comparison of a name, open or ended. Raises `NotFound`."""
        answering, challenger = aliased(ModelVersion), aliased(ModelVersion)
        row = (
            await self._session.execute(
                select(ModelShadow, answering, challenger)
                .join(answering, answering.id == ModelShadow.answering_id)
                .join(challenger, challenger.id == ModelShadow.challenger_id)
                .where(ModelShadow.model_name == name)
                .order_by(ModelShadow.started_at.desc(), ModelShadow.id.desc())
                .limit(1)
            )
        ).first()
        if row is None:
            raise NotFound("no challenger of this model was in the shadow", (Violation("model"),))
        run, first, second = row
        return ShadowRun(run.id, _ref(first), _ref(second), run.share, run.started_at, run.ended_at)

    async def tally(self, shadow_id: UUID) -> Tally:
        """What all replicas have counted of a comparison, those that are gone too."""
        rows: Sequence[str] = (
            await self._session.scalars(
                select(ShadowCount.counts).where(ShadowCount.shadow_id == shadow_id)
            )
        ).all()
        total = Tally()
        for counts in rows:
            total.add(Tally.of(json.loads(counts)))
        return total


def _ref(row: ModelVersion) -> ModelRef:
    return ModelRef(row.id, row.model_name, row.version, row.file_hash)
