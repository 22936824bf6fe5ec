"""Lists of results: one order, cursors that do not shift, and an index for every filter."""

import time
from collections.abc import Awaitable, Callable
from dataclasses import fields, replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any
from uuid import UUID

import pytest
from sqlalchemy import event, insert, select, text
from uuid_utils.compat import uuid7

from registry.contract import ModelRef, Outcome, Verdict
from registry.events import AuditEvent, NewModelVersion
from storage.database import Database
from storage.result_pages import ListedResult, ResultFilter, ResultPages, first_id
from storage.results import ResultRepository
from storage.tables import Table

if TYPE_CHECKING:
    from conftest import Site

Films = Callable[[int], Awaitable[list[UUID]]]

BEGINNING = datetime(2026, 3, 1, tzinfo=UTC)
ANYTHING = ResultFilter()


def id_at(moment: datetime) -> UUID:
    """An id of that millisecond."""
    return UUID(int=first_id(moment).int | uuid7().int & (1 << 79) - 1)


@pytest.fixture
def record_films(
    site: "Site", verdicts: dict[str, Verdict]
) -> Callable[[int], Awaitable[list[UUID]]]:
    """Records results a minute apart, the third of each three refused; ids, the newest first."""

    async def record(count: int) -> list[UUID]:
        events = []
        for number in range(count):
            at = BEGINNING + timedelta(minutes=number)
            review = replace(verdicts["predicted"], needs_review=number % 2 > 0)
            verdict = verdicts["failed"] if number % 3 == 2 else review
            events.append(inference_at(site, verdict, at, at))
        await site.record(*events)
        return [event.event_id for event in reversed(events)]

    return record


def inference_at(site: "Site", verdict: Verdict, began: datetime, ended: datetime) -> AuditEvent:
    """An inference whose id was made at `began`, and that was answered at `ended`."""
    result_id = id_at(began)
    event = site.inference(verdict, result_id=result_id, created_at=ended)
    return replace(event, event_id=result_id)


async def read(database: Database, wanted: ResultFilter, call: str, *args: Any, **kw: Any) -> Any:
    async with database.reading() as session:
        return await getattr(ResultPages(session, wanted), call)(*args, **kw)


def ids(page: tuple[ListedResult, ...]) -> list[UUID]:
    return [item.result_id for item in page]


async def test_pages_by_number_are_the_whole_list_in_order(
    database: Database, site: "Site", record_films: Films
) -> None:
    expected = await record_films(11)

    total = await read(database, ANYTHING, "total")
    pages = [
        ids(await read(database, ANYTHING, "numbered", page, 3, total=total))
        for page in range(1, 6)
    ]

    assert total == 11
    assert pages == [expected[:3], expected[3:6], expected[6:9], expected[9:], []]


async def test_cursors_walk_the_list_both_ways(
    database: Database, site: "Site", record_films: Films
) -> None:
    expected = await record_films(7)

    older = ids(await read(database, ANYTHING, "after", expected[2], 3))
    newer = ids(await read(database, ANYTHING, "before", expected[5], 3))
    last = ids(await read(database, ANYTHING, "after", expected[6], 3))

    assert older == expected[3:6]
    assert newer == expected[2:5]
    assert last == []


async def test_a_cursor_is_not_shifted_by_what_comes_meanwhile(
    database: Database, site: "Site", record_films: Films
) -> None:
    expected = await record_films(4)
    await site.record(site.inference())

    older = ids(await read(database, ANYTHING, "after", expected[1], 9))

    assert older == expected[2:]


async def test_a_listed_result_is_the_recorded_one(database: Database, site: "Site") -> None:
    recorded = site.inference()
    await site.record(recorded)

    (listed,) = await read(database, ANYTHING, "numbered", 1, 10, total=1)

    async with database.reading() as session:
        stored = await ResultRepository(session).get(recorded.event_id)
    for field in fields(ListedResult):
        assert getattr(listed, field.name) == getattr(stored, field.name), field.name


@pytest.mark.parametrize(
    ("wanted", "matching"),
    [
        (ResultFilter(outcome=Outcome.REJECTED), {2, 5, 8}),
        (ResultFilter(outcome=Outcome.ABSTAINED), set()),
        (ResultFilter(needs_review=True), {1, 3, 7}),
        (ResultFilter(model="cxr-pneumonia"), set(range(9))),
        (ResultFilter(model="cxr"), set()),
        (ResultFilter(model="cxr-pneumonia", model_version="1.0.0"), set(range(9))),
        (ResultFilter(model_version="1.0.1"), set()),
        (ResultFilter(model=UUID(int=5)), set()),
        (ResultFilter(created_by=UUID(int=5)), set()),
        (ResultFilter(patient="p1:00112233445566778899aabbccddeeff"), {0, 1, 3, 4, 6, 7}),
        (ResultFilter(since=BEGINNING + timedelta(minutes=4)), {4, 5, 6, 7, 8}),
        (ResultFilter(until=BEGINNING + timedelta(minutes=4)), {0, 1, 2, 3}),
        (ResultFilter(since=BEGINNING + timedelta(hours=3)), set()),
    ],
)
async def test_a_filter_lets_through_what_fits(
    database: Database, site: "Site", record_films: Films, wanted: ResultFilter, matching: set[int]
) -> None:
    recorded = await record_films(9)
    expected = [one for n, one in zip(reversed(range(9)), recorded, strict=True) if n in matching]

    total = await read(database, wanted, "total")

    assert total == len(expected)
    assert ids(await read(database, wanted, "numbered", 1, 20, total=total)) == expected
    assert ids(await read(database, wanted, "after", id_at(datetime.now(UTC)), 20)) == expected


async def test_a_range_of_time_is_exact_to_the_microsecond(
    database: Database, site: "Site", verdicts: dict[str, Verdict]
) -> None:
    """The id is older than the result by what the answer took; the result's time counts."""
    began = BEGINNING - timedelta(seconds=30)
    await site.record(inference_at(site, verdicts["predicted"], began, BEGINNING))
    instant = timedelta(microseconds=1)

    for wanted, there in (
        (ResultFilter(since=BEGINNING), 1),
        (ResultFilter(since=BEGINNING + instant), 0),
        (ResultFilter(until=BEGINNING), 0),
        (ResultFilter(until=BEGINNING + instant), 1),
    ):
        assert await read(database, wanted, "total") == there, wanted


async def test_the_answers_of_a_key_are_found_by_it(database: Database, site: "Site") -> None:
    keyed = site.inference(idempotency_key="key-1", request_digest=b"d" * 32)
    await site.record(keyed, site.inference())

    async with database.reading() as session:
        repository = ResultRepository(session)
        found = await repository.by_keys(site.user_id, ["key-1", "key-2"])
        foreign = await repository.by_keys(uuid7(), ["key-1"])

    assert list(found) == ["key-1"]
    assert found["key-1"].result_id == keyed.event_id
    assert found["key-1"].request_digest == b"d" * 32
    assert foreign == {}


@pytest.fixture
async def crowded(database: Database, site: "Site") -> list[UUID]:
    """Ten thousand results, without their log: enough for a planner to prefer indexes.

    Their ids, the newest first.
    """
    rare = ModelRef(uuid7(), "rare", "1.0.0", "ab" * 32)
    card = site.card(rare)
    rarely = NewModelVersion(rare, card, "rare.onnx", 1, "chest-xray", 0.7, "cli")
    await site.record(site.event(rarely), site.inference())
    table = Table.metadata.tables["inference_results"]
    async with database.transaction() as session:
        (row,) = (await session.execute(select(table))).mappings().all()
        many = [{**row, "id": id_at(BEGINNING + timedelta(seconds=n))} for n in range(10_000)]
        await session.execute(insert(table), many)
    async with database.transaction() as session:
        await session.execute(text("ANALYZE inference_results"))
    return [row["id"] for row in reversed(many)]


# What a reader may ask for, and the index that must find it.
INDEXES = [
    (ANYTHING, "primary key"),
    (ResultFilter(since=BEGINNING), "primary key"),
    (ResultFilter(created_by=UUID(int=5)), "ix_inference_results_created_by_id"),
    (ResultFilter(model="rare"), "ix_inference_results_model_version_id_id"),
    (ResultFilter(outcome=Outcome.REJECTED), "ix_inference_results_outcome_id"),
    (ResultFilter(patient="p1:00"), "ix_inference_results_patient_id_id"),
    (ResultFilter(needs_review=False), "ix_inference_results_needs_review_id"),
]


@pytest.mark.usefixtures("crowded")
async def test_what_is_rare_is_found_by_an_index_in_the_order_of_the_ids(
    database: Database,
) -> None:
    primary = "sqlite_autoindex_inference_results" if database.is_sqlite else "pk_inference_results"
    for wanted, index in INDEXES:
        plan = await explained(database, wanted, id_at(BEGINNING + timedelta(hours=2)))

        assert index.replace("primary key", primary) in plan, plan
        assert "Seq Scan on inference_results" not in plan, plan
        assert "SCAN" not in plan, plan


async def explained(database: Database, wanted: ResultFilter, after: UUID) -> str:
    """The plans of the statements that read a page behind a cursor."""
    async with database.reading() as session:
        connection = await session.connection()
        statements: list[tuple[str, Any]] = []

        def keep(_: Any, __: Any, statement: str, parameters: Any, *rest: Any) -> None:
            del rest
            if "FROM inference_results" in statement:
                statements.append((statement, parameters))

        event.listen(connection.sync_connection, "before_cursor_execute", keep)
        await ResultPages(session, wanted).after(after, 20)
        how = "EXPLAIN QUERY PLAN" if database.is_sqlite else "EXPLAIN"
        plans = [
            await connection.exec_driver_sql(f"{how} {statement}", parameters)
            for statement, parameters in list(statements)
        ]
        return "\n".join(str(row[-1]) for rows in plans for row in rows)


async def test_a_far_page_by_cursor_costs_what_the_first_costs(
    database: Database, crowded: list[UUID]
) -> None:
    """Ten times as much would be a scan; the difference between these is noise."""

    async def best_of(cursor: UUID) -> float:
        times = []
        for _ in range(5):
            started = time.perf_counter()
            await read(database, ANYTHING, "after", cursor, 20)
            times.append(time.perf_counter() - started)
        return min(times)

    near, far = await best_of(crowded[10]), await best_of(crowded[9_900])

    assert far < 5 * near
