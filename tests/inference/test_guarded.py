"""The guarded side: in a process of its own, or in this one where that does no harm."""

import hashlib
import os
import resource
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from deployments.inference import guarded
from deployments.inference.guard_protocol import PREFIX, pack_work, unpack_answer
from deployments.inference.prepare import Prepared, Work
from registry.errors import ImageTooLarge, MedAIError, UndecodableImage, UnsupportedMediaType
from tests.inference.files import LIMITS, dicom_file, film_jpeg
from tests.inference.guards import SPECS

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def _limits_as_before() -> object:
    """`serve` lowers this process's CPU limit; it would end the test run."""
    soft, hard = resource.getrlimit(resource.RLIMIT_CPU)
    yield
    resource.setrlimit(resource.RLIMIT_CPU, (soft, hard))
    signal.setitimer(signal.ITIMER_REAL, 0)


def work(body: bytes, media_type: str = "application/dicom") -> Work:
    return Work(body, media_type, None, hashlib.sha256(body).hexdigest(), SPECS)


def answer(channel: socket.socket, asked: Work) -> tuple[Prepared, bool]:
    header_bytes, payload_bytes = PREFIX.unpack(channel.recv(PREFIX.size, socket.MSG_WAITALL))
    header = channel.recv(header_bytes, socket.MSG_WAITALL)
    payload = channel.recv(payload_bytes, socket.MSG_WAITALL) if payload_bytes else b""
    return unpack_answer(header, payload, asked)


def ask(*requests: Work, files: int = guarded.FILES_A_WORKER) -> list[Prepared | MedAIError]:
    """Have `serve` answer requests through a real socket, in this process."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        for request in requests:
            ours.sendall(pack_work(request, LIMITS, soon_s=60) + request.body)
        ours.shutdown(socket.SHUT_WR)
        guarded.serve(theirs, wall_s=60, files=files)
        theirs.shutdown(socket.SHUT_WR)
        ends: list[Prepared | MedAIError] = []
        for request in requests:
            if not ours.recv(1, socket.MSG_PEEK):
                break
            try:
                ends.append(answer(ours, request)[0])
            except MedAIError as error:
                ends.append(error)
        return ends


SMALL = work(dicom_file("MR_small.dcm"))


def test_requests_are_answered_in_turn_until_the_channel_closes() -> None:
    assert [type(end) for end in ask(SMALL, SMALL)] == [Prepared, Prepared]


def test_after_its_last_file_a_worker_ends() -> None:
    assert [type(end) for end in ask(SMALL, SMALL, SMALL, files=2)] == [Prepared, Prepared]


def test_after_a_slow_file_a_worker_ends() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.sendall(pack_work(SMALL, LIMITS, soon_s=None) + SMALL.body)

        guarded.serve(theirs, wall_s=60)

        assert answer(ours, SMALL)[1] is False


def test_after_a_bad_file_a_worker_ends() -> None:
    (end,) = ask(work(film_jpeg()), SMALL)

    assert isinstance(end, UnsupportedMediaType)


def test_a_request_cut_short_is_not_answered() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.sendall(pack_work(SMALL, LIMITS, soon_s=60) + SMALL.body[:50])
        ours.shutdown(socket.SHUT_WR)

        guarded.serve(theirs, wall_s=60)

        theirs.close()
        assert ours.recv(1) == b""


def test_a_worker_that_has_grown_asks_not_to_be_used_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guarded, "SPARE_BYTES", -(1 << 40))
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.sendall(pack_work(SMALL, LIMITS, soon_s=60) + SMALL.body)

        guarded.serve(theirs, wall_s=60)

        assert answer(ours, SMALL)[1] is False


@pytest.mark.parametrize(
    ("raised", "expected"),
    [
        (MemoryError(), ImageTooLarge),
        (SystemExit(), UndecodableImage),
        (KeyError(), UndecodableImage),
    ],
)
def test_whatever_happens_there_is_an_answer(
    monkeypatch: pytest.MonkeyPatch, raised: BaseException, expected: type[MedAIError]
) -> None:
    def broken(*_: object) -> None:
        raise raised

    monkeypatch.setattr(guarded, "prepare", broken)

    (end,) = ask(SMALL)

    assert type(end) is expected


def in_a_child(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={"PATH": os.environ["PATH"]},  # not coverage's: it would leave half a file behind
        check=False,
    )


def test_a_confined_process_cannot_take_more_memory_than_it_was_given() -> None:
    child = in_a_child(
        "from deployments.inference.guarded import confine\n"
        "confine(64 << 20)\n"
        "bytearray(32 << 20)\n"
        "try: bytearray(128 << 20)\n"
        "except MemoryError: print('refused')"
    )

    assert child.stdout == "refused\n"


def test_a_confined_process_writes_nothing(tmp_path: Path) -> None:
    child = in_a_child(
        "import os, resource, signal\n"
        "from deployments.inference.guarded import confine\n"
        "confine(64 << 20)\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "print(resource.getrlimit(resource.RLIMIT_CORE))\n"
        f"file = os.open({str(tmp_path / 'picture')!r}, os.O_CREAT | os.O_WRONLY)\n"
        "os.write(file, b'x')"
    )

    assert child.stdout == "(0, 0)\n"
    assert "File too large" in child.stderr


def test_a_confined_process_ends_with_its_parent() -> None:
    child = in_a_child(
        "import os, signal, time\n"
        "from deployments.inference.guarded import confine\n"
        "middle = os.fork()\n"
        "if middle == 0:\n"
        "    reader, writer = os.pipe()\n"
        "    if os.fork() == 0:\n"
        "        confine(64 << 20); os.write(writer, b'.'); time.sleep(60)\n"
        "    os.read(reader, 1); print(os.getpid(), flush=True); os._exit(0)\n"
        "os.waitpid(middle, 0)\n"
    )

    assert child.returncode == 0  # had it lived, its copy of stdout would have kept us waiting
    assert int(child.stdout) > 0


def test_the_clock_ends_a_process_that_is_stuck() -> None:
    child = in_a_child(
        "from deployments.inference import guarded\nguarded._start_clock(0.2)\nwhile True: pass"
    )

    assert child.returncode == -signal.SIGALRM


def test_the_clock_of_a_file_that_should_be_soon_done_counts_the_processors_time() -> None:
    start = (
        "import time\n"
        "from deployments.inference import guarded\n"
        "guarded._start_soon_clock(0.2, 60)\n"
    )

    assert in_a_child(f"{start}while True: pass").returncode == -signal.SIGPROF
    assert in_a_child(f"{start}time.sleep(0.5); print('alive')").stdout == "alive\n"
    assert in_a_child(f"{start}time.sleep(60)").returncode == -signal.SIGALRM


def test_a_stopped_clock_ends_nothing() -> None:
    child = in_a_child(
        "import time\n"
        "from deployments.inference import guarded\n"
        "guarded._start_soon_clock(0.1, 0.1); guarded._stop_clock(); time.sleep(0.3)\n"
        "print('alive')"
    )

    assert child.stdout == "alive\n"


def test_the_fork_server_makes_workers_until_its_socket_closes() -> None:
    control, theirs = socket.socketpair()
    with control, theirs:
        code = "from deployments.inference.guarded import main; main()"
        arguments = [str(theirs.fileno()), str(1 << 30), "60"]
        server = subprocess.Popen(
            [sys.executable, "-c", code, *arguments], pass_fds=[theirs.fileno()], cwd=ROOT
        )
        for _ in range(2):
            ours, channel = socket.socketpair()
            with ours, channel:
                socket.send_fds(control, [b"w"], [channel.fileno()])
                ours.sendall(pack_work(SMALL, LIMITS, soon_s=60) + SMALL.body)
                assert answer(ours, SMALL)[1] is True
    assert server.wait(20) == 0


def test_every_codec_can_be_loaded() -> None:
    guarded.load_codecs()

    assert {"jpeg_ls", "libjpeg", "openjpeg", "rle"} <= set(sys.modules)
