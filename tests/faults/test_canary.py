"""Whatever a request says of a patient is nowhere afterwards: some hundred requests in process.

The long run sends 10,000 through a real Ray Serve and searches its files as well.
"""

import base64
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from uuid_utils.compat import uuid7

from registry.contract import Role
from registry.events import AuditAction, NewUser
from tests.api.house import House
from tests.faults.canary import BORN_TEXTS, MARKS, NAME, NUMBER, Hit, Patient, Searcher
from tests.faults.canary_requests import MAKERS, canary_request
from tests.faults.canary_run import answer_hits, sent_marks

SEARCHER = Searcher()
REQUESTS = 2 * len(MAKERS)
USERS = {"clinician": "clara", "admin": "ada", None: None}


async def send(house: House, first: int) -> tuple[Counter[int], list[Hit]]:
    """Every kind of request twice; gives the statuses and what was found in the answers."""
    clients = {user: house.client(name) for user, name in USERS.items()}
    statuses: Counter[int] = Counter()
    hits: list[Hit] = []
    for number in range(first, first + REQUESTS):
        wanted = canary_request(Patient(number))
        client = clients[wanted.user]
        request = client.build_request(wanted.method, wanted.path, **wanted.options)
        assert sent_marks(SEARCHER, request), f"the search is blind for number {number}"
        response = await client.send(request)
        statuses[response.status_code] += 1
        hits += answer_hits(SEARCHER, wanted, response)
    return statuses, hits


@pytest.mark.slow
async def test_no_patient_is_in_an_answer_a_log_line_or_a_table(
    house_at: Callable[..., House], url: str, lines: Callable[[], str], tmp_path: Path
) -> None:
    house = await house_at(url)  # type: ignore[misc]  # a coroutine function

    statuses, hits = await send(house, first=200)

    written = lines()
    hits += SEARCHER.find("log", written.encode())
    rows, in_tables = await SEARCHER.find_in_tables(house.database)
    _, in_files = SEARCHER.find_in_files(tmp_path)
    assert [*hits, *in_tables, *in_files] == []
    assert statuses[200] >= 16
    assert not [status for status in statuses if status >= 500]
    assert written.count('"event":"request"') == REQUESTS
    assert "dropped_keys" not in written
    assert rows > 100


async def test_the_search_finds_what_is_in_a_table_and_in_a_file(
    house_at: Callable[..., House], url: str, tmp_path: Path
) -> None:
    house = await house_at(url)  # type: ignore[misc]  # a coroutine function
    planted = NewUser(
        uuid7(), NAME.lower(), Role.VIEWER, "$argon2id$x", email=f"{NUMBER}@x.example"
    )
    await house.record(AuditAction.USER_CREATED, planted)
    (tmp_path / "ray").mkdir()
    (tmp_path / "ray" / "worker.log").write_bytes(f"frame of {Patient(1).plain}".encode("utf-16"))

    _, in_tables = await SEARCHER.find_in_tables(house.database)
    _, in_files = SEARCHER.find_in_files(tmp_path / "ray")

    assert {hit.place for hit in in_tables} == {"table users", "table audit_logs"}
    assert [hit.place for hit in in_files] == [str(tmp_path / "ray" / "worker.log")]


@pytest.mark.parametrize("mark", MARKS)
@pytest.mark.parametrize(
    "written",
    [
        str.encode,
        lambda mark: mark.upper().encode(),
        lambda mark: mark.encode("utf-16-be"),
        lambda mark: mark.encode("utf-16-le"),
        lambda mark: mark.encode().hex().upper().encode(),
        lambda mark: base64.b64encode(b"%s, 44" % mark.encode()),
        lambda mark: base64.b64encode(b"a%s, 44" % mark.encode()),
        lambda mark: base64.urlsafe_b64encode(b"ab%s, 44" % mark.encode()),
        lambda mark: base64.b64encode(mark.upper().encode("utf-16")),
    ],
    ids=["utf-8", "upper", "utf-16-be", "utf-16-le", "hex", "b64", "b64+1", "b64url+2", "b64-16"],
)
def test_a_mark_is_found_however_it_is_written(mark: str, written: Callable[[str], bytes]) -> None:
    content = b'{"a": "' + written(mark) + b'"}'

    assert list(SEARCHER.find("here", content))
    assert not list(SEARCHER.find("here", content[:6]))


def test_every_kind_of_request_names_a_patient() -> None:
    assert len(MAKERS) >= 40
    assert set(BORN_TEXTS) < set(MARKS)
