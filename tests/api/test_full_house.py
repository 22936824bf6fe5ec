"""How much a gateway takes on: refused at once beyond that, and let go of once it is answered."""

import asyncio
import gc
from collections.abc import Callable
from typing import Any

import pytest
from starlette.requests import Request

from configs.settings import LimitSettings
from deployments.api.exchange import SCOPE_KEY, Exchange
from deployments.api.uploads import BODIES_HELD, Uploads
from deployments.inference.pseudonym import Pseudonyms
from registry.contract import Outcome, Upload, Verdict
from registry.errors import ModelUnavailable, Overloaded
from tests.api.house import INFER, JPEG
from tests.api.scripted import facts

IMAGE = b"\xff\xd8\xff the rest of a JPEG"


async def test_a_full_house_says_so_and_when_to_come_again(build: Callable[..., Any]) -> None:
    entered, release = asyncio.Event(), asyncio.Event()

    class Held:
        async def screen(self, upload: Upload) -> Verdict:
            entered.set()
            await release.wait()
            return Verdict(Outcome.ABSTAINED, facts(upload))

    limits = LimitSettings(max_in_progress=1, retry_after_s=7)
    house = await build(screening=Held(), limits=limits)
    client = house.client("clara")
    first = asyncio.ensure_future(client.post(INFER, content=IMAGE, headers=JPEG))
    await entered.wait()

    second = await client.post(INFER, content=IMAGE, headers=JPEG)

    release.set()
    assert (await first).status_code == 200
    assert second.status_code == 503
    assert second.json()["type"].endswith("/overloaded")
    assert second.headers["retry-after"] == "7"


async def test_a_full_house_looks_at_nothing_of_an_image(build: Callable[..., Any]) -> None:
    house = await build(limits=LimitSettings(max_in_progress=1))
    unknown = {"Content-Type": "text/plain"}

    with house.services.inference.admission.of(1):
        full = await house.client("clara").post(INFER, content=IMAGE, headers=unknown)
        viewer = await house.client("vera").post(INFER, content=IMAGE, headers=unknown)
    free = await house.client("clara").post(INFER, content=IMAGE, headers=unknown)

    assert (full.status_code, full.headers["retry-after"]) == (503, "1")
    assert viewer.status_code == 403
    assert free.status_code == 415


def an_upload(content_length: int | None) -> Request:
    exchange = Exchange("0-0")
    exchange.content_length = content_length
    return Request({"type": "http", "headers": [], SCOPE_KEY: exchange})


def test_the_images_being_held_have_a_bound_together() -> None:
    uploads = Uploads(Pseudonyms(b"k" * 32, version=1), LimitSettings(max_body_bytes=1024))
    largest = an_upload(None)  # a chunked body declares no size, and may be the largest
    held = [uploads.held(largest) for _ in range(BODIES_HELD)]
    for room in held:
        room.__enter__()

    with pytest.raises(Overloaded), uploads.held(an_upload(1)):
        pass

    held[0].__exit__(None, None, None)
    with uploads.held(an_upload(10**12)), pytest.raises(Overloaded), uploads.held(an_upload(1)):
        pass


async def test_no_image_is_kept_where_there_is_no_answer(build: Callable[..., Any]) -> None:
    class Broken:
        async def screen(self, upload: Upload) -> Verdict:
            raise ModelUnavailable(f"no replica answered {upload.media_type}")

    house = await build(screening=Broken())
    client = house.client("clara")
    gc.collect()
    before = sum(type(each) is Upload for each in gc.get_objects())
    gc.disable()
    try:
        for _ in range(5):
            assert (await client.post(INFER, content=IMAGE, headers=JPEG)).status_code == 503
        after = sum(type(each) is Upload for each in gc.get_objects())
    finally:
        gc.enable()

    assert after == before  # also those of other tests
