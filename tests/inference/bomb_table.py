"""Every hostile class through the real way of decoding, measured.

    python -m tests.inference.bomb_table

A file goes where a Validator sends it: light ones to a thread, heavy ones to the guarded process.
The memory of both sides is watched; meanwhile a neighbour sends a small film again and again, and
what it waits is held against what it waits alone: in a first round a JPEG, in a second one DICOM,
which needs the guarded process itself.
"""

import asyncio
import hashlib
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import psutil

from deployments.api.problems import STATUS
from deployments.inference.guard import Guard
from deployments.inference.prepare import Work, prepare
from deployments.inference.signature import signature
from registry.card import InputSpec
from registry.errors import MedAIError
from tests.inference import bombs, bombs_pictures
from tests.inference.files import LIMITS, dicom_file, film_jpeg, film_pixels, make_dicom

SPECS = (InputSpec(height=224, width=224, scale=1 / 255, mean=(0.5,), std=(0.2,)),)
REFUSALS = (413, 415, 422)
DECODED = 200
OFTEN_S = 0.002
ENOUGH = 10
MIB = 1 << 20


@dataclass(frozen=True, slots=True)
class Bomb:
    """A hostile file, and how it may end: HTTP statuses."""

    build: Callable[[], bytes]
    ends: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of one file. Memory is what was taken beyond the start, in bytes.

    `alone_s` is what the neighbour waited just before, since a machine has other things to do, too.
    """

    name: str
    size: int
    status: int
    code: str
    seconds: float
    service_bytes: int
    child_bytes: int
    alone_s: tuple[float, ...]
    neighbours_s: tuple[float, ...]


BOMBS: dict[str, Bomb] = {
    "PNG, 50,000 x 50,000 in one bit": Bomb(lambda: bombs.pixel_flood(50_000), (413,)),
    "PNG, 12,000 x 12,000 in one bit": Bomb(lambda: bombs.pixel_flood(12_000), (413,)),
    "PNG, 9,000 x 9,000 in one bit": Bomb(lambda: bombs.pixel_flood(9_000), (413,)),
    "PNG, 6,300 x 6,300: just allowed": Bomb(lambda: bombs.pixel_flood(6_300), (DECODED,)),
    "PNG, 100 MB of compressed text": Bomb(bombs.text_flood, (422,)),
    "PNG, 300 MB of colour profile": Bomb(bombs_pictures.profile_bomb, (413, 422)),
    "PNG, animated": Bomb(bombs_pictures.animated_png, (422,)),
    "PNG, animation out of order": Bomb(bombs_pictures.broken_animation, (422,)),
    "PNG, cut short": Bomb(lambda: bombs_pictures.cut(bombs_pictures.sixteen_bits()), (422,)),
    "PNG, half transparent": Bomb(bombs_pictures.transparent, (422,)),
    "PNG, 16-bit ramp": Bomb(bombs_pictures.sixteen_bits, (DECODED,)),
    "JPEG, EXIF that points to itself": Bomb(bombs_pictures.exif_bomb, (DECODED, 422)),
    "JPEG, 8,000 scans": Bomb(lambda: bombs.scan_flood(8_000), (DECODED, 422)),
    "JPEG, two million comments": Bomb(bombs.segment_flood, (DECODED, 422)),
    "JPEG, two frame headers": Bomb(bombs_pictures.jpeg_with_two_headers, (413, 415, 422)),
    "JPEG, cut short": Bomb(lambda: bombs_pictures.cut(film_jpeg()), (422,)),
    "JPEG, CMYK": Bomb(bombs_pictures.cmyk, (422,)),
    "MPO that poses as JPEG": Bomb(bombs_pictures.mpo, (415,)),
    "JPEG with ZIP and script behind": Bomb(bombs_pictures.polyglot, (DECODED,)),
    "GIF": Bomb(lambda: bombs_pictures.other_format("GIF"), (415,)),
    "TIFF": Bomb(lambda: bombs_pictures.other_format("TIFF"), (415,)),
    "DICOM, 1 GiB deflated": Bomb(bombs.deflate_bomb, (415,)),
    "DICOM, sequences 200 deep": Bomb(lambda: bombs.nested_sequences(200), (DECODED, 422)),
    "DICOM, sequences 5,000 deep": Bomb(lambda: bombs.nested_sequences(5_000), (DECODED, 422)),
    "DICOM, 600,000 elements": Bomb(lambda: bombs.element_flood(600_000), (DECODED, 422)),
    "DICOM, 65,535 x 65,535 x 1000": Bomb(bombs.size_lie, (413,)),
    "DICOM, RLE that panics": Bomb(bombs.rle_panic, (422,)),
    "DICOM, RLE of 65,535 x 65,535": Bomb(bombs.rle_lie, (413,)),
    "DICOM, RLE that unpacks to 384 MB": Bomb(bombs_pictures.rle_flood, (413, 422)),
    "DICOM, cut short": Bomb(lambda: bombs_pictures.cut(dicom_file("MR_small.dcm")), (422,)),
    "DICOM without an image": Bomb(bombs_pictures.no_image, (415,)),
    "DICOM with a PNG's beginning": Bomb(bombs_pictures.dicom_with_a_picture_before_it, (422,)),
}


class Decoding:
    """A guard and a thread, as a Validator has them. Belongs to the loop it is made on."""

    def __init__(self) -> None:
        self.guard = Guard(LIMITS)
        self.guard.start()

    async def prepare(self, body: bytes) -> None:
        """Raises what refuses the file."""
        found = signature(body)
        work = Work(body, found.media_type, None, hashlib.sha256(body).hexdigest(), SPECS)
        if found.heavy:
            await self.guard.prepare(work)
        else:
            await asyncio.to_thread(prepare, work, LIMITS)

    def renew(self) -> None:
        """Have the next file decoded by a worker that has seen no other."""
        while self.guard._idle:
            self.guard._idle.pop().close()

    def child_bytes(self) -> int:
        """The most resident memory of any worker that lives."""
        assert self.guard._server is not None
        server = self.guard._server._process.pid
        children = Path(f"/proc/{server}/task/{server}/children").read_text("ascii").split()
        return max((_peak(pid) for pid in children), default=0)


def _peak(pid: str) -> int:
    try:
        status = Path(f"/proc/{pid}/status").read_text("ascii")
    except OSError:  # it has ended
        return 0
    marked = status.partition("VmHWM:")[2].split(maxsplit=1)
    return int(marked[0]) * 1024 if marked else 0


def _forget_peak() -> None:
    Path("/proc/self/clear_refs").write_text("5", "ascii")


async def measure(name: str, body: bytes, decoding: Decoding, film: bytes | None = None) -> Outcome:
    """One file, with a neighbour who sends a small film meanwhile; a JPEG, if none is given."""
    small = film or film_jpeg()
    alone = [await _wait(decoding, small) for _ in range(2 * ENOUGH)]
    decoding.renew()
    most_child = 0
    heavy = signature(body).heavy
    waits: list[float] = []
    before = psutil.Process().memory_info().rss
    _forget_peak()
    started = time.perf_counter()
    bomb = asyncio.ensure_future(_end(body, decoding))
    neighbour = asyncio.ensure_future(_neighbour(waits, decoding, small))
    while not bomb.done():
        most_child = max(most_child, decoding.child_bytes() if heavy else 0)
        await asyncio.sleep(OFTEN_S)
    status, code, ended = bomb.result()
    neighbour.cancel()
    await asyncio.gather(neighbour, return_exceptions=True)
    return Outcome(
        name=name,
        size=len(body),
        status=status,
        code=code,
        seconds=ended - started,
        service_bytes=max(0, _peak("self") - before),
        child_bytes=most_child,
        alone_s=tuple(alone),
        neighbours_s=tuple(waits),
    )


async def _end(body: bytes, decoding: Decoding) -> tuple[int, str, float]:
    """HTTP status, error code and when."""
    try:
        await decoding.prepare(body)
    except MedAIError as error:
        return STATUS[type(error)], error.code, time.perf_counter()
    return DECODED, "", time.perf_counter()


async def _neighbour(waits: list[float], decoding: Decoding, film: bytes) -> None:
    while True:
        waits.append(await _wait(decoding, film))


async def _wait(decoding: Decoding, film: bytes) -> float:
    started = time.perf_counter()
    await decoding.prepare(film)
    return time.perf_counter() - started


async def measure_all(film: bytes | None = None) -> list[Outcome]:
    """Every bomb in turn, after a harmless file has warmed the decoder."""
    bodies = {name: bomb.build() for name, bomb in BOMBS.items()}
    decoding = Decoding()
    try:
        await decoding.prepare(dicom_file("MR_small.dcm"))
        return [await measure(name, body, decoding, film) for name, body in bodies.items()]
    finally:
        decoding.guard.close()


def small_dicom() -> bytes:
    """A film of 512 pixels as DICOM, not compressed."""
    return make_dicom(film_pixels())


def table(outcomes: list[Outcome], slower: list[tuple[str, str]]) -> str:
    """As Markdown. `slower`: how many times longer the JPEG and the DICOM neighbour waited."""
    rows = [
        "| file | bytes | answer | time (ms) | service (MiB) | decoder (MiB) | JPEG | DICOM |",
        "| --- | ---: | --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    for one, (beside_jpeg, beside_dicom) in zip(outcomes, slower, strict=True):
        answer = f"{one.status} `{one.code}`" if one.code else "decoded"
        child = f"{one.child_bytes / MIB:.0f}" if one.child_bytes else "-"
        rows.append(
            f"| {one.name} | {one.size:,} | {answer} | {one.seconds * 1e3:,.0f} "
            f"| {one.service_bytes / MIB:.0f} | {child} | {beside_jpeg} | {beside_dicom} |"
        )
    return "\n".join(rows)


def slowdown(outcome: Outcome) -> str:
    """The neighbour's median against what it is alone; "-" where it waited less than ten times."""
    if len(outcome.neighbours_s) < ENOUGH:
        return "-"
    return f"{median(outcome.neighbours_s) / median(outcome.alone_s):.1f} x"


async def main() -> None:
    """Print the table, and what memory is left behind."""
    await measure_all()  # once for what a first time loads
    before = psutil.Process().memory_info().rss
    outcomes = await measure_all()
    left = psutil.Process().memory_info().rss - before
    beside_dicom = map(slowdown, await measure_all(small_dicom()))
    print(table(outcomes, list(zip(map(slowdown, outcomes), beside_dicom, strict=True))))  # noqa: T201  # what it is for
    print(f"\nKept {left / MIB:.0f} MiB.")  # noqa: T201


if __name__ == "__main__":
    asyncio.run(main())
