"""Transactions on SQLite in one trip to a thread of their own, by a connection that is theirs.

A session that is awaited goes to its connection's thread and back for every statement, and through
a greenlet each time. Where all statements are known beforehand, as those of a group of audit
entries are, one trip does for BEGIN, all of them and COMMIT (docs/performance.md).
"""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from sqlalchemy import URL
from sqlalchemy.orm import Session

from configs.settings import DatabaseSettings
from storage.engine import blocking_engine_of


class WritingThread:
    """One thread, and its connection to the file; both begin with the first transaction.

    Args:
        settings: Time-outs.
        url: The file.
    """

    def __init__(self, settings: DatabaseSettings, url: URL) -> None:
        self._engine = blocking_engine_of(settings, url)
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="sqlite-writing")

    async def commit(self, work: Callable[[Session], None]) -> None:
        """Commit what `work` does, or nothing. Once it has begun, who stops waiting ends nothing.

        Raises what SQLAlchemy raises, and what `work` raises.
        """
        try:
            done = asyncio.get_running_loop().run_in_executor(self._thread, self._commit, work)
        except RuntimeError:  # it has been closed
            raise OSError("the database is closed") from None
        await done

    async def close(self) -> None:
        """Wait for what is under way, then end the thread and the connection."""
        try:
            await asyncio.to_thread(self._thread.shutdown)
        finally:
            self._engine.dispose()

    def _commit(self, work: Callable[[Session], None]) -> None:
        with self._engine.connect() as connection, Session(connection) as session:
            work(session)
            session.commit()
