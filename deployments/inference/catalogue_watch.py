"""The present picture of the models, kept fresh from the database.

Every process that needs the catalogue has one watch. It refreshes in the background; while the
database is away the last picture stays, because a model does not become wrong when the database
stops. A version that has just been replaced is still known by its id, so that requests in flight
end on the version they began with.
"""

import asyncio
import contextlib
import contextvars
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Self
from uuid import UUID

from configs.settings import Settings
from registry.catalogue import Catalogue, Served
from registry.contract import ModelRef
from registry.errors import DatabaseUnavailable, MedAIError, ModelUnavailable
from storage.database import Database
from storage.models import ModelRepository

REFRESH_S = 0.5
REMEMBERED = 64  # replaced versions that are still known by id


class CatalogueWatch:
    """The catalogue of one process.

    Args:
        database: Where the registry is. The watch does not close it.
        model_dir: Where the model files are.
    """

    def __init__(self, database: Database, model_dir: Path) -> None:
        self._database = database
        self._model_dir = model_dir
        self._catalogue: Catalogue | None = None
        self._by_id: dict[UUID, Served] = {}
        self._task: asyncio.Task[None] | None = None

    @classmethod
    def start(cls, settings: Settings) -> Self:
        """A watch with a database of its own, refreshing from now on. Needs a running loop."""
        watch = cls(Database(settings.database, settings.database_url), settings.model_dir)
        watch.run()
        return watch

    def run(self) -> None:
        """Refresh in the background, outside of any request's context."""
        loop = asyncio.get_running_loop()
        self._task = loop.create_task(self._refresh_for_ever(), context=contextvars.Context())

    def current(self) -> Catalogue:
        """The latest picture. Raises `DatabaseUnavailable` before there is a first one."""
        if self._catalogue is None:
            raise DatabaseUnavailable("the models are not known yet", retry_after_s=1)
        return self._catalogue

    def known(self) -> tuple[Served, ...]:
        """The active versions; none before there is a first picture."""
        catalogue = self._catalogue
        return () if catalogue is None else tuple(map(catalogue.active, catalogue.names))

    def halted(self) -> dict[str, bool]:
        """For each name with an active version, whether it is halted."""
        catalogue = self._catalogue
        return (
            {} if catalogue is None else {name: name in catalogue.halts for name in catalogue.names}
        )

    def served(self, model: ModelRef) -> Served:
        """The version with this id. Raises `ModelUnavailable` where it is not known here yet."""
        try:
            return self._by_id[model.id]
        except KeyError:
            raise ModelUnavailable(
                "this version is not known to the replica yet", retry_after_s=1
            ) from None

    async def learn(self, model: ModelRef) -> Served:
        """The version with this id, asked for where it is not known yet.

        One process may see a switch half a second before another does. Raises `ModelUnavailable`
        where there is no such version, or it cannot be asked for.
        """
        if model.id not in self._by_id:
            try:
                async with self._database.reading() as session:
                    served = await ModelRepository(session).servable(model.id, self._model_dir)
            except MedAIError:
                return self.served(model)  # raises, unless it came meanwhile
            self._remember(served)
        return self.served(model)

    async def refresh(self) -> None:
        """Read the catalogue once. Raises `DatabaseUnavailable`."""
        async with self._database.reading() as session:
            catalogue = await ModelRepository(session).catalogue(self._model_dir)
        for served in catalogue.versions():
            self._remember(served)
        self._catalogue = catalogue

    def _remember(self, served: Served) -> None:
        self._by_id.pop(served.model.id, None)  # the newest go last
        self._by_id[served.model.id] = served
        while len(self._by_id) > REMEMBERED:
            del self._by_id[next(iter(self._by_id))]

    async def _refresh_for_ever(self) -> None:
        while True:
            # The last picture stays; the database's own state is watched elsewhere.
            with contextlib.suppress(MedAIError):
                await self.refresh()
            await asyncio.sleep(REFRESH_S)

    async def close(self) -> None:
        """Stop refreshing and let go of the database."""
        if self._task is not None:
            self._task.cancel()
        await self._database.close()


def read_catalogue(settings: Settings) -> Catalogue:
    """The catalogue, read once. For constructors, which run on a loop but cannot await.

    Raises:
        DatabaseUnavailable: The database does not answer.
    """

    async def read() -> Catalogue:
        database = Database(settings.database, settings.database_url)
        try:
            async with database.reading() as session:
                return await ModelRepository(session).catalogue(settings.model_dir)
        finally:
            await database.close()

    with ThreadPoolExecutor(max_workers=1) as thread:
        return thread.submit(asyncio.run, read()).result()
