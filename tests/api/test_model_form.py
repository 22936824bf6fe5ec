"""The form of a model is received within its limits: of size, of time and of memory."""

import hashlib
import os
import time
import tracemalloc
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from configs.settings import LimitSettings
from deployments.api import model_upload
from deployments.api.guard import GuardedRoute
from deployments.api.model_form import MAX_CARD_BYTES, receive_model
from deployments.api.uploads import FORM_OVERHEAD
from tests.api.house import House
from tests.api.model_forms import FORM, ROUTE, form, left, part, rules

BOUNDARY = b"frontier"


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        (part("card", b"x") + b"--frontier--\r\n", 422, "validation-failed"),
        (part("model", b"x") + b"--frontier--", 422, "validation-failed"),
        (part("card", b"") + part("model", b"x") + b"--frontier--", 422, "validation-failed"),
        (b"--frontier--", 422, "validation-failed"),
        (part("card", b"x") + part("card", b"x"), 422, "validation-failed"),
        (part("card", b"x") + part("other", b"x"), 422, "validation-failed"),
        (part("card", b"x") + part("model", b"x"), 400, "malformed-multipart"),
        (part("card", b"x") + part("model", b"x") + b"--fron", 400, "malformed-multipart"),
        (b"preamble" + part("card", b"x"), 400, "malformed-multipart"),
        (part("card", b"x" * (MAX_CARD_BYTES + 1)), 413, "payload-too-large"),
        (b"", 400, "malformed-multipart"),
    ],
)
async def test_a_form_that_is_not_whole_is_refused(
    house: House, body: bytes, status: int, code: str
) -> None:
    answer = await house.client("ada").post(ROUTE, content=body, headers=FORM)

    assert answer.status_code == status, answer.text
    assert answer.json()["type"].endswith(f"/{code}")
    assert left(house) == []
    again = await house.client("ada").post(ROUTE, content=body, headers=FORM)
    assert again.status_code == status  # the turn was given back


@pytest.mark.parametrize(
    "headers",
    [
        {"Content-Type": "application/json"},
        {"Content-Type": "multipart/form-data"},
        {**FORM, "Content-Encoding": "gzip"},
    ],
)
async def test_a_body_of_another_kind_is_refused(house: House, headers: dict[str, str]) -> None:
    answer = await house.client("ada").post(ROUTE, content=b"{}", headers=headers)

    assert answer.status_code in {400, 415}
    assert left(house) == []


async def test_this_route_alone_takes_a_body_as_large_as_a_model(
    build: Callable[..., Any],
) -> None:
    house: House = await build(limits=LimitSettings(max_model_bytes=1_000_000))
    limit = 1_000_000 + MAX_CARD_BYTES + FORM_OVERHEAD
    largest = {
        route.path: (route.access.max_body_bytes, route.access.body_timeout_s)
        for route in house.app.routes
        if isinstance(route, GuardedRoute) and "POST" in (route.methods or ())
    }
    length = [
        (b"content-length", b"%d" % (limit + 1)),
        (b"content-type", FORM["Content-Type"].encode()),
    ]

    status, _, _ = await house.raw("POST", ROUTE, headers=length, username="ada", silent=True)
    too_large = await house.client("ada").post(ROUTE, files=form(b"name: x", b"m" * 1_000_001))
    elsewhere = await house.client("ada").post(f"{ROUTE}/tiny/halt", json={"reason": "x" * 100_000})

    assert largest.pop(ROUTE) == (limit, model_upload.RECEIVE_WITHIN_S)
    images = {path: size for path, (size, _) in largest.items() if path.startswith("/infer")}
    others = {path: size for path, (size, _) in largest.items() if path not in images}
    assert max(others.values()) <= 64 * 1024
    assert len(images) == 2
    assert {timeout for _, timeout in largest.values()} == {None}
    assert status == 413  # before a byte of it was read
    assert (too_large.status_code, rules(too_large)) == (413, ["model"])
    assert elsewhere.status_code == 413


async def test_a_body_that_comes_too_slowly_is_given_up_by_this_routes_own_limit(
    build: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(model_upload, "RECEIVE_WITHIN_S", 0.4)
    house: House = await build(limits=LimitSettings(body_timeout_s=0.1))
    head = [(b"content-type", FORM["Content-Type"].encode())]
    begun = [{"type": "http.request", "body": part("card", b"x"), "more_body": True}]
    started = time.monotonic()

    status, _, body = await house.raw(
        "POST", ROUTE, begun, headers=head, username="ada", silent=True
    )

    assert status == 408
    assert b"within 0.4 s" in body
    assert time.monotonic() - started < 3
    assert left(house) == []


async def test_a_model_is_never_in_memory_as_a_whole(tmp_path: Path) -> None:
    sent, count = hashlib.sha256(), 320  # 20 MiB

    async def stream() -> AsyncIterator[bytes]:
        yield part("card", b"a card") + part("model", b"")[:-2]
        for _ in range(count):
            piece = os.urandom(2**16)  # each its own, else to keep them all would cost nothing
            sent.update(piece)
            yield piece
        yield b"\r\n--frontier--\r\n"

    card, model = tmp_path / "card", tmp_path / "model"
    tracemalloc.start()
    await receive_model(stream(), BOUNDARY, card=card, model=model, max_model_bytes=2**30)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()

    assert hashlib.sha256(model.read_bytes()).digest() == sent.digest()
    assert card.read_bytes() == b"a card"
    assert peak < 4 * 2**20
