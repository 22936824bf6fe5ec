"""What model replicas say of the versions they hold, in the caller's transaction.

Not a record: a replica that is gone stops saying anything, and its rows are swept away later. The
moments are those of the replicas' own clocks, so a cluster's clocks must agree to a second or two.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from uuid import UUID

from sqlalchemy import delete, select
from sqlalchemy.ext.asyncio import AsyncSession

from registry.contract import ModelRef
from registry.lifecycle import ReplicaState
from storage.tables import ModelReplica, ModelVersion

LIVE_S = 5.0  # who has said nothing for so long does not count
FORGOTTEN_S = 3600.0


@dataclass(frozen=True, slots=True)
class Holding:
    """How far a replica is with a version. `reason`: why it failed, one line, safe to show."""

    state: ReplicaState
    reason: str | None = None


@dataclass(frozen=True, slots=True)
class ReplicaReport:
    """What a replica last said of one version."""

    replica_id: str
    model: ModelRef
    holding: Holding
    heartbeat_at: datetime


class ReplicaRepository:
    """The replicas' reports."""

    def __init__(self, session: AsyncSession) -> None:
        self._session = session

    async def report(
        self, replica_id: str, name: str, holdings: Mapping[UUID, Holding], *, at: datetime
    ) -> None:
        """Say all that a replica holds; what it said before is no longer true."""
        await self._session.execute(
            delete(ModelReplica).where(
                (ModelReplica.replica_id == replica_id)
                | (ModelReplica.heartbeat_at < at - timedelta(seconds=FORGOTTEN_S))
            )
        )
        self._session.add_all(
            ModelReplica(
                replica_id=replica_id,
                model_version_id=version_id,
                model_name=name,
                state=holding.state,
                reason=None if holding.reason is None else holding.reason[:255],
                heartbeat_at=at,
            )
            for version_id, holding in holdings.items()
        )
        await self._session.flush()

    async def withdraw(self, replica_id: str) -> None:
        """A replica that ends: it holds nothing any longer."""
        await self._session.execute(
            delete(ModelReplica).where(ModelReplica.replica_id == replica_id)
        )

    async def live(self, name: str, *, at: datetime) -> tuple[ReplicaReport, ...]:
        """What the replicas of a name said within the last `LIVE_S` seconds."""
        rows = await self._session.execute(
            select(ModelReplica, ModelVersion.version, ModelVersion.file_hash)
            .join(ModelVersion, ModelVersion.id == ModelReplica.model_version_id)
            .where(
                ModelReplica.model_name == name,
                ModelReplica.heartbeat_at > at - timedelta(seconds=LIVE_S),
            )
            .order_by(ModelReplica.replica_id, ModelVersion.version)
        )
        return tuple(
            ReplicaReport(
                row.replica_id,
                ModelRef(row.model_version_id, name, version, sha256),
                Holding(ReplicaState(row.state), row.reason),
                row.heartbeat_at,
            )
            for row, version, sha256 in rows
        )
