"""When the database is asked for a connection, and when not."""

import pytest

from registry.errors import DatabaseUnavailable
from storage.circuit import Circuit, CircuitState


class Stopwatch:
    """Seconds, as the test says."""

    def __init__(self) -> None:
        self.seconds = 100.0

    def __call__(self) -> float:
        return self.seconds


@pytest.fixture
def stopwatch() -> Stopwatch:
    return Stopwatch()


@pytest.fixture
def circuit(stopwatch: Stopwatch) -> Circuit:
    return Circuit(threshold=2, pause_s=1.0, clock=stopwatch)


def test_one_failure_does_not_open_it(circuit: Circuit) -> None:
    circuit.enter()
    circuit.failed()

    circuit.enter()

    assert circuit.state is CircuitState.CLOSED


def test_failures_in_a_row_open_it(circuit: Circuit) -> None:
    circuit.failed()
    circuit.failed()

    with pytest.raises(DatabaseUnavailable) as caught:
        circuit.enter()

    assert circuit.state is CircuitState.OPEN
    assert caught.value.retry_after_s == 1


def test_a_success_between_failures_keeps_it_closed(circuit: Circuit) -> None:
    circuit.failed()
    circuit.succeeded()
    circuit.failed()

    assert circuit.state is CircuitState.CLOSED


def test_after_the_pause_one_caller_may_look(circuit: Circuit, stopwatch: Stopwatch) -> None:
    circuit.failed()
    circuit.failed()
    stopwatch.seconds += 1.0
    half_open = circuit.state

    circuit.enter()

    assert half_open is CircuitState.HALF_OPEN
    with pytest.raises(DatabaseUnavailable):
        circuit.enter()


def test_what_the_looker_finds_decides(circuit: Circuit, stopwatch: Stopwatch) -> None:
    circuit.failed()
    circuit.failed()
    stopwatch.seconds += 1.0
    circuit.enter()
    circuit.failed()
    after_failure = circuit.state
    stopwatch.seconds += 1.0
    circuit.enter()
    circuit.succeeded()

    circuit.enter()

    assert after_failure is CircuitState.OPEN
    assert circuit.state is CircuitState.CLOSED


def test_a_looker_who_is_never_heard_of_does_not_leave_it_stuck(
    circuit: Circuit, stopwatch: Stopwatch
) -> None:
    circuit.failed()
    circuit.failed()
    stopwatch.seconds += 1.0
    circuit.enter()
    stopwatch.seconds += 1.0

    circuit.enter()

    assert circuit.state is CircuitState.OPEN  # for everybody else
