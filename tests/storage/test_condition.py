"""What a database says of itself, asked as the role the server uses."""

from datetime import UTC, datetime
from urllib.parse import urlsplit

import pytest

from storage.condition import condition
from storage.database import Database
from storage.ledger import Ledger
from storage.schema import APP_ROLE
from tests.postgres import PostgresServer
from tests.storage.conftest import OpenDatabase, Site


async def test_the_clocks_agree_and_an_empty_log_has_no_last_entry(database: Database) -> None:
    found = await condition(database)

    assert abs(found.skew_s) < 0.5
    assert 0 < found.answer_ms < 2_000
    assert found.last_entry is None


async def test_the_last_entry_is_the_newest(database: Database, site: Site, ledger: Ledger) -> None:
    before = site.clock()
    await ledger.append([site.event()])

    found = await condition(database)

    assert found.last_entry is not None
    assert before < found.last_entry <= site.clock()
    assert found.last_entry.tzinfo is not None
    assert found.last_entry < datetime.now(UTC).replace(year=2100)


@pytest.fixture
def name_of(postgres_url: str) -> str:
    """The PostgreSQL database's name."""
    return urlsplit(postgres_url).path.removeprefix("/")


@pytest.mark.postgres
async def test_the_server_s_role_has_just_the_rights_it_needs(
    postgres: PostgresServer, name_of: str, open_database: OpenDatabase
) -> None:
    found = await condition(open_database(postgres.url(name_of, APP_ROLE)))

    assert (found.missing, found.excess) == ((), ())


@pytest.mark.postgres
async def test_an_owner_has_too_many_rights_above_all_to_change_the_log(
    postgres_url: str, open_database: OpenDatabase
) -> None:
    found = await condition(open_database(postgres_url))

    assert found.missing == ()
    assert {"UPDATE on audit_logs", "DELETE on audit_logs", "TRUNCATE on users"} <= set(
        found.excess
    )


@pytest.mark.postgres
@pytest.mark.parametrize(
    ("statement", "missing", "excess"),
    [
        (f"REVOKE INSERT ON audit_logs FROM {APP_ROLE}", ("INSERT on audit_logs",), ()),
        (
            f"REVOKE UPDATE (patient_id) ON inference_results FROM {APP_ROLE}",
            ("UPDATE on inference_results.patient_id",),
            (),
        ),
        (f"GRANT DELETE ON users TO {APP_ROLE}", (), ("DELETE on users",)),
        (f"GRANT UPDATE ON inference_results TO {APP_ROLE}", (), ("UPDATE on inference_results",)),
    ],
)
async def test_a_right_too_few_or_too_many_is_named(
    postgres: PostgresServer,
    name_of: str,
    open_database: OpenDatabase,
    statement: str,
    missing: tuple[str, ...],
    excess: tuple[str, ...],
) -> None:
    postgres.execute(statement, database=name_of)

    found = await condition(open_database(postgres.url(name_of, APP_ROLE)))

    assert (found.missing, found.excess) == (missing, excess)
