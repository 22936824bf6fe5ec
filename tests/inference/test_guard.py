"""The guard: whatever a file does, the service lives, and nothing is left behind."""

import asyncio
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

from configs.settings import LimitSettings
from deployments.inference.guard import Guard
from deployments.inference.prepare import prepare
from registry.errors import ImageTooLarge, Internal, Overloaded, UndecodableImage, ValidationFailed
from tests.inference.files import FILM, LIMITS, dicom_file, film_jpeg
from tests.inference.guards import work, workers
from tests.inference.ticks import until


async def test_a_guarded_file_gives_what_it_gives_unguarded(guard: Guard) -> None:
    film = work(dicom_file(FILM))

    guarded, unguarded = await guard.prepare(film), prepare(film, LIMITS)

    assert guarded.facts == unguarded.facts
    assert guarded.patient == unguarded.patient
    assert guarded.measures == unguarded.measures
    assert [tensor.shape for tensor in guarded.tensors] == [(1, 32, 48), (3, 8, 8)]
    for ours, theirs in zip(guarded.tensors, unguarded.tensors, strict=True):
        assert np.array_equal(ours, theirs)
    assert min(guarded.decode_ms, guarded.measure_ms, guarded.preprocess_ms) > 0


async def test_a_worker_is_used_again_after_a_good_file(guard: Guard) -> None:
    await guard.prepare(work(dicom_file("MR_small.dcm")))
    first = workers(guard)

    await guard.prepare(work(dicom_file(FILM)))

    assert workers(guard) == first
    assert len(first) == 1


async def test_a_worker_is_not_used_again_after_a_bad_file(guard: Guard) -> None:
    await guard.prepare(work(dicom_file("MR_small.dcm")))
    (first,) = workers(guard)

    with pytest.raises(UndecodableImage):
        await guard.prepare(work(dicom_file("MR_truncated.dcm")))

    first.wait(10)
    assert (await guard.prepare(work(dicom_file("MR_small.dcm")))).facts.modality == "MR"


async def test_the_refusals_reason_comes_through(guard: Guard) -> None:
    with pytest.raises(ValidationFailed) as refusal:
        await guard.prepare(work(dicom_file("eCT_Supplemental.dcm")))

    assert refusal.value.violations[0].limit == "1 to 2"
    chosen = await guard.prepare(work(dicom_file("eCT_Supplemental.dcm"), frame=2))
    assert chosen.facts.frame == 2


async def test_a_file_that_takes_too_long_is_refused_and_its_worker_ended() -> None:
    guard = Guard(LIMITS, wall_s=0.05)
    try:
        with pytest.raises(UndecodableImage, match="too long"):
            await guard.prepare(work(dicom_file("RG1_J2KR.dcm")))
        assert (await guard.prepare(work(dicom_file("MR_small.dcm")))).facts.modality == "MR"
    finally:
        guard.close()


async def test_a_file_that_takes_too_much_memory_is_refused() -> None:
    guard = Guard(LIMITS, memory_bytes=20 << 20)
    try:
        with pytest.raises(ImageTooLarge, match="memory"):
            await guard.prepare(work(dicom_file(FILM)))
        assert (await guard.prepare(work(dicom_file("MR_small.dcm")))).facts.modality == "MR"
    finally:
        guard.close()


async def test_a_file_whose_worker_dies_is_refused(guard: Guard) -> None:
    await guard.prepare(work(dicom_file("MR_small.dcm")))
    (worker,) = workers(guard)
    worker.suspend()
    pending = asyncio.ensure_future(guard.prepare(work(dicom_file("MR_small.dcm"))))
    await until(lambda: not guard._idle)

    worker.kill()

    with pytest.raises(UndecodableImage, match="died"):
        await pending


async def test_when_the_fork_server_is_killed_the_next_file_starts_another(guard: Guard) -> None:
    await guard.prepare(work(dicom_file("MR_small.dcm")))
    assert guard._server is not None
    (worker,) = workers(guard)
    guard._server._process.send_signal(signal.SIGKILL)
    guard._server._process.wait()
    worker.wait(10)  # it ends with its server

    assert (await guard.prepare(work(dicom_file("MR_small.dcm")))).facts.modality == "MR"


async def test_a_file_that_loses_its_server_is_not_to_blame(guard: Guard) -> None:
    await guard.prepare(work(dicom_file("MR_small.dcm")))
    assert guard._server is not None
    (worker,) = workers(guard)
    worker.suspend()
    pending = asyncio.ensure_future(guard.prepare(work(dicom_file("MR_small.dcm"))))
    await until(lambda: not guard._idle)

    guard._server._process.kill()

    with pytest.raises(Overloaded, match="restarted"):
        await pending


async def test_a_connection_that_is_lost_is_made_anew(guard: Guard) -> None:
    assert guard._server is not None
    guard._server._control.close()

    with pytest.raises(Overloaded, match="restarted"):
        await guard.prepare(work(dicom_file("MR_small.dcm")))

    assert (await guard.prepare(work(dicom_file("MR_small.dcm")))).facts.modality == "MR"


async def test_an_idle_worker_that_has_ended_is_not_asked(guard: Guard) -> None:
    await guard.prepare(work(dicom_file("MR_small.dcm")))
    (worker,) = workers(guard)
    worker.kill()
    worker.wait(10)

    assert (await guard.prepare(work(dicom_file("MR_small.dcm")))).facts.modality == "MR"


async def test_a_decoder_that_never_answers_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("deployments.inference.guard.GRACE_S", 0.2)
    guard = Guard(LIMITS, wall_s=0.1)
    guard.start()
    try:
        assert guard._server is not None
        guard._server._process.send_signal(signal.SIGSTOP)
        with pytest.raises(Overloaded, match="did not answer"):
            await guard.prepare(work(dicom_file("MR_small.dcm")))
    finally:
        guard.close()


async def test_a_decoder_that_cannot_start_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("deployments.inference.guard._START", "raise SystemExit(3)")
    guard = Guard(LIMITS)
    try:
        with pytest.raises(Internal, match="exit 3"):
            await guard.prepare(work(dicom_file("MR_small.dcm")))
        with pytest.raises(Internal, match="exit 3"):
            guard.check_health()
    finally:
        guard.close()


async def test_a_healthy_guard_says_nothing(guard: Guard) -> None:
    guard.check_health()
    Guard(LIMITS).check_health()


async def test_answers_that_are_not_ours_are_broken_files(monkeypatch: pytest.MonkeyPatch) -> None:
    takes_over = (
        "import socket, sys; s = socket.socket(fileno=int(sys.argv[1]));"
        "fds = socket.recv_fds(s, 1, 1)[1]; c = socket.socket(fileno=fds[0]);"
        "c.recv(1 << 20); c.sendall(b'\\xff' * 12); c.recv(1 << 20); s.recv(1)"
    )
    monkeypatch.setattr("deployments.inference.guard._START", takes_over)
    guard = Guard(LIMITS)
    try:
        with pytest.raises(UndecodableImage, match="no sense"):
            await guard.prepare(work(dicom_file("MR_small.dcm")))
    finally:
        guard.close()


async def test_more_files_than_the_queue_holds_are_refused_at_once() -> None:
    guard = Guard(LIMITS, max_queue=1)
    try:
        await guard.prepare(work(dicom_file("MR_small.dcm")))
        slow = work(dicom_file("RG1_J2KR.dcm"))
        files = [asyncio.ensure_future(guard.prepare(slow)) for _ in range(3)]
        for _ in range(3):
            await asyncio.sleep(0)
        assert guard.waiting == 1
        assert (await guard.prepare(work(dicom_file("MR_small.dcm")))).facts.modality == "MR"

        ends = await asyncio.gather(*files, return_exceptions=True)

        assert [type(end).__name__ for end in ends] == ["Prepared", "Prepared", "Overloaded"]
        assert guard.waiting == 0
    finally:
        guard.close()


async def test_several_workers_work_side_by_side() -> None:
    guard = Guard(LIMITS)
    guard.reconfigure(processes=2)
    try:
        files = [
            asyncio.ensure_future(guard.prepare(work(dicom_file("RG1_J2KI.dcm")))) for _ in range(2)
        ]
        await until(guard._turns._slow._turns.locked)
        most = 0
        while not any(file.done() for file in files):
            most = max(most, len(workers(guard)))
            await asyncio.sleep(0.02)
        await asyncio.gather(*files)

        assert most == 2
    finally:
        guard.close()


async def test_a_caller_who_leaves_takes_no_worker_along(guard: Guard) -> None:
    slow = asyncio.ensure_future(guard.prepare(work(dicom_file("RG1_J2KR.dcm"))))
    await until(guard._turns._slow._turns.locked)
    slow.cancel()

    with pytest.raises(asyncio.CancelledError):
        await slow
    assert (await guard.prepare(work(dicom_file("MR_small.dcm")))).facts.modality == "MR"


async def test_the_loop_goes_on_while_a_film_is_decoded(guard: Guard) -> None:
    await guard.prepare(work(dicom_file("MR_small.dcm")))
    longest, last = 0.0, time.perf_counter()
    pending = asyncio.ensure_future(guard.prepare(work(dicom_file("RG1_J2KI.dcm"))))

    while not pending.done():
        await asyncio.sleep(0.001)
        longest, last = max(longest, time.perf_counter() - last), time.perf_counter()

    assert (await pending).facts.modality == "CR"
    assert longest < pending_s(pending.result()) / 2


def pending_s(prepared: Any) -> float:
    return float(prepared.decode_ms + prepared.preprocess_ms) / 1e3


async def test_plain_pictures_may_be_guarded_too(guard: Guard) -> None:
    assert (await guard.prepare(work(film_jpeg()))).facts.format == "JPEG"


async def test_closing_leaves_no_process(guard: Guard) -> None:
    await guard.prepare(work(dicom_file("MR_small.dcm")))
    assert guard._server is not None
    family = [psutil.Process(guard._server._process.pid), *workers(guard)]

    guard.close()

    gone, alive = psutil.wait_procs(family, timeout=10)
    assert (len(gone), alive) == (2, [])


ORPHAN = """
import asyncio, os, sys
from pathlib import Path
from deployments.inference.guard import Guard
from configs.settings import LimitSettings
from tests.inference.files import dicom_file
from tests.inference.guards import work, workers

async def main():
    guard = Guard(LimitSettings())
    await guard.prepare(work(dicom_file("MR_small.dcm")))
    print(guard._server._process.pid, *(worker.pid for worker in workers(guard)), flush=True)
    await asyncio.sleep(60)

asyncio.run(main())
"""


def test_no_process_outlives_a_service_that_is_killed() -> None:
    with subprocess.Popen(
        [sys.executable, "-c", ORPHAN],
        stdout=subprocess.PIPE,
        cwd=Path(__file__).parents[2],
        env={"PATH": os.environ["PATH"]},  # not coverage's: it would leave half a file behind
        text=True,
    ) as service:
        assert service.stdout is not None
        family = [psutil.Process(int(pid)) for pid in service.stdout.readline().split()]
        service.kill()

    gone, alive = psutil.wait_procs(family, timeout=10)
    assert (len(gone), alive) == (2, [])


async def test_secrets_of_the_service_are_not_in_the_decoders_environment(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("MEDAI_DATABASE__URL", "postgresql://user:CANARY@host/name")
    guard = Guard(LimitSettings())
    try:
        await guard.prepare(work(dicom_file("MR_small.dcm")))
        assert guard._server is not None
        environment = psutil.Process(guard._server._process.pid).environ()
    finally:
        guard.close()

    assert "CANARY" not in str(environment)
    assert os.environ["MEDAI_DATABASE__URL"]
