"""INSERT ... ON CONFLICT DO NOTHING, which both databases know but SQLAlchemy spells twice."""

from typing import Any

from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.ext.asyncio import AsyncSession

from storage.tables import Table


async def insert_if_absent(session: AsyncSession, table: type[Table], **values: Any) -> None:
    """Insert one row, or leave the one that is there."""
    if session.get_bind().dialect.name == "sqlite":
        await session.execute(sqlite.insert(table).values(values).on_conflict_do_nothing())
    else:
        await session.execute(postgresql.insert(table).values(values).on_conflict_do_nothing())
