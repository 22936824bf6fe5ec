"""What people do with challengers: put one in the shadow, take it out, read the comparison.

The command line and the API both come here. As in `inference.model_life`, every act is an audit
event with its change. Replicas follow the registry (`inference.shadow`); they load the challenger
as they would for an activation, and what they cannot load they report.
"""

from collections.abc import Awaitable, Callable
from datetime import datetime
from typing import Self

from pydantic import BaseModel, ConfigDict, Field
from uuid_utils.compat import uuid7

from deployments.inference.model_life import By
from deployments.inference.recorder import utc_now
from registry.events import AuditAction, AuditEvent, Change, ShadowEnded, ShadowStarted
from registry.lifecycle import ReplicaState
from registry.shadow import DIFFERENCE_BOUNDS, ShadowRun, Tally
from storage.database import Database, Session
from storage.model_replicas import ReplicaReport, ReplicaRepository
from storage.models import ModelRepository
from storage.shadows import ShadowRepository

DEFAULT_SHARE = 0.1


class Figure(BaseModel):
    """A part of the report. Refuses what it does not know."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Agreement(Figure):
    """The share of equal decisions, with the Wilson 95 % interval (`registry.shadow.wilson`)."""

    rate: float = Field(ge=0, le=1)
    low: float = Field(ge=0, le=1)
    high: float = Field(ge=0, le=1)


class Decisions(Figure):
    """How often one pair of decisions came: a label each, or `BELOW_THRESHOLD`."""

    answered: str = Field(examples=["PNEUMONIA"])
    challenger: str = Field(examples=["BELOW_THRESHOLD"])
    count: int = Field(ge=1)


class Difference(Figure):
    """How many images' scores differed by at most this, and by more than the bound before."""

    at_most: float | None = Field(description="null: more than the last bound")
    count: int = Field(ge=0)


class Latency(Figure):
    """The challenger's runs, in ms, exact to 26 %. A run holds the images of one call."""

    p50: float
    p95: float


class ReplicaOfShadow(Figure):
    """How far one live replica is with the challenger."""

    replica: str
    state: ReplicaState
    reason: str | None = Field(description="why it failed")


class ShadowReport(Figure):
    """A challenger beside the version that answers: counts of all replicas since the start."""

    name: str = Field(examples=["cxr-pneumonia"])
    answering: str = Field(examples=["1.0.0"])
    challenger: str = Field(examples=["1.1.0"])
    share: float = Field(gt=0, le=1, description="of the answering version's calls")
    started_at: datetime
    ended_at: datetime | None
    compared: int = Field(ge=0, description="images that both have scored")
    agreed: int = Field(ge=0)
    dropped: int = Field(ge=0, description="images for which there was no room")
    failed: int = Field(ge=0, description="images for which it gave no finite answer")
    agreement: Agreement | None
    decisions: list[Decisions]
    differences: list[Difference] = Field(description="the largest between a label's two scores")
    latency_ms: Latency | None
    replicas: list[ReplicaOfShadow]

    @classmethod
    def of(cls, run: ShadowRun, tally: Tally, replicas: tuple[ReplicaReport, ...]) -> Self:
        """The report on one comparison."""
        agreement = tally.agreement()
        p50, p95 = tally.latency_ms(0.5), tally.latency_ms(0.95)
        return cls(
            name=run.challenger.name,
            answering=run.answering.version,
            challenger=run.challenger.version,
            share=run.share,
            started_at=run.started_at,
            ended_at=run.ended_at,
            compared=tally.compared,
            agreed=tally.agreed,
            dropped=tally.dropped,
            failed=tally.failed,
            agreement=None
            if agreement is None
            else Agreement(rate=agreement[0], low=agreement[1], high=agreement[2]),
            decisions=[
                Decisions(answered=answered, challenger=challenger, count=count)
                for (answered, challenger), count in tally.pairs.most_common()
            ],
            differences=[
                Difference(at_most=bound, count=count)
                for bound, count in zip((*DIFFERENCE_BOUNDS, None), tally.differences, strict=True)
            ],
            latency_ms=None if p50 is None or p95 is None else Latency(p50=p50, p95=p95),
            replicas=[
                ReplicaOfShadow(
                    replica=one.replica_id, state=one.holding.state, reason=one.holding.reason
                )
                for one in replicas
                if one.model == run.challenger
            ],
        )


class ShadowLife:
    """Does one act at a time.

    Args:
        database: Where the registry is.
        record: Commits an event and its changes, or raises what refused them.

    Every act raises `AuditUnavailable` where it cannot be recorded; then it has not happened.
    """

    def __init__(
        self, database: Database, record: Callable[[AuditEvent], Awaitable[object]]
    ) -> None:
        self._database = database
        self._record = record

    async def start(self, name: str, version: str, share: float, by: By) -> ShadowReport:
        """Compare an approved version with the active one from now on.

        Args:
            name: The model's name.
            version: The challenger's version.
            share: Of the active version's calls that it scores too, above 0 to 1.
            by: Who wants it.

        Raises:
            Conflict: The model has a challenger already, is halted or has no active version.
            IllegalTransition: The version is not approved, or takes other tensors or gives other
                labels than the active one.
            NotFound: No such version.
            ValidationFailed: The share is not one.
        """
        async with self._database.reading() as session:
            found = await ModelRepository(session).version(name, version)
        change = ShadowStarted(uuid7(), found.model, share, by.name)
        said = "A model version is compared with the one that answers."
        await self._say(AuditAction.SHADOW_STARTED, said, change, by)
        return await self.report(name)

    async def end(self, name: str, by: By) -> ShadowReport:
        """Compare no longer; the counts stay. Raises `Conflict` where nothing is compared."""
        said = "A model version is compared no longer."
        await self._say(AuditAction.SHADOW_ENDED, said, ShadowEnded(name, by.name), by)
        return await self.report(name)

    async def report(self, name: str) -> ShadowReport:
        """The newest comparison of a model, also where it has ended. Raises `NotFound`."""

        async def read(session: Session) -> ShadowReport:
            shadows = ShadowRepository(session)
            run = await shadows.latest(name)
            replicas = await ReplicaRepository(session).live(name, at=utc_now())
            return ShadowReport.of(run, await shadows.tally(run.id), replicas)

        return await self._database.read(read)

    async def _say(self, action: AuditAction, description: str, change: Change, by: By) -> None:
        event = AuditEvent(
            event_id=uuid7(),
            action=action,
            description=description,
            actor=by.actor,
            request_id=by.request_id,
            changes=(change,),
        )
        await self._record(event)
