"""Trying a model file at arm's length, and the report on it.

A model file is a program: a few hundred bytes can ask for gigabytes, or never end. So it is parsed,
loaded and run in a process that may die of it (`trial_process`), and what that process said before
it ended becomes the report: every rule, what was found, and what to do.
"""

import contextlib
import os
import signal
import subprocess
import sys
import threading
from dataclasses import dataclass
from statistics import median, quantiles

from deployments.inference.trial_protocol import (
    MAX_ANSWER_BYTES,
    Order,
    Said,
    Step,
    pack_order,
    unpack_said,
)
from registry.errors import InvalidModel, Violation
from registry.inspection import ModelCheck, State, graph_checks, refuse

_START = "from deployments.inference.trial_process import main; main()"
_NAMES = {
    Step.FACTS: "file",
    Step.SESSION: "loads",
    Step.GOLDEN: "golden case",
    Step.RUN: "dry run",
    Step.LATENCY: "latency",
}
_MIB = 1 << 20


@dataclass(frozen=True, slots=True)
class ModelReport:
    """What was found of a model file.

    Attributes:
        checks: In the order they were made.
        latencies_ms: For each batch size, the milliseconds of each run.
        peak_bytes: The most resident memory of the process that tried it.
    """

    checks: tuple[ModelCheck, ...]
    latencies_ms: dict[int, tuple[float, ...]]
    peak_bytes: int

    @property
    def fit(self) -> bool:
        """Whether nothing failed."""
        return not any(check.state is State.FAILED for check in self.checks)

    def require(self) -> None:
        """Raises `ForbiddenOperator` or `InvalidModel` where a check failed, with every fault."""
        refuse(self.checks)


def try_model(order: Order) -> ModelReport:
    """Hold a model file against every rule, and try it.

    Args:
        order: The file, its card if there is one, and the limits.
    """
    packed, ended_by = _tried(order)
    wanted = _wanted(order)
    try:
        said = unpack_said(packed)
    except InvalidModel as error:
        return ModelReport((_failed(Step.FACTS, error.detail),), {}, 0)
    checks: list[ModelCheck] = []
    stopped = ""  # why the steps that are left are not made
    for one in said:
        checks += _checks(one, order)
        if any(check.state is State.FAILED for check in checks):
            stopped = "not run: a check before it failed"
            break
    left = wanted[len(said) :]
    if left and not stopped:
        checks.append(_failed(left[0], ended_by, (_limits(order),)))
        left, stopped = left[1:], "not run: the process had ended"
    checks += [ModelCheck(_NAMES[step], State.SKIPPED, stopped) for step in dict.fromkeys(left)]
    return ModelReport(
        checks=tuple(checks),
        latencies_ms={
            one.batch: tuple(second * 1e3 for second in one.seconds)
            for one in said
            if one.step is Step.LATENCY and not one.detail
        },
        peak_bytes=max((one.peak_bytes for one in said), default=0),
    )


def _wanted(order: Order) -> list[Step]:
    """The steps of a file that is all right."""
    if order.card is None:
        return [Step.FACTS, Step.SESSION, Step.RUN]
    return [Step.FACTS, Step.SESSION, Step.GOLDEN, Step.LATENCY, Step.LATENCY]


def _tried(order: Order) -> tuple[bytes, str]:
    """What the process said, and what ended it where it did not end by itself."""
    with subprocess.Popen(  # noqa: S603  # this interpreter, our own code
        [sys.executable, "-P", "-c", _START],
        # Not ours: it holds secrets, and a file is tried with nothing but the import path.
        env={"PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "OPENBLAS_NUM_THREADS": "1"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,  # libraries write there what they find in a file
        start_new_session=True,  # Ctrl-C is for the command to handle
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        late = threading.Event()

        def stop() -> None:
            late.set()
            process.kill()

        clock = threading.Timer(order.wall_s, stop)
        clock.start()
        try:
            with contextlib.suppress(BrokenPipeError):  # it ended; its exit code tells why
                process.stdin.write(pack_order(order))
                process.stdin.close()
            packed = process.stdout.read(MAX_ANSWER_BYTES)
            if len(packed) == MAX_ANSWER_BYTES:
                process.kill()
            code = process.wait()  # still under the clock
        finally:
            clock.cancel()
    return packed, _ended_by(code, late=late.is_set())


def _ended_by(code: int, *, late: bool) -> str:
    if late or -code == signal.SIGXCPU:
        return "it took too long"
    if code < 0:
        return f"ONNX Runtime died of this file ({signal.Signals(-code).name})"
    return "the process that tried the file did not start"


def _limits(order: Order) -> Violation:
    limit = f"{order.wall_s:g} s and {order.memory_bytes // _MIB} MiB"
    return Violation("trial", limit=limit, advice="use a smaller model, or raise the limits")


def _checks(said: Said, order: Order) -> tuple[ModelCheck, ...]:
    """What one step came to."""
    if said.detail:
        return (_failed(said.step, said.detail, said.violations),)
    if said.facts is not None:
        return graph_checks(said.facts, order.card, allow_domains=order.allow_domains)
    return (ModelCheck(_name(said), *_figures(said, order)),)


def _name(said: Said) -> str:
    return f"latency, batch {said.batch}" if said.batch else _NAMES[said.step]


def _figures(said: Said, order: Order) -> tuple[State, str, str]:
    if said.step is Step.LATENCY:
        return State.TOLD, spread([second * 1e3 for second in said.seconds]), ""
    if said.step is Step.GOLDEN and order.card is not None:
        limit = f"scores within {order.card.golden.tolerance:g}"
        return State.PASSED, f"off by {said.deviation:.2g}", limit
    (seconds,) = said.seconds[:1]
    peak = f"{said.peak_bytes // _MIB} MiB resident"
    return State.PASSED, f"in {seconds:.2f} s, {peak}", f"{order.memory_bytes // _MIB} MiB"


def spread(milliseconds: list[float]) -> str:
    """Median and quartiles, in words."""
    if len(milliseconds) < 2:  # noqa: PLR2004  # one value has no quartiles
        return f"{milliseconds[0]:.2f} ms (1 run)"
    low, _, high = quantiles(milliseconds, n=4)
    middle = f"{median(milliseconds):.2f} ms"
    return f"{middle} (quartiles {low:.2f} to {high:.2f}, {len(milliseconds)} runs)"


def _failed(step: Step, detail: str, violations: tuple[Violation, ...] = ()) -> ModelCheck:
    faults = violations or (Violation(_NAMES[step], advice=detail),)
    return ModelCheck(_NAMES[step], State.FAILED, detail, faults=faults)
