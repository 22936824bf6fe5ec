"""How a model name is served: staged, previous, halted; and what its replicas report."""

from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from registry.contract import ModelRef
from registry.errors import Conflict, IllegalTransition
from registry.events import ModelTransition, ServiceHalted, ServiceResumed, VersionStaged
from registry.lifecycle import ModelStatus, ReplicaState
from storage.model_replicas import LIVE_S, Holding, ReplicaRepository
from storage.models import ModelRepository, ServiceState
from storage.verify import verify

if TYPE_CHECKING:
    from conftest import Site

STEPS = (
    (ModelStatus.REGISTERED, ModelStatus.VALIDATED),
    (ModelStatus.VALIDATED, ModelStatus.APPROVED),
)
ACTIVATION = (ModelStatus.APPROVED, ModelStatus.ACTIVE)


async def approved(site: "Site", model: ModelRef) -> None:
    for step in STEPS:
        await site.record(site.step(model, *step))


async def service(site: "Site") -> ServiceState:
    async with site.database.reading() as session:
        return await ModelRepository(session).service(site.model.name)


async def test_only_an_approved_version_is_staged_and_the_switch_ends_it(
    site: "Site", tmp_path: Path
) -> None:
    staging = VersionStaged(site.model, "admin")
    [early] = await site.offer(site.event(staging))
    await approved(site, site.model)
    await site.record(site.event(staging))
    staged = (await service(site)).staged
    async with site.database.reading() as session:
        catalogue = await ModelRepository(session).catalogue(tmp_path)

    await site.record(site.step(site.model, *ACTIVATION))

    assert isinstance(early, IllegalTransition)
    assert staged is not None
    assert staged.model == site.model
    assert [one.model for one in catalogue.wanted(site.model.name)] == [site.model]
    assert catalogue.names == ()  # staged is not active
    assert (await service(site)).staged is None
    assert (await verify(site.database)).intact


async def test_the_uploader_is_refused_in_the_transaction_itself(site: "Site") -> None:
    await site.record(site.step(site.model, *STEPS[0]))
    by_uploader = ModelTransition(site.model, *STEPS[1], "cli")

    [refused] = await site.offer(site.event(by_uploader))

    assert isinstance(refused, IllegalTransition)
    assert "second person" in str(refused)


async def test_a_halt_holds_until_it_is_resumed(site: "Site", tmp_path: Path) -> None:
    await approved(site, site.model)
    await site.record(site.step(site.model, *ACTIVATION))
    await site.record(site.event(ServiceHalted(site.model.name, "wrong-answers", "admin")))
    async with site.database.reading() as session:
        catalogue = await ModelRepository(session).catalogue(tmp_path)

    await site.record(site.event(ServiceResumed(site.model.name, "admin")))

    assert catalogue.halts == {site.model.name: "wrong-answers"}
    assert (await service(site)).halt_reason is None
    [again] = await site.offer(site.event(ServiceResumed(site.model.name, "admin")))
    assert isinstance(again, Conflict)


async def test_a_replica_that_says_nothing_for_a_while_is_not_live(site: "Site") -> None:
    now = site.clock()
    ready = {site.model.id: Holding(ReplicaState.READY)}
    async with site.database.transaction() as session:
        replicas = ReplicaRepository(session)
        silent = now - timedelta(seconds=LIVE_S + 1)
        await replicas.report("silent", site.model.name, ready, at=silent)
        await replicas.report("ended", site.model.name, ready, at=now)
        await replicas.report("live", site.model.name, {}, at=now)
        await replicas.report("live", site.model.name, ready, at=now)
        await replicas.withdraw("ended")

    async with site.database.reading() as session:
        (report,) = await ReplicaRepository(session).live(site.model.name, at=now)

    assert (report.replica_id, report.model) == ("live", site.model)
    assert report.holding == Holding(ReplicaState.READY)
