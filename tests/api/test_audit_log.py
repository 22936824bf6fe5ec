"""The audit log for administrators: pages, and an export that verifies elsewhere."""

import json
from typing import Any

import pytest

from deployments.api.audit_log import EntryPage
from registry.errors import AuditUnavailable
from registry.events import AuditAction
from storage import export
from tests.api.house import INFER, JPEG, House

IMAGE = b"\xff\xd8\xff"


async def read(house: House, query: str = "") -> dict[str, Any]:
    response = await house.client("ada").get(f"/admin/audit{query}")
    assert response.status_code == 200, response.text
    EntryPage.model_validate(response.json())
    document: dict[str, Any] = response.json()
    return document


def seqs(document: dict[str, Any]) -> list[int]:
    return [item["seq"] for item in document["items"]]


async def infer(house: House, count: int = 1) -> None:
    for _ in range(count):
        await house.client("clara").post(INFER, content=IMAGE, headers=JPEG)


async def test_entries_are_shown_whole_the_newest_first(house: House) -> None:
    await infer(house)

    document = await read(house)

    assert seqs(document) == list(range(document["total"], 0, -1))[: document["size"]]
    entry = document["items"][0]
    assert (entry["action"], entry["outcome"]) == ("inference", "success")
    assert entry["user_id"] == str(house.users["clara"])
    assert entry["payload"]["result"]["id"] == entry["result_id"]
    assert entry["previous_hash"] == document["items"][1]["entry_hash"]


async def test_links_lead_through_the_whole_log(house: House) -> None:
    await infer(house, 3)
    client = house.client("ada")
    head = (await read(house, "?size=1"))["items"][0]["seq"]

    pages, link = [], f"/admin/audit?size=4&to_seq={head}"
    while link:
        document = (await client.get(link)).json()
        EntryPage.model_validate(document)
        pages.append(seqs(document))
        link = document["links"]["next"]

    assert [seq for page in pages for seq in page] == list(range(head, 0, -1))
    assert {len(page) for page in pages[:-1]} == {4}


async def test_pages_have_numbers_too(house: House) -> None:
    head = (await read(house, "?size=1"))["items"][0]["seq"]

    second = await read(house, f"?page=2&size=3&to_seq={head}")

    assert seqs(second) == [head - 3, head - 4, head - 5]
    assert second["total"] == head
    assert second["links"]["prev"] == f"/admin/audit?to_seq={head}&page=1&size=3"


async def test_filters_are_by_action_outcome_user_number_and_time(house: House) -> None:
    await infer(house, 2)
    await house.client("vera").post(INFER, content=IMAGE, headers=JPEG)  # denied
    everything = (await read(house, "?size=100"))["items"]
    clara = str(house.users["clara"])
    at = everything[1]["recorded_at"]

    for query, holds in (
        ("action=inference", lambda one: one["action"] == "inference"),
        ("outcome=denied", lambda one: one["outcome"] == "denied"),
        (f"user={clara}", lambda one: one["user_id"] == clara),
        (f"user={clara}&action=login.ok", lambda _: False),
        ("from_seq=3&to_seq=5", lambda one: 3 <= one["seq"] <= 5),
        (f"from={at}&to_seq={everything[0]['seq']}", lambda one: one["recorded_at"] >= at),
        (f"to={at}", lambda one: one["recorded_at"] < at),
    ):
        found = await read(house, f"?size=100&{query}")
        expected = [one["seq"] for one in everything if holds(one)]
        assert (seqs(found), found["total"]) == (expected, len(expected)), query


async def test_reading_the_log_is_in_the_log_before_it_is_answered(house: House) -> None:
    shown = await read(house, "?size=2&outcome=success")

    (entry,) = await house.entries(AuditAction.AUDIT_READ)
    assert entry["actor"]["id"] == str(house.users["ada"])
    newest, oldest = seqs(shown)
    assert entry["context"] == {"filters": ["outcome"], "newest": newest, "oldest": oldest}

    house.trail.refuse = AuditUnavailable("away")
    for path in ("/admin/audit", "/admin/audit/export"):
        response = await house.client("ada").get(path)
        assert response.status_code == 503
        assert "entry_hash" not in response.text


@pytest.mark.parametrize("username", ["clara", "vera"])
@pytest.mark.parametrize("path", ["/admin/audit", "/admin/audit/export"])
async def test_the_log_is_for_administrators(house: House, username: str, path: str) -> None:
    assert (await house.client(username).get(path)).status_code == 403


@pytest.mark.parametrize(
    "query",
    ["size=101", "page=0", "action=none", "after=0", "page=1&after=3", "who=4711", "user=DOE"],
)
async def test_a_query_that_is_not_one_is_422_and_not_repeated(house: House, query: str) -> None:
    response = await house.client("ada").get(f"/admin/audit?{query}")

    assert response.status_code == 422
    assert "DOE" not in response.text
    assert "4711" not in response.text


async def test_the_export_is_the_whole_log_with_its_own_entry(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(export, "PAGE", 3)
    await infer(house, 2)

    response = await house.client("ada").get("/admin/audit/export")

    assert response.headers["content-type"] == "application/x-ndjson"
    assert "attachment" in response.headers["content-disposition"]
    header, *lines = [json.loads(line) for line in response.text.splitlines()]
    payloads = [line["payload"] for line in lines if "payload" in line]
    assert [payload["seq"] for payload in payloads] == list(range(1, header["size"] + 1))
    assert payloads[-1]["action"] == "audit.exported"
    assert payloads[-1]["context"] == {"after": 0, "records": True}
    assert sum("record" in line for line in lines) == 2


async def test_the_export_can_go_on_from_where_the_reader_is(house: House) -> None:
    response = await house.client("ada").get("/admin/audit/export?after=4&records=false")

    header, *lines = [json.loads(line) for line in response.text.splitlines()]
    assert (header["after"], header["records"]) == (4, False)
    assert lines[0]["payload"]["seq"] == 5


async def test_an_export_is_sent_in_pieces(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    """A piece a page: what is held at once does not grow with the log."""
    monkeypatch.setattr(export, "PAGE", 2)
    pieces: list[bytes] = []

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Any) -> None:
        if message["type"] == "http.response.body" and message["body"]:
            pieces.append(message["body"])

    bearer = (b"authorization", b"Bearer " + house.token("ada").encode())
    scope = {
        "type": "http",
        "method": "GET",
        "path": "/admin/audit/export",
        "query_string": b"",
        "headers": [bearer],
        "client": ("127.0.0.1", 1),
        "asgi": {"spec_version": "2.4"},
    }
    await house.app(scope, receive, send)

    assert max(piece.count(b"\n") for piece in pieces) <= 4
    assert len(pieces) >= 4
