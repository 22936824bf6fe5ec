"""The trial process: reads, loads and runs a model file that nobody has looked at yet.

It starts with an environment of its own and puts itself under limits before it opens the file:
those of `guarded.confine` (memory, no file written, no core dump, ends with its parent) and
RLIMIT_CPU; the parent keeps the wall clock. What it says goes to the pipe that was its standard
output; what the libraries print goes nowhere.
"""

import math
import os
import resource
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from functools import partial
from pathlib import Path

import numpy as np

from deployments.inference.guarded import confine, peak_bytes
from deployments.inference.onnx import OnnxSession, load_session
from deployments.inference.onnx_file import inspect_file
from deployments.inference.trial_protocol import Order, Said, Step, pack_said, unpack_order
from registry.card import ModelCard
from registry.errors import InvalidModel, MedAIError, Violation
from registry.inspection import GraphFacts, State, graph_checks

BATCHES = (1, 8)  # one image, and a batch under load
BUDGET_S = 0.25  # of the runs at one batch size
MOST_RUNS = 50
MAX_FEED_BYTES = 256 << 20  # zeros for a file without a card; one may declare any size
CPU = ("CPUExecutionProvider",)


def main() -> None:
    """Do the order on standard input, and say how each step ended."""
    order = unpack_order(sys.stdin.buffer.read())
    channel = os.dup(1)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    confine(order.memory_bytes)
    seconds = int(order.wall_s * order.threads) + 1
    resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds))
    for said in steps(order):
        os.write(channel, pack_said(said))


def steps(order: Order) -> Iterator[Said]:
    """Each step as it ends. After one with `detail` nothing follows."""
    read = _ended(Step.FACTS, lambda: Said(Step.FACTS, facts=inspect_file(Path(order.path))))
    yield read
    if read.facts is None or not _allowed(read.facts, order):
        return
    trial = _with_card(order, order.card) if order.card else _without_card(order, read.facts)
    for step, work in trial:
        said = _ended(step, work)
        yield said
        if said.detail:
            return


def _allowed(facts: GraphFacts, order: Order) -> bool:
    """Whether the file may be run at all: one that breaks a rule for graphs is not."""
    checks = graph_checks(facts, order.card, allow_domains=order.allow_domains)
    return not any(check.state is State.FAILED for check in checks)


def _with_card(order: Order, card: ModelCard) -> Iterator[tuple[Step, Callable[[], Said]]]:
    """The session a replica would have, its golden case, and what a run takes."""
    held: list[OnnxSession] = []

    def load() -> Said:
        session = OnnxSession(
            order.path, card, card.sha256, threads=order.threads, deadline_s=order.deadline_s
        )
        held.append(session)
        return Said(Step.SESSION)

    yield Step.SESSION, load
    (session,) = held
    with closing(session):
        yield Step.GOLDEN, lambda: Said(Step.GOLDEN, deviation=session.golden())
        for batch in BATCHES:
            yield Step.LATENCY, partial(_latency, session, card, batch)


def _latency(session: OnnxSession, card: ModelCard, batch: int) -> Said:
    spec = card.input
    shape = (batch, spec.channels, spec.height, spec.width)
    pixels = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    session.run(pixels)  # first allocations are not what a caller waits for
    seconds: list[float] = []
    while not seconds or (sum(seconds) < BUDGET_S and len(seconds) < MOST_RUNS):
        started = time.perf_counter()
        session.run(pixels)
        seconds.append(time.perf_counter() - started)
    return Said(Step.LATENCY, tuple(seconds), batch=batch)


def _without_card(order: Order, facts: GraphFacts) -> Iterator[tuple[Step, Callable[[], Said]]]:
    """Loaded, and run once on zeros: what can be tried of a file that nobody describes."""
    content = Path(order.path).read_bytes()
    yield Step.SESSION, lambda: _loaded(content, order)
    yield Step.RUN, lambda: _run_on_zeros(content, order, facts)


def _loaded(content: bytes, order: Order) -> Said:
    load_session(content, CPU, threads=order.threads)
    return Said(Step.SESSION)


def _run_on_zeros(content: bytes, order: Order, facts: GraphFacts) -> Said:
    """Dimensions that are dynamic are taken as one."""
    feeds = {}
    for tensor in facts.inputs:
        shape = [size if isinstance(size, int) else 1 for size in tensor.shape]
        itemsize = np.dtype(tensor.dtype).itemsize if tensor.dtype else 1
        if math.prod(shape) * itemsize > MAX_FEED_BYTES:
            raise InvalidModel(
                "an input is too large to try",
                (
                    Violation(
                        "input",
                        f"{math.prod(shape) * itemsize} bytes",
                        f"at most {MAX_FEED_BYTES} bytes",
                        "use a smaller input",
                    ),
                ),
            )
        feeds[tensor.name] = np.zeros(shape, tensor.dtype)
    try:
        load_session(content, CPU, threads=order.threads).run(None, feeds)
    except Exception as error:  # noqa: BLE001  # ONNX Runtime has no common root of its errors
        raise InvalidModel(f"the run failed ({type(error).__name__})") from None
    return Said(Step.RUN)


def _ended(step: Step, work: Callable[[], Said]) -> Said:
    """What came of a step, with what it took."""
    started = time.perf_counter()
    try:
        said = work()
    except MedAIError as error:
        said = Said(step, detail=error.detail or error.title, violations=error.violations)
    except MemoryError:
        said = Said(step, detail="it took too much memory")
    except BaseException as error:  # noqa: BLE001  # nothing that a file causes may end otherwise
        said = Said(step, detail=f"it failed ({type(error).__name__})")
    return Said(
        step=said.step,
        seconds=said.seconds or (time.perf_counter() - started,),
        peak_bytes=peak_bytes(),
        batch=said.batch,
        deviation=said.deviation,
        facts=said.facts,
        detail=said.detail,
        violations=said.violations,
    )
