"""The gateway's hop to the Validators: which images share a call, and which wait for which.

The replica at the other end is this process; what is tested is who is let through.
"""

import asyncio
from typing import Any
from uuid import UUID, uuid4

from configs.topology import HopTuning
from deployments.hops import HEAVY_CALLS, ValidatorHop
from registry.contract import ImageFacts, ModelRef, Outcome, Upload, Verdict
from tests.inference.files import dicom_file, film_jpeg
from tests.inference.ticks import until

MODEL = ModelRef(UUID(int=1), "cxr-pneumonia", "1.0.0", "a" * 64)
VERDICT = Verdict(Outcome.PREDICTED, ImageFacts("0" * 64, 1))
JPEG, SMALL, SLOW = film_jpeg(), dicom_file("MR_small.dcm"), dicom_file("RG1_J2KR.dcm")


class Validator:
    """A replica that holds some files until it is let. Has what of a Serve handle a hop uses."""

    deployment_name = "Validator"

    def __init__(self, held: bytes) -> None:
        self.calls: list[list[bytes]] = []
        self.may_end = asyncio.Event()
        self._held = held

    def options(self, **_: Any) -> "Validator":
        return self

    async def remote(self, uploads: list[Upload]) -> list[Verdict]:
        self.calls.append([upload.body for upload in uploads])
        if self._held in self.calls[-1]:
            await self.may_end.wait()
        return [VERDICT] * len(uploads)


def upload(body: bytes) -> Upload:
    return Upload(uuid4(), MODEL, body, "application/dicom")


def hop_to(replica: Any) -> ValidatorHop:
    return ValidatorHop(replica, HopTuning(max_in_flight=2), timeout_s=30)


async def test_slow_files_hold_no_call_of_those_that_are_soon_done() -> None:
    replica = Validator(held=SLOW)
    hop = hop_to(replica)
    slow = [asyncio.ensure_future(hop.screen(upload(SLOW))) for _ in range(3)]
    await until(lambda: replica.calls == [[SLOW], [SLOW]])

    async with asyncio.timeout(10):
        assert await hop.screen(upload(SMALL)) == await hop.screen(upload(JPEG)) == VERDICT

    assert replica.calls[2:] == [[SMALL], [JPEG]]
    assert hop.depth() == 1
    replica.may_end.set()
    assert await asyncio.gather(*slow) == [VERDICT] * 3


async def test_jpegs_share_a_call_and_dicom_files_go_alone() -> None:
    replica = Validator(held=SLOW)
    hop = hop_to(replica)

    await asyncio.gather(*(hop.screen(upload(body)) for body in (JPEG, SMALL, JPEG, SMALL)))

    assert sorted(map(len, replica.calls)) == [1, 1, 2]


async def test_more_small_dicom_files_are_on_their_way_than_batches() -> None:
    replica = Validator(held=SMALL)
    hop = hop_to(replica)
    hop.reconfigure(HopTuning(max_in_flight=1))
    files = [asyncio.ensure_future(hop.screen(upload(SMALL))) for _ in range(HEAVY_CALLS + 3)]

    await until(lambda: len(replica.calls) == HEAVY_CALLS)

    assert hop.depth() == 3
    replica.may_end.set()
    assert await asyncio.gather(*files) == [VERDICT] * len(files)
