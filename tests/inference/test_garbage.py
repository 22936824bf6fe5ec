"""A replica's garbage collector leaves alone what stays, and no image waits for it to come."""

import asyncio
import gc
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from deployments.inference.host import ModelHost
from deployments.inference.predictor import Predictor
from registry.contract import Upload
from registry.errors import ModelHalted
from tests.inference.files import FILM, dicom_file, film_jpeg
from tests.inference.models import InProcess
from tests.inference.predictors import build, one, upload

# In a process of its own: the collector belongs to the whole process.
PROGRAM = """
import gc, weakref
from deployments import garbage

class Ring:
    pass

kept = [Ring() for _ in range(1000)]
garbage.settle()
frozen = gc.get_freeze_count()
ring = Ring()
ring.itself = ring
gone = weakref.ref(ring)
del ring
lists = [[] for _ in range(garbage.THRESHOLDS[0] + 1)]
print(frozen > 1000, gone() is None)
"""


def test_what_was_built_is_left_alone_and_a_cycle_is_still_found() -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True
    )

    assert done.stdout.split() == ["True", "True"]


def uploads() -> int:
    return sum(type(each) is Upload for each in gc.get_objects())


@pytest.fixture
def others() -> Iterator[int]:
    """The collector never comes. Gives how many uploads other tests hold."""
    gc.collect()
    gc.disable()
    yield uploads()
    gc.enable()


async def come_down_to(others: int) -> bool:
    """A thread lets go of its work a moment after its result is heard."""
    for _ in range(200):
        if uploads() == others:
            return True
        await asyncio.sleep(0.01)
    return False


BODIES = {
    "answered": film_jpeg(),
    "cut short": film_jpeg()[:3000],
    "of an unknown kind": b"GIF89a",
    "in the guard": dicom_file(FILM)[:-4000],
}


@pytest.mark.parametrize("body", BODIES.values(), ids=BODIES)
async def test_no_image_is_kept_once_there_is_a_verdict(
    predictor: Predictor, others: int, body: bytes
) -> None:
    await one(predictor, upload(body))

    for _ in range(5):
        await predictor.screen([upload(body), upload(body)])

    assert await come_down_to(others)


async def test_nor_where_the_model_failed(
    hosts: dict[str, ModelHost], key_file: Path, others: int
) -> None:
    predictor = build(InProcess(hosts, {"cxr-pneumonia": ModelHalted("stopped")}), key_file)

    for _ in range(5):
        await one(predictor, upload(film_jpeg()))

    assert await come_down_to(others)
    await predictor.close()
