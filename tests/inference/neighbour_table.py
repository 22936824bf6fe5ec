"""What a small DICOM file waits while slow ones are decoded.

    python -m tests.inference.neighbour_table

One caller sends a small film, waits for it, rests 10 ms and sends it again; others send slow files
without a pause. Everything goes through the guard as in a Validator, without HTTP. The caller is
measured alone and beside them in turns, since a machine has other things to do as well.
"""

import asyncio
import time
from collections.abc import Callable
from contextlib import suppress
from statistics import median, quantiles

from registry.errors import MedAIError
from tests.inference import bombs
from tests.inference.bomb_table import Decoding, small_dicom
from tests.inference.files import dicom_file

SLOW: dict[str, Callable[[], bytes]] = {
    "a film in JPEG 2000": lambda: dicom_file("RG1_J2KR.dcm"),
    "DICOM, 600,000 elements (a liar)": lambda: bombs.element_flood(600_000),
    "JPEG, 8,000 scans": lambda: bombs.scan_flood(8_000),
}
CALLERS = (1, 3)
ROUNDS = 3
LASTS_S = 2.5
REST_S = 0.01


async def waits_s(body: bytes, callers: int) -> list[float]:
    """What the small film waited each time, in seconds."""
    decoding = Decoding()
    small = small_dicom()
    for _ in range(3):
        await decoding.prepare(small)
    slow = [asyncio.ensure_future(_for_ever(decoding, body)) for _ in range(callers)]
    await asyncio.sleep(REST_S)
    waits = []
    end = time.perf_counter() + LASTS_S
    while time.perf_counter() < end:
        started = time.perf_counter()
        await decoding.prepare(small)
        waits.append(time.perf_counter() - started)
        await asyncio.sleep(REST_S)
    for task in slow:
        task.cancel()
    await asyncio.gather(*slow, return_exceptions=True)
    decoding.guard.close()
    return waits


async def _for_ever(decoding: Decoding, body: bytes) -> None:
    while True:
        with suppress(MedAIError):
            await decoding.prepare(body)


def row(name: str, callers: int, alone: list[float], beside: list[float]) -> str:
    """As Markdown: medians, 95th percentiles and the longest wait, in milliseconds."""
    cells = []
    for waits in (alone, beside):
        high = quantiles(waits, n=20)[-1]
        cells += [median(waits), high]
    cells.append(max(beside))
    times = " | ".join(f"{cell * 1e3:.0f}" for cell in cells)
    ratio = cells[2] / cells[0]  # of the medians
    return f"| {name} | {callers} | {times} | {ratio:.1f} x |"


async def main() -> None:
    """Print the table."""
    print("| slow files | callers | alone p50 | p95 | beside p50 | p95 | longest | ratio |")  # noqa: T201
    print("| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |")  # noqa: T201
    for name, build in SLOW.items():
        body = build()
        for callers in CALLERS:
            alone, beside = [], []
            for _ in range(ROUNDS):
                alone += await waits_s(body, 0)
                beside += await waits_s(body, callers)
            print(row(name, callers, alone, beside), flush=True)  # noqa: T201


if __name__ == "__main__":
    asyncio.run(main())
