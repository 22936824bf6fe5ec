"""A challenger from the registry to the report: replicas follow, count and are restarted."""

import asyncio
import shutil
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import yaml

from configs.settings import DatabaseSettings, Settings
from deployments.inference.catalogue_watch import CatalogueWatch
from deployments.inference.host import ModelHost
from deployments.inference.log_check import check_log
from deployments.inference.model_life import By, ModelLife
from deployments.inference.recorder import SOFTWARE
from deployments.inference.registration import (
    install,
    read_candidate,
    registration_events,
    step,
)
from deployments.inference.replica import Replica
from deployments.inference.shadow import ShadowScoring
from deployments.inference.shadow_life import ShadowLife
from deployments.inference.versions import HeldVersions
from deployments.telemetry.metrics import Instruments
from registry.catalogue import Served
from registry.contract import Tensors
from registry.errors import InvalidModel, MedAIError, NotFound
from registry.events import CLI, AuditEvent
from registry.lifecycle import ModelStatus, ReplicaState
from storage import schema
from storage.audit import AuditRepository
from storage.database import Database
from storage.ledger import append_once
from storage.models import ModelRepository
from storage.verify import verify
from tests.inference.models import SIDE, card, graph
from tests.inference.test_shadow import other_way_round

NAME = "tiny"
BY = By(CLI, "operator:anna")
GRAPHS = {"1.0.0": graph, "1.1.0": other_way_round}


@dataclass
class Running:
    """A replica, as the shell puts it together, that does nothing by itself."""

    replica: Replica
    held: HeldVersions

    async def follow(self) -> None:
        """See what the registry wants, and wait until it is loaded."""
        await self.replica.follow()
        async with asyncio.timeout(10):
            while ReplicaState.LOADING in {one.state for one in self.held.holdings().values()}:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        await self.replica.report()

    async def close(self) -> None:
        await self.replica.close()
        await self.held.close()


@dataclass
class Hospital:
    """A registry whose 1.0.0 is active and whose 1.1.0 is approved; and replicas."""

    database: Database
    home: Path
    running: list[Running] = field(default_factory=list)

    async def record(self, event: AuditEvent) -> None:
        (ended,) = await append_once(
            self.database, [event], software_version=SOFTWARE, now=lambda: datetime.now(UTC)
        )
        if isinstance(ended, MedAIError):
            raise ended

    @property
    def shadows(self) -> ShadowLife:
        return ShadowLife(self.database, self.record)

    @property
    def life(self) -> ModelLife:
        return ModelLife(self.database, self.home / "models", self.record, timeout_s=10)

    async def active(self) -> Served:
        async with self.database.reading() as session:
            return (await ModelRepository(session).catalogue(self.home / "models")).active(NAME)

    async def replica(self, broken: str = "") -> Running:
        """A replica that has followed the registry once. `broken`: what it cannot load."""

        def load(served: Served) -> ModelHost:
            if served.model.version == broken:
                raise InvalidModel("the golden case fails")
            return ModelHost(served, threads=1, deadline_s=5)

        watch = CatalogueWatch(self.database, self.home / "models")
        held = HeldVersions(await self.active(), watch, load)
        scoring = ShadowScoring(held.loaded, Instruments(f"model:{NAME}"), chance=lambda: 0.0)
        held.on_answer(scoring.offer)
        replica = Replica(
            *(NAME, held, watch, self.database),
            check_log=partial(check_log, Settings(home=self.home), self.database),
            golden_interval_s=3600,
            shadow=scoring,
        )
        running = Running(replica, held)
        self.running.append(running)
        await running.follow()
        return running

    async def ask(self, running: Running, *values: int) -> None:
        served = await self.active()
        pixels = [np.full((1, SIDE, SIDE), value, np.uint8) for value in values]
        await running.held.score(Tensors(served.model, np.stack(pixels)))

    async def counted(self, condition: Callable[[int], bool]) -> int:
        """Images compared according to the report, once `condition` holds of their number."""
        async with asyncio.timeout(10):
            while True:
                for running in self.running:
                    await running.replica.count()
                if condition(compared := (await self.shadows.report(NAME)).compared):
                    return compared
                await asyncio.sleep(0.02)

    async def actions(self) -> list[str]:
        async with self.database.reading() as session:
            recent = await AuditRepository(session).recent(1000)
        return [str(entry.action) for entry in reversed(recent)]


@pytest.fixture(scope="module")
def stocked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("stocked")

    async def stock() -> None:
        await schema.upgrade(url_of(home))
        database = Database(DatabaseSettings(), url_of(home))
        hospital = Hospital(database, home)
        for version, make in GRAPHS.items():
            candidate = read_candidate(made(home / version, version, make().SerializeToString()))
            install(candidate, home / "models")
            model, events = registration_events(candidate, by="operator:bert")
            steps = [(ModelStatus.VALIDATED, ModelStatus.APPROVED)]
            if version == "1.0.0":
                steps.append((ModelStatus.APPROVED, ModelStatus.ACTIVE))
            for event in (*events, *(step(model, *one, by=BY.name) for one in steps)):
                await hospital.record(event)
        await database.close()

    asyncio.run(stock())
    return home


def made(directory: Path, version: str, content: bytes) -> Path:
    """A directory with card and file of a version."""
    directory.mkdir()
    (directory / "model.onnx").write_bytes(content)
    document = card(content, name=NAME, version=version, file="model.onnx")
    (directory / "card.yaml").write_text(yaml.safe_dump(document.model_dump(mode="json")))
    return directory


def url_of(home: Path) -> str:
    return f"sqlite+aiosqlite:///{home / 'medai.db'}"


@pytest.fixture
async def hospital(stocked: Path, tmp_path: Path) -> AsyncIterator[Hospital]:
    home = tmp_path / "home"
    shutil.copytree(stocked, home)
    database = Database(DatabaseSettings(), url_of(home))
    hospital = Hospital(database, home)
    yield hospital
    for running in hospital.running:
        await running.close()
    assert (await verify(database)).intact
    await database.close()


async def test_the_report_adds_replicas_up_and_survives_their_restart(hospital: Hospital) -> None:
    await hospital.shadows.start(NAME, "1.1.0", 1.0, BY)
    first, second = await hospital.replica(), await hospital.replica()
    await hospital.ask(first, 255, 0, 255)
    await hospital.ask(second, 255, 128)
    assert await hospital.counted(lambda compared: compared == 5)

    await first.close()
    hospital.running.remove(first)
    third = await hospital.replica()
    await hospital.ask(third, 0)

    assert await hospital.counted(lambda compared: compared == 6)
    report = await hospital.shadows.report(NAME)
    assert (report.answering, report.challenger, report.share) == ("1.0.0", "1.1.0", 1.0)
    pairs = {(one.answered, one.challenger): one.count for one in report.decisions}
    assert pairs["BRIGHT", "DARK"] >= 3
    assert pairs["DARK", "BRIGHT"] == 2
    assert sum(pairs.values()) == sum(one.count for one in report.differences) == 6
    assert report.agreement is not None
    assert report.agreement.low <= report.agreed / 6 <= report.agreement.high
    assert report.latency_ms is not None
    assert 0 < report.latency_ms.p50 <= report.latency_ms.p95
    assert {one.state for one in report.replicas} == {ReplicaState.READY}
    assert len(report.replicas) == 2


async def test_a_replica_that_ends_stores_what_it_has_counted(hospital: Hospital) -> None:
    await hospital.shadows.start(NAME, "1.1.0", 1.0, BY)
    running = await hospital.replica()
    await hospital.ask(running, 255)
    async with asyncio.timeout(10):
        while not any(one.compared for one in running.replica._shadow.tallies().values()):  # type: ignore[union-attr]  # noqa: ASYNC110
            await asyncio.sleep(0.01)

    await running.close()
    hospital.running.remove(running)

    assert (await hospital.shadows.report(NAME)).compared == 1


@pytest.mark.parametrize("what", ["off", "halt", "activate"])
async def test_a_challenger_is_scored_no_longer_once_it_is_off_halted_or_active(
    hospital: Hospital, what: str
) -> None:
    await hospital.shadows.start(NAME, "1.1.0", 1.0, BY)
    running = await hospital.replica()
    await hospital.ask(running, 255)
    assert await hospital.counted(lambda compared: compared == 1)

    match what:
        case "off":
            await hospital.shadows.end(NAME, BY)
        case "halt":
            await hospital.life.halt(NAME, "wrong-answers", BY)
        case _:
            running.replica.start()
            await hospital.life.activate(NAME, "1.1.0", BY)
    await running.follow()
    await hospital.ask(running, 255)
    await asyncio.sleep(0.1)
    await running.replica.count()

    report = await hospital.shadows.report(NAME)
    assert report.compared == 1
    assert report.ended_at is not None
    wanted = {"off": "model.shadow_ended", "halt": "model.halted", "activate": "model.activated"}
    assert (await hospital.actions())[-1] == wanted[what]


async def test_a_challenger_that_cannot_be_loaded_is_told_and_the_active_version_answers(
    hospital: Hospital,
) -> None:
    running = await hospital.replica(broken="1.1.0")
    await hospital.shadows.start(NAME, "1.1.0", 1.0, BY)
    await running.follow()

    await hospital.ask(running, 255)

    report = await hospital.shadows.report(NAME)
    (replica,) = report.replicas
    assert (replica.state, replica.reason) == (ReplicaState.FAILED, "the golden case fails")
    assert report.compared == 0
    assert report.agreement is None
    running.held.check_health()


async def test_a_model_that_never_had_a_challenger_has_no_report(hospital: Hospital) -> None:
    with pytest.raises(NotFound):
        await hospital.shadows.report(NAME)
