"""The guarded process: what decodes files that could crash, hang or bloat whoever decodes them.

    service ──► fork server ──► worker, worker, ...
       └──────── one socket each ────┘

The fork server imports the codecs once and then only forks: a new worker costs 4 ms, not half a
second. It starts with an environment of its own, so no secret of the service is in it.

A worker lives for some files, and not a moment longer than the first bad one. The kernel holds it
to its limits, because a codec stuck in C hears nothing else:

- memory   RLIMIT_AS, from what the worker has at its start; allocation fails, the file is refused
- time     a real-time alarm and RLIMIT_CPU, whose signals end the process; for a file that is
           foretold to be soon done, also an alarm on the processor's time
- files    RLIMIT_FSIZE and RLIMIT_CORE 0: it writes nothing, and leaves no picture in a core dump
- parent   PR_SET_PDEATHSIG: the worker ends with the fork server, the fork server when its socket
           to the service closes, however the service ended
"""

import ctypes
import gc
import logging
import os
import resource
import signal
import socket
import sys
import warnings
from pathlib import Path

from deployments.inference.guard_protocol import (
    PREFIX,
    pack_prepared,
    pack_refusal,
    unpack_work,
)
from deployments.inference.prepare import prepare
from registry.errors import ImageTooLarge, Rejected, UndecodableImage

FILES_A_WORKER = 64
SOON_WALL = 5  # times its processor time a file may take by the clock, on a busy machine
SPARE_BYTES = 256 << 20  # a worker that has grown by more gives its memory back by ending
_PR_SET_PDEATHSIG = 1


def main() -> None:
    """Run the fork server. Arguments: socket, memory limit in bytes, time limit in seconds."""
    control = socket.socket(fileno=int(sys.argv[1]))
    memory_bytes, wall_s = int(sys.argv[2]), float(sys.argv[3])
    warnings.simplefilter("ignore")  # both quote header values
    logging.disable(logging.CRITICAL)
    load_codecs()
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # the kernel reaps
    gc.freeze()  # what is loaded stays shared between the workers
    while True:
        message, sockets, _, _ = socket.recv_fds(control, 1, 1)
        if not message:
            return
        if os.fork() == 0:
            try:
                control.close()
                confine(memory_bytes)
                serve(socket.socket(fileno=sockets[0]), wall_s)
            finally:
                os._exit(0)  # nothing of the server's is the worker's to clean up
        os.close(sockets[0])


def load_codecs() -> None:
    """Import now what Pillow and pydicom import at the first file."""
    import jpeg_ls  # type: ignore[import-untyped]  # noqa: F401, PLC0415  # it has no stubs
    import libjpeg  # noqa: F401, PLC0415
    import openjpeg  # noqa: F401, PLC0415
    import rle  # noqa: F401, PLC0415
    from PIL import Image  # noqa: PLC0415

    Image.preinit()


def confine(memory_bytes: int) -> None:
    """Put this process under its limits, for ever."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    pages = int(Path("/proc/self/statm").read_text("ascii").split()[0])
    most = pages * resource.getpagesize() + memory_bytes
    resource.setrlimit(resource.RLIMIT_AS, (most, most))
    for nothing in (resource.RLIMIT_CORE, resource.RLIMIT_FSIZE):
        resource.setrlimit(nothing, (0, 0))


def serve(channel: socket.socket, wall_s: float, *, files: int = FILES_A_WORKER) -> None:
    """Answer request after request, until one is bad, the channel closes or it is time to go."""
    grown = peak_bytes() + SPARE_BYTES
    for remaining in reversed(range(files)):
        request = _receive(channel)
        if request is None:
            return
        _start_clock(wall_s)
        try:
            work, limits, soon_s = unpack_work(*request)
            del request
            if soon_s is not None:
                _start_soon_clock(soon_s, wall_s)
            prepared = prepare(work, limits)
            again = remaining > 0 and soon_s is not None and peak_bytes() < grown
            answer = pack_prepared(prepared, again=again)
        except Rejected as error:
            again, answer = False, pack_refusal(error)
        except MemoryError:
            again, answer = False, pack_refusal(ImageTooLarge("decoding takes too much memory"))
        except BaseException:  # noqa: BLE001  # nothing that a file causes may end otherwise
            again, answer = False, pack_refusal(UndecodableImage("the decoder failed"))
        _stop_clock()
        channel.sendall(answer)
        if not again:
            return


def _receive(channel: socket.socket) -> tuple[bytes, bytes] | None:
    """Header and payload; None where the service has closed the channel."""
    prefix = _exactly(channel, PREFIX.size)
    if prefix is None:
        return None
    header_bytes, payload_bytes = PREFIX.unpack(prefix)
    header, payload = _exactly(channel, header_bytes), _exactly(channel, payload_bytes)
    return None if header is None or payload is None else (header, payload)


def _exactly(channel: socket.socket, size: int) -> bytes | None:
    buffer = bytearray(size)
    view = memoryview(buffer)
    while view:
        count = channel.recv_into(view)
        if count == 0:
            return None
        view = view[count:]
    return bytes(buffer)


def _start_clock(wall_s: float) -> None:
    used = sum(resource.getrusage(resource.RUSAGE_SELF)[:2])
    _, hard = resource.getrlimit(resource.RLIMIT_CPU)
    resource.setrlimit(resource.RLIMIT_CPU, (int(used + wall_s) + 1, hard))
    signal.setitimer(signal.ITIMER_REAL, wall_s)  # SIGALRM ends the process, in C code too


def _start_soon_clock(soon_s: float, wall_s: float) -> None:
    signal.setitimer(signal.ITIMER_PROF, soon_s)  # SIGPROF ends the process likewise
    signal.setitimer(signal.ITIMER_REAL, min(wall_s, SOON_WALL * soon_s))


def _stop_clock() -> None:
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.setitimer(signal.ITIMER_PROF, 0)


def peak_bytes() -> int:
    """The most resident memory this process has had; `ru_maxrss` would count its parent's, too."""
    status = Path("/proc/self/status").read_text("ascii")
    return int(status.partition("VmHWM:")[2].split(maxsplit=1)[0]) * 1024
