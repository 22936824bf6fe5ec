"""Challengers on both databases: when a comparison may begin, what ends it, and its counts."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from uuid_utils.compat import uuid7

from registry.contract import ModelRef
from registry.errors import Conflict, IllegalTransition, MedAIError, NotFound, ValidationFailed
from registry.events import (
    ModelTransition,
    NewModelVersion,
    ServiceHalted,
    ServiceResumed,
    ShadowEnded,
    ShadowStarted,
)
from registry.lifecycle import ModelStatus
from registry.shadow import ShadowRun, Tally
from storage.models import ModelRepository
from storage.shadows import ShadowRepository
from storage.verify import verify

if TYPE_CHECKING:
    from conftest import Site

NAME = "cxr-pneumonia"
APPROVAL = (
    (ModelStatus.REGISTERED, ModelStatus.VALIDATED),
    (ModelStatus.VALIDATED, ModelStatus.APPROVED),
)
ACTIVATION = (ModelStatus.APPROVED, ModelStatus.ACTIVE)


class Ward:
    """A site whose 1.0.0 is active, with versions that are approved."""

    def __init__(self, site: "Site") -> None:
        self.site = site
        self.active = site.model

    async def add(self, version: str, digest: str, **replaced: str) -> ModelRef:
        """Register and approve a version. `replaced`: text of the card, and what to put there."""
        model = ModelRef(uuid7(), NAME, version, digest * 32)
        card = self.site.card(model)
        for old, new in replaced.items():
            assert f'"{old}":8' in card
            card = card.replace(f'"{old}":8', f'"{old}":{new}')
        path = f"{model.sha256}.onnx"
        new_version = NewModelVersion(model, card, path, 1234, "chest-xray", 0.7, "cli")
        await self.site.record(self.site.event(new_version))
        await self.step(model, *APPROVAL)
        return model

    async def step(self, model: ModelRef, *steps: tuple[ModelStatus, ModelStatus]) -> None:
        for before, after in steps:
            change = ModelTransition(model, before, after, "admin")
            await self.site.record(self.site.event(change))

    async def start(self, model: ModelRef, share: float = 0.25) -> "MedAIError | None":
        """Put a challenger in the shadow. Returns what refused it."""
        started = ShadowStarted(uuid7(), model, share, "admin")
        [ended] = await self.site.offer(self.site.event(started))
        return ended if isinstance(ended, MedAIError) else None

    async def latest(self) -> ShadowRun:
        async with self.site.database.reading() as session:
            return await ShadowRepository(session).latest(NAME)

    async def wanted(self) -> list[str]:
        """The versions that replicas shall hold."""
        async with self.site.database.reading() as session:
            catalogue = await ModelRepository(session).catalogue(Path("models"))
        return [one.model.version for one in catalogue.wanted(NAME)]


@pytest.fixture
async def ward(site: "Site") -> AsyncIterator[Ward]:
    ward = Ward(site)
    await ward.step(site.model, *APPROVAL, ACTIVATION)
    yield ward
    assert (await verify(site.database)).intact


async def test_a_challenger_is_held_beside_the_active_version_until_it_is_ended(
    ward: Ward,
) -> None:
    challenger = await ward.add("1.1.0", "cd")

    assert await ward.start(challenger) is None
    wanted, run = await ward.wanted(), await ward.latest()
    await ward.site.record(ward.site.event(ShadowEnded(NAME, "admin")))

    assert wanted == ["1.0.0", "1.1.0"]
    assert (run.answering, run.challenger, run.share) == (ward.active, challenger, 0.25)
    assert run.ended_at is None
    assert await ward.wanted() == ["1.0.0"]
    ended = await ward.latest()
    assert ended.id == run.id
    assert ended.ended_at is not None
    [again] = await ward.site.offer(ward.site.event(ShadowEnded(NAME, "admin")))
    assert isinstance(again, Conflict)


async def test_only_one_challenger_at_a_time(ward: Ward) -> None:
    first, second = await ward.add("1.1.0", "cd"), await ward.add("1.2.0", "ef")
    await ward.start(first)

    assert isinstance(await ward.start(second), Conflict)
    assert (await ward.latest()).challenger == first


async def test_what_is_not_approved_or_not_comparable_is_refused(ward: Ward) -> None:
    other = await ward.add("1.1.0", "cd", height="16")
    unknown = ModelRef(uuid7(), NAME, "9.9.9", "ef" * 32)
    challenger = await ward.add("1.2.0", "ef")

    active = await ward.start(ward.active)
    refused = await ward.start(other)
    absent = await ward.start(unknown)
    shares = [await ward.start(challenger, share) for share in (0.0, 1.5, -1.0)]

    assert isinstance(active, IllegalTransition)
    assert isinstance(refused, IllegalTransition)
    assert "input.height is 16, allowed is 8" in str(refused)
    assert isinstance(absent, NotFound)
    assert all(isinstance(share, ValidationFailed) for share in shares)
    with pytest.raises(NotFound):
        await ward.latest()


async def test_a_halted_model_has_no_challenger(ward: Ward) -> None:
    challenger = await ward.add("1.1.0", "cd")
    await ward.site.record(ward.site.event(ServiceHalted(NAME, "wrong-answers", "admin")))

    refused = await ward.start(challenger)
    await ward.site.record(ward.site.event(ServiceResumed(NAME, "admin")))

    assert isinstance(refused, Conflict)
    assert await ward.start(challenger) is None


@pytest.mark.parametrize("what", ["halt", "activate", "another", "retire", "retire active"])
async def test_whatever_changes_the_service_ends_the_comparison(ward: Ward, what: str) -> None:
    challenger, another = await ward.add("1.1.0", "cd"), await ward.add("1.2.0", "ef")
    await ward.start(challenger)

    match what:
        case "halt":
            await ward.site.record(ward.site.event(ServiceHalted(NAME, "wrong-answers", "admin")))
        case "activate":
            await ward.step(challenger, ACTIVATION)
        case "another":
            await ward.step(another, ACTIVATION)
        case "retire":
            await ward.step(challenger, (ModelStatus.APPROVED, ModelStatus.RETIRED))
        case _:
            await ward.step(ward.active, (ModelStatus.ACTIVE, ModelStatus.RETIRED))

    assert (await ward.latest()).ended_at is not None
    assert len(await ward.wanted()) <= 1


async def test_a_version_that_is_retired_ends_only_its_own_comparison(ward: Ward) -> None:
    challenger, another = await ward.add("1.1.0", "cd"), await ward.add("1.2.0", "ef")
    await ward.start(challenger)

    await ward.step(another, (ModelStatus.APPROVED, ModelStatus.RETIRED))

    assert (await ward.latest()).ended_at is None


async def test_replicas_add_up_and_a_count_that_is_stored_twice_counts_once(ward: Ward) -> None:
    challenger = await ward.add("1.1.0", "cd")
    await ward.start(challenger)
    run = await ward.latest()
    first, second = Tally(), Tally(dropped=3)
    for tally in (first, second):
        tally.compare("normal", "pneumonia", 0.4, 2.0)
    await save(ward, run, "replica-1", first)
    first.compare("normal", "normal", 0.0, 2.0)

    await save(ward, run, "replica-1", first)
    await save(ward, run, "replica-1", first)  # a commit whose end was not heard
    await save(ward, run, "replica-2", second)

    async with ward.site.database.reading() as session:
        total = await ShadowRepository(session).tally(run.id)
    assert (total.compared, total.agreed, total.dropped) == (3, 1, 3)
    assert total.pairs == {("normal", "pneumonia"): 2, ("normal", "normal"): 1}


async def save(ward: Ward, run: ShadowRun, replica: str, tally: Tally) -> None:
    async with ward.site.database.transaction() as session:
        await ShadowRepository(session).save(run.id, replica, tally, at=ward.site.clock())
