"""Bombs end in a refusal, and the guard works on."""

import asyncio
import time
from collections.abc import Callable

import pytest

from deployments.inference.guard import Guard
from deployments.inference.prepare import Prepared
from deployments.inference.signature import signature
from registry.errors import (
    ImageTooLarge,
    MedAIError,
    Rejected,
    UndecodableImage,
    UnsupportedMediaType,
)
from tests.inference import bombs
from tests.inference.files import LIMITS, dicom_file
from tests.inference.guards import work

BOMBS: dict[str, tuple[Callable[[], bytes], type[MedAIError]]] = {
    "pixel flood, 50,000 a side": (lambda: bombs.pixel_flood(50_000), ImageTooLarge),
    "pixel flood, 12,000 a side": (lambda: bombs.pixel_flood(12_000), ImageTooLarge),
    "text flood": (bombs.text_flood, UndecodableImage),
    "deflated data set": (bombs.deflate_bomb, UnsupportedMediaType),
    "RLE panic": (bombs.rle_panic, UndecodableImage),
    "RLE that claims 8 GiB": (bombs.rle_lie, ImageTooLarge),
    "size lie": (bombs.size_lie, ImageTooLarge),
}
HARMLESS: dict[str, Callable[[], bytes]] = {
    "sequences 200 deep": lambda: bombs.nested_sequences(200),
    "sequences 5000 deep": lambda: bombs.nested_sequences(5000),
    "600,000 elements": lambda: bombs.element_flood(600_000),
    "two million comments": bombs.segment_flood,
    "30,000 scans": lambda: bombs.scan_flood(30_000),
}


@pytest.mark.parametrize("name", sorted(BOMBS))
async def test_a_bomb_is_refused_by_name_and_soon(name: str, guard: Guard) -> None:
    build, expected = BOMBS[name]
    body = build()
    assert len(body) < 2_000_000

    started = time.monotonic()
    with pytest.raises(expected) as refusal:
        await guard.prepare(work(body))

    assert type(refusal.value) is expected
    assert time.monotonic() - started < 10
    assert (await guard.prepare(work(dicom_file("MR_small.dcm")))).facts.modality == "MR"


@pytest.mark.parametrize("name", sorted(HARMLESS))
async def test_what_is_only_slow_or_deep_ends_in_time_either_way(name: str) -> None:
    body = HARMLESS[name]()
    assert signature(body).heavy
    guard = Guard(LIMITS, wall_s=3)
    try:
        await guard.prepare(work(dicom_file("MR_small.dcm")))

        started = time.monotonic()
        (end,) = await asyncio.gather(guard.prepare(work(body)), return_exceptions=True)

        assert isinstance(end, (Prepared, Rejected))
        assert time.monotonic() - started < 5
        assert (await guard.prepare(work(dicom_file("MR_small.dcm")))).facts.modality == "MR"
    finally:
        guard.close()
