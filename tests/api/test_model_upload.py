"""A model that comes over HTTP: what is right is registered as on the host, and nothing else is."""

import asyncio
import os
import time
from collections.abc import AsyncIterator, Callable

import pytest

from deployments.api import model_upload
from registry.errors import AuditUnavailable
from registry.events import AuditAction
from tests.api.house import House
from tests.api.model_forms import FORM, ROUTE, Upload, form, left, part, rules, upload
from tests.inference.models import graph
from tests.inference.test_onnx import endless

REGISTRATIONS = (AuditAction.MODEL_REGISTERED, AuditAction.MODEL_VALIDATED)


async def until(holds: Callable[[], bool]) -> None:
    """Return once it holds."""
    async with asyncio.timeout(60):
        while not holds():  # noqa: ASYNC110  # what lies on the disk tells nobody
            await asyncio.sleep(0.02)


async def test_a_model_is_examined_stored_and_recorded_as_its_senders(house: House) -> None:
    ada = house.client("ada")

    padded = graph()
    padded.doc_string = "x" * 200_000  # more than other routes take

    answer = await ada.post(ROUTE, files=upload(padded))

    assert answer.status_code == 201, answer.text
    document = answer.json()
    assert (document["name"], document["version"]) == ("tiny", "1.0.0")
    assert document["status"] == "validated"
    assert answer.headers["location"] == f"/models/{document['id']}"
    assert (await ada.get(answer.headers["location"])).json() == document
    assert left(house) == [f"{document['sha256']}.onnx"]
    stored = house.services.model_dir / left(house)[0]
    assert stored.stat().st_mode & 0o777 == 0o400
    assert stored.read_bytes() == padded.SerializeToString()
    assert document["size_bytes"] == stored.stat().st_size > 200_000
    entries = await house.entries(*REGISTRATIONS)
    ours = [entry for entry in entries if entry["actor"]["id"] == str(house.users["ada"])]
    assert [entry["action"] for entry in ours] == [str(action) for action in REGISTRATIONS]
    assert {entry["request_id"] for entry in ours} == {answer.headers["medai-request-id"]}
    assert ours[1]["changes"][0]["by"] == f"user:{house.users['ada']}"


async def test_who_sent_it_can_neither_approve_it_nor_send_it_again(house: House) -> None:
    ada = house.client("ada")
    await ada.post(ROUTE, files=upload())

    approved = await ada.post("/admin/models/tiny/1.0.0/approve")
    again = await ada.post(ROUTE, files=upload())

    assert approved.status_code == again.status_code == 409
    assert approved.json()["type"].endswith("/illegal-transition")
    assert rules(again) == ["version"]


@pytest.mark.parametrize("username", ["clara", "vera"])
async def test_only_an_administrator_sends_models(house: House, username: str) -> None:
    answer = await house.client(username).post(ROUTE, files=upload())

    assert answer.status_code == 403
    assert left(house) == []


async def test_every_fault_of_a_card_is_named_and_its_text_is_not_repeated(house: House) -> None:
    files = upload(
        version="one", confidence_threshold=7, licence=None, patient_doe="DOE", limits=["x" * 20]
    )

    answer = await house.client("ada").post(ROUTE, files=files)

    assert answer.status_code == 422
    assert answer.json()["type"].endswith("/invalid-model")
    assert {"version", "confidence_threshold", "licence", "card"} <= set(rules(answer))
    assert "doe" not in answer.text.lower()


async def test_a_card_with_thousands_of_faults_is_answered_in_brief(house: House) -> None:
    answer = await house.client("ada").post(ROUTE, files=upload(limits=[1] * 2000))

    assert answer.status_code == 422
    assert len(rules(answer)) == model_upload.MAX_VIOLATIONS


@pytest.mark.parametrize(
    ("card", "detail"),
    [
        (b"name: [", "card.yaml is not YAML near line"),
        (b"\xff\xfe\x00", "card.yaml is not YAML"),
        (b"[" * 5000, "card.yaml is not YAML"),
        (b"- a list", "card.yaml has 1 fault"),
        (b"a: &a [1, 2]\nb: &b [*a, *a]\nc: [*b, *b]\n", "card.yaml has"),
    ],
)
async def test_a_card_that_is_none_is_refused(house: House, card: bytes, detail: str) -> None:
    answer = await house.client("ada").post(ROUTE, files=form(card, b"model"))

    assert answer.status_code == 422
    assert answer.json()["detail"].startswith(detail)


async def test_a_file_that_is_not_the_cards_is_refused(house: House) -> None:
    answer = await house.client("ada").post(ROUTE, files=upload(sha256="ab" * 32))

    assert answer.status_code == 422
    assert rules(answer) == ["sha256"]


@pytest.mark.parametrize(
    ("files", "code", "rule"),
    [
        (upload(graph(labels=3)), "invalid-model", "output"),
        (upload(endless()), "forbidden-operator", "operator"),
        (
            upload(golden={"seed": "g", "scores": {"DARK": 0.9, "BRIGHT": 0.1}, "tolerance": 0.01}),
            "invalid-model",
            "golden",
        ),
        (form(upload()["card"][1], b"no model"), "invalid-model", "sha256"),
    ],
    ids=["shape", "endless loop", "golden case", "other bytes"],
)
async def test_what_medai_models_check_refuses_is_refused(
    house: House, files: Upload, code: str, rule: str
) -> None:
    answer = await house.client("ada").post(ROUTE, files=files)

    assert answer.status_code == 422
    assert answer.json()["type"].endswith(f"/{code}"), answer.text
    assert any(rule in one for one in rules(answer)), answer.text
    assert left(house) == []


async def test_what_is_refused_has_an_entry_of_what_was_broken(house: House) -> None:
    await house.client("ada").post(ROUTE, files=upload(sha256="ab" * 32))

    (*_, entry) = await house.entries(AuditAction.MODEL_REGISTERED)
    assert entry["outcome"] == "denied"
    assert entry["context"] == {"code": "invalid-model", "broken": ["sha256"]}
    assert entry["actor"]["id"] == str(house.users["ada"])
    assert "changes" not in entry


async def test_one_model_at_a_time_and_the_next_hears_when_to_come_again(house: House) -> None:
    ada, whole = house.client("ada"), asyncio.Event()
    files = upload()
    body = part("card", files["card"][1]) + part("model", files["model"][1]) + b"--frontier--"

    async def slowly() -> AsyncIterator[bytes]:
        yield body[:100]
        await whole.wait()
        yield body[100:]

    first = asyncio.ensure_future(ada.post(ROUTE, content=slowly(), headers=FORM))
    await until(lambda: bool(left(house)))
    second = await ada.post(ROUTE, files=upload(version="2.0.0"))
    whole.set()

    assert (second.status_code, second.headers["retry-after"]) == (503, "10")
    assert (await first).status_code == 201


async def test_a_model_that_takes_too_long_is_given_up(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(model_upload, "EXAMINE_WITHIN_S", 0.2)  # a process takes as long to begin
    ada = house.client("ada")

    answers = [await ada.post(ROUTE, files=upload()) for _ in range(2)]

    for answer in answers:  # two: the turn was given back
        assert answer.status_code == 422
        (violation,) = answer.json()["violations"]
        assert (violation["rule"], violation["limit"]) == ("trial", "0.2 s and 4096 MiB")
    assert left(house) == []


async def test_nobody_waits_for_an_examination(house: House) -> None:
    ada = house.client("ada")
    begun = time.monotonic()
    asked = asyncio.ensure_future(ada.post(ROUTE, files=upload()))
    slowest = 0.0

    while not asked.done():
        started = time.monotonic()
        await asyncio.sleep(0.02)
        assert (await ada.get("/health/live")).status_code == 200
        slowest = max(slowest, time.monotonic() - started)

    assert (await asked).status_code == 201
    assert slowest < (time.monotonic() - begun) / 3  # else somebody has waited for most of it


async def test_what_came_whole_is_registered_also_where_its_sender_leaves(house: House) -> None:
    asked = asyncio.ensure_future(house.client("ada").post(ROUTE, files=upload()))
    await until(lambda: bool(left(house)))
    await asyncio.sleep(0.3)  # received: a trial takes longer

    asked.cancel()
    await asyncio.gather(asked, return_exceptions=True)

    ada = house.client("ada")
    await until(lambda: left(house)[0].endswith(".onnx"))
    listed = (await ada.get("/models?status=validated")).json()["items"]
    assert "tiny" in [item["name"] for item in listed]
    assert (await ada.post(ROUTE, files=form(b"[", b"x"))).status_code == 422  # not 503: its turn


async def test_who_leaves_before_the_end_leaves_nothing_behind(house: House) -> None:
    head = [(b"content-type", FORM["Content-Type"].encode())]
    begun = [{"type": "http.request", "body": part("card", b"x"), "more_body": True}]

    await house.raw("POST", ROUTE, begun, headers=head, username="ada")

    assert left(house) == []
    again, _, _ = await house.raw("POST", ROUTE, headers=head, username="ada")
    assert again == 0  # nobody is there; were the turn still taken, it would be answered 503


async def test_without_an_entry_nothing_is_registered(house: House) -> None:
    house.trail.refuse = AuditUnavailable("the log is away", retry_after_s=1)

    answer = await house.client("ada").post(ROUTE, files=upload())

    assert answer.status_code == 503
    listed = (await house.client("ada").get("/models")).json()["items"]
    assert "tiny" not in [item["name"] for item in listed]


async def test_a_disk_that_takes_nothing_is_told_without_a_path(house: House) -> None:
    house.services.model_dir.write_text("not a directory")

    answer = await house.client("ada").post(ROUTE, files=upload())

    assert answer.status_code == 500
    assert answer.json()["detail"] == "the model cannot be stored on this node: File exists"
    assert str(house.services.model_dir) not in answer.text


async def test_what_a_killed_gateway_left_is_cleared_and_what_is_being_received_is_not(
    house: House,
) -> None:
    directory = house.services.model_dir
    old, young = directory / ".upload-old", directory / ".upload-young"
    for path in (old, young):
        path.mkdir(parents=True)
        (path / "model.onnx").write_bytes(b"x")
    before = time.time() - model_upload.LEFT_BEHIND_S - 1
    os.utime(old, (before, before))

    await house.client("ada").post(ROUTE, files=form(b"[", b"x"))

    assert not old.exists()
    assert young.exists()
