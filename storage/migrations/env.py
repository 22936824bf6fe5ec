"""How alembic reaches the database: through the connection and transaction it is handed.

`storage.schema` hands one over and commits afterwards. From the command line, for writing a new
revision, alembic is told its database by `-x url=...`.
"""

import asyncio
from typing import Literal

from alembic import context
from alembic.autogenerate.api import AutogenContext
from sqlalchemy import Connection

from configs.settings import DatabaseSettings
from storage.database import Database
from storage.shadow_tables import ModelShadow as _ModelShadow  # noqa: F401  # declares its tables
from storage.tables import Table, UtcDateTime


def plain(kind: str, item: object, autogenerating: AutogenContext) -> str | Literal[False]:
    """A revision names SQLAlchemy's types alone: our own may change after it was written."""
    del kind, autogenerating
    return "sa.DateTime(timezone=True)" if isinstance(item, UtcDateTime) else False


def run(connection: Connection) -> None:
    """Run what alembic was called for, in the transaction of `connection`."""
    context.configure(
        connection=connection,
        target_metadata=Table.metadata,
        compare_type=True,
        compare_server_default=True,
        render_item=plain,
    )
    with context.begin_transaction():
        context.run_migrations()


async def run_from_command_line() -> None:
    """Run what alembic was called for on the database of `-x url=...`."""
    database = Database(DatabaseSettings(), context.get_x_argument(as_dictionary=True)["url"])
    try:
        async with database.transaction() as session:
            await (await session.connection()).run_sync(run)
    finally:
        await database.close()


handed = context.config.attributes.get("connection")
if handed is None:
    asyncio.run(run_from_command_line())
else:
    run(handed)
