"""A model's life, with a real database, real replicas and no Ray."""

import asyncio
import shutil
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
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
from deployments.inference.registration import read_candidate
from deployments.inference.replica import GOLDEN_DEVIATION, Replica
from deployments.inference.versions import HeldVersions
from registry.catalogue import Catalogue, Served
from registry.contract import Tensors
from registry.errors import (
    Conflict,
    IllegalTransition,
    InvalidModel,
    MedAIError,
    ModelHalted,
    ModelUnavailable,
    NotFound,
    ValidationFailed,
)
from registry.events import CLI, AuditEvent
from registry.lifecycle import ModelStatus, ReplicaState
from storage import schema
from storage.audit import AuditRepository
from storage.database import Database
from storage.ledger import append_once
from storage.models import ModelRepository
from storage.verify import verify
from tests.inference.models import SIDE, card, graph

NAME = "tiny"
ANNA, BERT = By(CLI, "operator:anna"), By(CLI, "operator:bert")


@dataclass
class Site:
    """A registry with two approved versions of one model, of which the first serves."""

    database: Database
    home: Path
    life: ModelLife

    async def catalogue(self) -> Catalogue:
        async with self.database.reading() as session:
            return await ModelRepository(session).catalogue(self.home / "models")

    async def serving(self) -> str:
        return (await self.catalogue()).active(NAME).model.version

    async def actions(self) -> list[str]:
        """The kinds of the audit entries, in order."""
        async with self.database.reading() as session:
            recent = await AuditRepository(session).recent(1000)
        return [str(entry.action) for entry in reversed(recent)]

    async def replica(self, broken: str = "") -> "Running":
        """A replica of the model. `broken` is a version it cannot load."""

        def load(served: Served) -> ModelHost:
            if served.model.version == broken:
                raise InvalidModel("the golden case fails")
            return ModelHost(served, threads=1, deadline_s=5)

        watch = CatalogueWatch(self.database, self.home / "models")
        held = HeldVersions((await self.catalogue()).active(NAME), watch, load)
        replica = Replica(
            *(NAME, held, watch, self.database),
            check_log=partial(check_log, Settings(home=self.home), self.database),
            golden_interval_s=3600,
        )
        replica.start()
        await replica.follow()
        return Running(replica, held)


@dataclass
class Running:
    """A replica and what it holds."""

    replica: Replica
    held: HeldVersions

    async def close(self) -> None:
        await self.replica.close()
        await self.held.close()


def made(directory: Path, version: str) -> Path:
    """A directory with card and file of a version."""
    directory.mkdir()
    content = graph().SerializeToString()
    (directory / "model.onnx").write_bytes(content)
    document = card(content, name=NAME, version=version, file="model.onnx")
    (directory / "card.yaml").write_text(yaml.safe_dump(document.model_dump(mode="json")))
    return directory


def life_of(database: Database, home: Path, *, timeout_s: float = 10) -> ModelLife:
    async def record(event: AuditEvent) -> None:
        (ended,) = await append_once(
            database, [event], software_version=SOFTWARE, now=lambda: datetime.now(UTC)
        )
        if isinstance(ended, MedAIError):
            raise ended

    return ModelLife(database, home / "models", record, timeout_s=timeout_s)


@pytest.fixture(scope="module")
def stocked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home with the two versions. Trying a file takes a process, so it is done once."""
    home = tmp_path_factory.mktemp("home")

    async def stock() -> None:
        await schema.upgrade(url_of(home))
        database = Database(DatabaseSettings(), url_of(home))
        life = life_of(database, home)
        for version in ("1.0.0", "1.1.0"):
            await life.register(read_candidate(made(home / version, version)), ANNA)
            await life.approve(NAME, version, BERT)
        await life.activate(NAME, "1.0.0", BERT)
        await database.close()

    asyncio.run(stock())
    return home


def url_of(home: Path) -> str:
    return f"sqlite+aiosqlite:///{home / 'medai.db'}"


@pytest.fixture
async def site(stocked: Path, tmp_path: Path) -> AsyncIterator[Site]:
    home = tmp_path / "home"
    shutil.copytree(stocked, home)
    database = Database(DatabaseSettings(), url_of(home))
    yield Site(database, home, life_of(database, home))
    assert (await verify(database)).intact
    await database.close()


def tensors(served: Served) -> Tensors:
    return Tensors(served.model, np.full((1, 1, SIDE, SIDE), 200, np.uint8))


async def test_who_registered_a_version_cannot_approve_it(site: Site, tmp_path: Path) -> None:
    await site.life.register(read_candidate(made(tmp_path / "new", "2.0.0")), ANNA)

    with pytest.raises(IllegalTransition, match="second person"):
        await site.life.approve(NAME, "2.0.0", ANNA)

    approved = await site.life.approve(NAME, "2.0.0", BERT)
    assert (approved.registered_by, approved.approved_by) == (ANNA.name, BERT.name)


async def test_an_activation_waits_until_every_replica_holds_the_version(site: Site) -> None:
    running = [await site.replica() for _ in range(2)]

    await site.life.activate(NAME, "1.1.0", BERT)

    reports = await site.life.replicas(NAME)
    ready = [one for one in reports if one.model.version == "1.1.0"]
    assert {one.holding.state for one in ready} == {ReplicaState.READY}
    assert len({one.replica_id for one in ready}) == 2
    new = (await site.catalogue()).active(NAME)
    assert new.model.version == "1.1.0"
    assert all(new.model.id in one.held.holdings() for one in running)
    assert (await site.life.version(NAME, "1.0.0")).status is ModelStatus.APPROVED
    for one in running:
        await one.close()
    assert await site.life.replicas(NAME) == ()


async def test_one_replica_that_cannot_load_a_version_refuses_it_and_the_old_one_serves_on(
    site: Site,
) -> None:
    running = [await site.replica(), await site.replica(broken="1.1.0")]

    with pytest.raises(InvalidModel, match="golden case fails"):
        await site.life.activate(NAME, "1.1.0", BERT)

    assert await site.serving() == "1.0.0"
    assert (await site.life.service(NAME)).staged is None
    assert (await site.actions())[-2:] == ["model.staged", "model.activation_refused"]
    served = (await site.catalogue()).active(NAME)
    for one in running:
        assert (await one.held.score(tensors(served))).values.shape == (1, 2)
        await one.close()


async def test_a_replica_that_is_not_ready_in_time_ends_the_activation(site: Site) -> None:
    running = await site.replica()
    await running.held.close()  # it reports on, and loads nothing any longer
    hurried = life_of(site.database, site.home, timeout_s=0.3)
    for task in running.replica._tasks[:1]:
        task.cancel()

    with pytest.raises(ModelUnavailable, match=r"0 of 1 replicas were ready within 0\.3 s"):
        await hurried.activate(NAME, "1.1.0", BERT)

    assert await site.serving() == "1.0.0"
    assert (await site.life.service(NAME)).staged is None
    await running.replica.close()


async def test_an_activation_that_is_interrupted_leaves_nothing_staged(site: Site) -> None:
    running = await site.replica()
    for task in running.replica._tasks[:1]:
        task.cancel()
    activation = asyncio.create_task(site.life.activate(NAME, "1.1.0", BERT))
    async with asyncio.timeout(10):
        while (await site.life.service(NAME)).staged is None:  # noqa: ASYNC110  # a row of a table
            await asyncio.sleep(0.05)

    activation.cancel()
    with pytest.raises(asyncio.CancelledError):
        await activation

    assert (await site.life.service(NAME)).staged is None
    await running.close()


async def test_without_a_replica_the_file_is_tried_here_before_the_switch(site: Site) -> None:
    file = site.home / "models" / (await site.life.version(NAME, "1.1.0")).path
    file.chmod(0o600)
    file.write_bytes(file.read_bytes() + b"\0")

    with pytest.raises(InvalidModel, match="not the one the card describes"):
        await site.life.activate(NAME, "1.1.0", BERT)

    assert await site.serving() == "1.0.0"


async def test_a_rollback_leads_to_the_version_that_served_before(site: Site) -> None:
    with pytest.raises(IllegalTransition, match="served before"):
        await site.life.rollback(NAME, BERT)
    await site.life.activate(NAME, "1.1.0", BERT)

    back = await site.life.rollback(NAME, ANNA)

    assert back.model.version == await site.serving() == "1.0.0"
    assert (await site.actions())[-1] == "model.rolled_back"
    assert (await site.life.rollback(NAME, ANNA)).model.version == "1.1.0"


async def test_a_halted_model_answers_nothing_until_it_is_resumed(site: Site) -> None:
    await site.life.halt(NAME, "wrong-answers", BERT)

    with pytest.raises(ModelHalted, match="wrong-answers"):
        (await site.catalogue()).answering(NAME)
    await site.life.activate(NAME, "1.1.0", BERT)
    with pytest.raises(ModelHalted):  # another version does not end a halt by itself
        (await site.catalogue()).answering(NAME)
    await site.life.resume(NAME, ANNA)

    assert (await site.catalogue()).answering(NAME).model.version == "1.1.0"
    with pytest.raises(Conflict, match="not halted"):
        await site.life.resume(NAME, ANNA)
    assert {"model.halted", "model.resumed"} <= set(await site.actions())


@pytest.mark.parametrize("reason", ["", "Wrong answers", "x" * 65, "patient 4711"])
async def test_a_halt_needs_a_code_for_its_reason(site: Site, reason: str) -> None:
    with pytest.raises(ValidationFailed):
        await site.life.halt(NAME, reason, BERT)


async def test_only_a_known_model_is_halted(site: Site) -> None:
    with pytest.raises(NotFound):
        await site.life.halt("nothing", "wrong-answers", BERT)


async def test_a_self_test_that_deviates_halts_the_model_and_the_log_says_so(
    site: Site,
) -> None:
    running = await site.replica()
    await running.replica.self_test()
    before = (await site.catalogue()).halts
    (host,) = running.held._hosts.values()
    golden = replace_golden(host._served)
    host._session._card = golden.card  # the file computes something else by now

    await running.replica.self_test()

    assert before == {}
    assert (await site.catalogue()).halts == {NAME: GOLDEN_DEVIATION}
    assert (await site.actions())[-1] == "model.halted"
    await running.close()


def replace_golden(served: Served) -> Served:
    golden = served.card.golden.model_copy(update={"scores": {"DARK": 0.9, "BRIGHT": 0.1}})
    return replace(served, card=served.card.model_copy(update={"golden": golden}))
