"""A self-test that deviates stops the replica at once, and is recorded only where the log fits."""

import shutil
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from configs.settings import DatabaseSettings, Settings
from deployments.inference.replica import GOLDEN_DEVIATION
from deployments.model import OnnxModel
from registry.errors import DatabaseUnavailable, MedAIError, ModelHalted, is_read_only
from storage.anchors import AnchorFile
from storage.checkpoints import Checkpointer
from storage.database import Database
from storage.signing_keys import load_keys
from tests.inference.test_model_life import (
    ANNA,
    BERT,
    NAME,
    Running,
    Site,
    life_of,
    replace_golden,
    stocked,
    tensors,
    url_of,
)

__all__ = ["stocked"]


class Deployed(OnnxModel):
    """Ends when it is told to. Serve awaits `__del__`; what collects garbage cannot."""

    close = OnnxModel.__del__

    def __del__(self) -> None:  # type: ignore[override]
        pass


class Hospital:
    """A site whose log is anchored, and whose database can be taken away and put back."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self._file, self._backup = home / "medai.db", home / "backup.db"
        self._settings = Settings(home=home)

    def opened(self) -> Site:
        database = Database(DatabaseSettings(), url_of(self.home))
        return Site(database, self.home, life_of(database, self.home))

    async def anchors(self, site: Site) -> None:
        """The service signs and anchors what there is."""
        checkpointer = Checkpointer(
            site.database,
            load_keys(self._settings.log_key_dir, generate=True).private,
            AnchorFile(self._settings.anchor_file),
            now=lambda: datetime.now(UTC),
            report=lambda _: None,
            alarm=lambda error: pytest.fail(str(error)),
        )
        await checkpointer.open()
        assert await checkpointer.now() is not None

    def away(self) -> None:
        self._file.rename(self._backup)
        self._file.mkdir()

    def back(self) -> None:
        self._file.rmdir()
        self._backup.rename(self._file)


@pytest.fixture
async def hospital(stocked: Path, tmp_path: Path) -> Hospital:
    home = tmp_path / "home"
    shutil.copytree(stocked, home)
    return Hospital(home)


@pytest.fixture
async def restored(hospital: Hospital) -> AsyncIterator[Site]:
    """A backup was put in the place of a database of which there is an anchor more."""
    before = hospital.opened()
    await hospital.anchors(before)
    await before.database.close()
    shutil.copy(hospital.home / "medai.db", hospital.home / "older.db")
    newer = hospital.opened()
    await newer.life.halt(NAME, "wrong-answers", BERT)
    await newer.life.resume(NAME, ANNA)
    await hospital.anchors(newer)
    await newer.database.close()
    shutil.copy(hospital.home / "medai.db", hospital.home / "newer.db")
    _exchange(hospital.home, "older.db")
    site = hospital.opened()
    yield site
    await site.database.close()


def _exchange(home: Path, name: str) -> None:
    for one in home.glob("medai.db*"):
        one.unlink()
    shutil.copy(home / name, home / "medai.db")


def deviates(running: Running) -> None:
    """The file computes something else by now."""
    (host,) = running.held._hosts.values()
    host._session._card = replace_golden(host._served).card


async def test_a_halt_is_not_added_to_a_log_that_is_read_only_and_holds_all_the_same(
    restored: Site,
) -> None:
    running = await restored.replica()
    before = await restored.actions()
    running.replica.check()
    deviates(running)

    with pytest.raises(MedAIError) as refused:
        await running.replica.self_test()

    assert is_read_only(refused.value)
    assert await restored.actions() == before
    assert (await restored.catalogue()).halts == {}
    await running.replica.follow()
    with pytest.raises(ModelHalted, match=GOLDEN_DEVIATION):
        running.replica.check()
    await running.close()


async def test_it_is_recorded_once_the_newer_database_is_back(restored: Site) -> None:
    running = await restored.replica()
    deviates(running)
    with pytest.raises(MedAIError):
        await running.replica.self_test()
    await restored.database.close()
    _exchange(restored.home, "newer.db")

    await running.replica.self_test()

    assert (await restored.catalogue()).halts == {NAME: GOLDEN_DEVIATION}
    assert (await restored.actions())[-1] == "model.halted"
    await running.close()


async def test_without_the_logs_key_a_halt_is_not_recorded_and_holds_all_the_same(
    hospital: Hospital,
) -> None:
    site = hospital.opened()
    await hospital.anchors(site)
    running = await site.replica()
    shutil.rmtree(hospital.home / "keys" / "log")
    before = await site.actions()
    deviates(running)

    with pytest.raises(MedAIError, match="without the key"):
        await running.replica.self_test()

    assert await site.actions() == before
    with pytest.raises(ModelHalted):
        running.replica.check()
    await running.close()
    await site.database.close()


async def test_while_the_database_is_away_a_deviation_stops_the_replica(
    hospital: Hospital,
) -> None:
    site = hospital.opened()
    await hospital.anchors(site)
    running = await site.replica()
    deviates(running)
    await site.database.close()
    hospital.away()

    with pytest.raises(DatabaseUnavailable):
        await running.replica.self_test()
    with pytest.raises(ModelHalted):
        running.replica.check()

    hospital.back()
    await running.close()
    await site.database.close()


async def test_a_replica_that_deviated_answers_again_after_a_person_resumed_the_model(
    hospital: Hospital,
) -> None:
    site = hospital.opened()
    running = await site.replica()
    deviates(running)
    await running.replica.self_test()
    await running.replica.follow()
    with pytest.raises(ModelHalted):
        running.replica.check()

    await site.life.resume(NAME, ANNA)
    await running.replica.follow()

    running.replica.check()
    await running.close()
    await site.database.close()


async def test_a_case_that_passes_again_ends_a_stop_that_was_never_recorded(
    restored: Site,
) -> None:
    running = await restored.replica()
    deviates(running)
    with pytest.raises(MedAIError):
        await running.replica.self_test()
    (host,) = running.held._hosts.values()
    host._session._card = host._served.card

    await running.replica.self_test()

    running.replica.check()
    await running.close()


async def test_the_deployed_replica_asks_too_and_scores_nothing_after_a_deviation(
    hospital: Hospital, monkeypatch: pytest.MonkeyPatch
) -> None:
    site = hospital.opened()
    await hospital.anchors(site)
    monkeypatch.setenv("MEDAI_HOME", str(hospital.home))
    model = Deployed(NAME, 1)
    await model._replica.follow()
    served = (await site.catalogue()).active(NAME)
    assert (await model.score(tensors(served))).batch_size == 1
    shutil.rmtree(hospital.home / "keys" / "log")
    before = await site.actions()
    deviates(Running(model._replica, model._versions))

    with pytest.raises(MedAIError, match="without the key"):
        await model._replica.self_test()

    with pytest.raises(ModelHalted):
        await model.score(tensors(served))
    assert await site.actions() == before
    await model.close()
    await site.database.close()
