"""Lists of results: one's own and no other's, by filter, by page and by cursor, always recorded."""

from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import parse_qs, urlsplit
from uuid import UUID, uuid4

import pytest

from deployments.api.result_list import ResultPage
from registry.contract import Outcome, Upload, Verdict
from registry.errors import AuditUnavailable, UndecodableImage
from registry.events import AuditAction
from tests.api.house import INFER, JPEG, House
from tests.api.scripted import facts, predicted, refused

IMAGE = b"\xff\xd8\xff"


async def infer(house: House, count: int = 1, username: str = "clara") -> list[str]:
    """The ids of so many new results, the newest first."""
    client = house.client(username)
    answers = [await client.post(INFER, content=IMAGE, headers=JPEG) for _ in range(count)]
    return [answer.json()["result_id"] for answer in reversed(answers)]


async def listed(house: House, query: str = "", username: str = "clara") -> dict[str, Any]:
    response = await house.client(username).get(f"/results{query}")
    assert response.status_code == 200, response.text
    ResultPage.model_validate(response.json())
    document: dict[str, Any] = response.json()
    return document


def ids(document: dict[str, Any]) -> list[str]:
    return [item["result_id"] for item in document["items"]]


async def test_a_user_sees_their_own_the_newest_first(house: House) -> None:
    await infer(house, 1, "carl")
    own = await infer(house, 3)

    document = await listed(house)

    assert ids(document) == own
    assert (document["page"], document["size"], document["total"]) == (1, 20, 3)
    assert ids(await listed(house, username="vera")) == []


async def test_an_administrator_sees_all_and_may_ask_for_one_user_s(house: House) -> None:
    foreign = await infer(house, 1, "carl")
    own = await infer(house, 2)

    assert ids(await listed(house, username="ada")) == own + foreign
    query = f"?created_by={house.users['carl']}"
    assert ids(await listed(house, query, "ada")) == foreign


async def test_nobody_else_may_ask_for_another_user_s(house: House) -> None:
    client = house.client("clara")

    foreign = await client.get(f"/results?created_by={house.users['carl']}")
    own = await client.get(f"/results?created_by={house.users['clara']}")

    assert (foreign.status_code, own.status_code) == (403, 200)
    (denied,) = await house.entries(AuditAction.ACCESS_DENIED)
    assert denied["context"]["permission"] == "results.read-all"


async def test_what_a_list_shows_is_what_was_answered(house: House) -> None:
    answered = (await house.client("clara").post(INFER, content=IMAGE, headers=JPEG)).json()

    (item,) = (await listed(house))["items"]

    common = item.keys() & answered.keys() - {"created_at"}
    assert {name: item[name] for name in common} == {name: answered[name] for name in common}
    assert len(common) >= 9
    assert (item["created_by"], item["error_code"]) == (str(house.users["clara"]), None)


async def test_links_lead_through_the_whole_list_and_back(house: House) -> None:
    expected = await infer(house, 7)
    client = house.client("clara")

    pages, link, last = [], "/results?size=3", ""
    while link:
        document = (await client.get(link)).json()
        ResultPage.model_validate(document)
        pages.append(ids(document))
        last, link = link, document["links"]["next"]
    back = (await client.get((await client.get(last)).json()["links"]["prev"])).json()

    assert pages == [expected[:3], expected[3:6], expected[6:]]
    assert ids(back) == expected[3:6]
    assert ids((await client.get(back["links"]["prev"])).json()) == expected[:3]
    assert ids((await client.get(back["links"]["next"])).json()) == expected[6:]
    assert ids((await client.get(back["links"]["first"])).json()) == expected[:3]


async def test_pages_have_numbers_too(house: House) -> None:
    expected = await infer(house, 5)

    second = await listed(house, "?page=2&size=2")
    third = await listed(house, "?page=3&size=2")
    beyond = await listed(house, "?page=9&size=2")

    assert ids(second) == expected[2:4]
    assert second["links"]["prev"] == "/results?page=1&size=2"
    assert second["links"]["last"] == "/results?page=3&size=2"
    assert ids(third) == expected[4:]
    assert third["links"]["next"] is None
    assert (ids(beyond), beyond["total"]) == ([], 5)
    assert beyond["links"]["prev"] == "/results?page=3&size=2"


async def test_at_the_ends_there_is_nothing_to_follow(house: House) -> None:
    (newest, oldest) = await infer(house, 2)

    before = await listed(house, f"?before={oldest}")
    nothing = await listed(house, f"?after={oldest}")

    assert ids(before) == [newest]
    assert before["links"]["prev"] is None
    assert (nothing["items"], nothing["links"]["next"]) == ([], None)
    assert (nothing["page"], nothing["total"]) == (None, None)


async def test_filters_are_by_outcome_model_and_review(house: House) -> None:
    good = await infer(house)
    house.screening.verdict = refused(UndecodableImage("cut short"))
    bad = await infer(house)

    for query, expected in (
        ("outcome=rejected", bad),
        ("status=rejected", bad),
        ("outcome=predicted", good),
        ("needs_review=true", good),
        ("needs_review=false", bad),
        ("model_id=cxr-pneumonia", bad + good),
        ("model_id=body-part", []),
        ("model_id=cxr-pneumonia&model_version=1.0.0", bad + good),
        ("model_version=0.9.0", []),
        (f"model_id={uuid4()}", []),
    ):
        assert ids(await listed(house, f"?{query}")) == expected, query


async def test_filters_are_by_time(house: House) -> None:
    made = await infer(house)
    now = datetime.now(UTC)

    def query(**times: datetime) -> dict[str, str]:
        return {name: moment.isoformat() for name, moment in times.items()}

    client = house.client("clara")
    for given, expected in (
        (query(**{"from": now - timedelta(hours=5)}), made),
        (query(to=now + timedelta(seconds=1)), made),
        (query(to=now - timedelta(hours=5)), []),
        (query(**{"from": now + timedelta(seconds=1)}), []),
    ):
        assert ids((await client.get("/results", params=given)).json()) == expected, given


async def test_a_patient_is_found_by_id_and_by_pseudonym_and_never_repeated(house: House) -> None:
    client = house.client("clara")
    files = {"file": ("a", IMAGE, "image/jpeg")}
    for _ in range(2):
        await client.post(INFER, files=files, data={"patient_id": "DOE-4711"})
    await infer(house)

    by_id = await client.get("/results?size=1&patient=doe-4711%20")
    pseudonym = by_id.json()["items"][0]["patient"]
    by_pseudonym = await client.get("/results", params={"patient": pseudonym})

    assert (by_id.json()["total"], by_pseudonym.json()["total"]) == (2, 2)
    assert "4711" not in by_id.text
    following = parse_qs(urlsplit(by_id.json()["links"]["next"]).query)
    assert following["patient"] == [pseudonym]
    assert len((await client.get(by_id.json()["links"]["next"])).json()["items"]) == 1


async def test_nothing_of_a_patient_is_in_the_log(house: House, lines: Any) -> None:
    await house.client("clara").get("/results?patient=DOE-4711")

    entries = await house.entries(*AuditAction)
    assert "4711" not in str(lines())
    assert "4711" not in str(entries)
    assert "p1:" not in str([entry["context"] for entry in entries])


async def test_links_keep_the_filters(house: House) -> None:
    await infer(house, 2)
    query = (
        "?size=1&outcome=predicted&needs_review=true&model_id=cxr-pneumonia&model_version=1.0.0"
        "&from=2020-01-01T00:00:00Z&to=2099-01-01T00:00:00%2B02:00"
        f"&created_by={house.users['clara']}"
    )

    document = await listed(house, query)

    following = parse_qs(urlsplit(document["links"]["next"]).query)
    assert following.pop("after") == [document["items"][0]["result_id"]]
    assert following == {
        "size": ["1"],
        "outcome": ["predicted"],
        "needs_review": ["true"],
        "model_id": ["cxr-pneumonia"],
        "model_version": ["1.0.0"],
        "from": ["2020-01-01T00:00:00+00:00"],
        "to": ["2099-01-01T00:00:00+02:00"],
        "created_by": [str(house.users["clara"])],
    }
    assert len(ids(await listed(house, document["links"]["next"].removeprefix("/results")))) == 1


async def test_every_list_is_recorded_before_it_is_answered(house: House) -> None:
    newest, oldest = await infer(house, 2)
    await listed(house, "?outcome=predicted")
    await listed(house, "?patient=4711", "ada")

    own, all_ = await house.entries(AuditAction.RESULTS_LISTED)
    assert own["context"] == {
        "filters": ["outcome"],
        "all": False,
        "count": 2,
        "newest": newest,
        "oldest": oldest,
    }
    assert (all_["context"]["all"], all_["context"]["filters"]) == (True, ["patient"])
    assert (all_["context"]["count"], all_["context"]["newest"]) == (0, None)

    house.trail.refuse = AuditUnavailable("away")
    response = await house.client("clara").get("/results")
    assert response.status_code == 503
    assert newest not in response.text


@pytest.mark.parametrize(
    ("query", "rule"),
    [
        ("page=0", "query.page"),
        ("size=101", "query.size"),
        ("outcome=good", "query.outcome"),
        ("outcome=failed&status=failed", "query.outcome"),
        (f"page=1&after={UUID(int=1)}", "query.page"),
        (f"before={UUID(int=1)}&after={UUID(int=1)}", "query.after"),
        ("after=DOE", "query.after"),
        ("from=2026-01-01T00:00:00", "query.from"),
        ("patient=%20", "query.patient"),
        ("patient=a%00b", "query.patient"),
        (f"patient={'x' * 65}", "query.patient"),
        ("patient_id=4711", "query"),
        ("page=1&page=2", "query"),
        ("model_id=", "query.model_id"),
    ],
)
async def test_a_query_that_is_not_one_is_422_and_not_repeated(
    house: House, query: str, rule: str
) -> None:
    response = await house.client("clara").get(f"/results?{query}")

    assert response.status_code == 422
    assert rule in [violation["rule"] for violation in response.json()["violations"]]
    assert "DOE" not in response.text
    assert "4711" not in response.text


async def test_an_abstained_answer_has_no_label_in_a_list(house: House) -> None:
    def abstained(upload: Upload) -> Verdict:
        return Verdict(Outcome.ABSTAINED, facts(upload), scores=predicted(upload).scores)

    house.screening.verdict = abstained
    await infer(house)

    (item,) = (await listed(house))["items"]

    assert (item["outcome"], item["prediction"], item["reasons"]) == ("abstained", None, [])
