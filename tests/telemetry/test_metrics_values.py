"""Counters, gauges and histograms: exact, and bounded in what their labels may say."""

from concurrent.futures import ThreadPoolExecutor
from threading import Lock

import pytest

from deployments.telemetry import metrics_values
from deployments.telemetry.metrics_values import (
    NONE,
    OTHER,
    Counter,
    CounterSpec,
    Gauge,
    GaugeSpec,
    Histogram,
    HistogramSpec,
    Label,
    Vocabulary,
)

COLOUR = Label("colour", frozenset({"red", "green"}))


def counter(*labels: Label) -> Counter:
    return CounterSpec("things_total", "Things.", *labels).make(
        [Vocabulary(label) for label in labels], Lock()
    )


def gauge(*labels: Label) -> Gauge:
    return GaugeSpec("things", "Things.", *labels).make(
        [Vocabulary(label) for label in labels], Lock()
    )


def histogram(*bounds: float) -> Histogram:
    return HistogramSpec("things_seconds", "Things.", bounds=bounds).make([], Lock())


def test_a_fixed_label_knows_its_values_and_no_other() -> None:
    words = Vocabulary(COLOUR)

    assert [words.admit(value) for value in ("red", "blue", "", "red")] == [
        "red", OTHER, NONE, "red",
    ]  # fmt: skip


def test_an_open_label_tells_the_first_values_apart_up_to_its_limit() -> None:
    words = Vocabulary(Label("name", limit=2))

    assert [words.admit(value) for value in ("a", "b", "c", "a")] == ["a", "b", OTHER, "a"]


def test_text_from_outside_is_shown_only_once_it_came_often() -> None:
    words = Vocabulary(Label("scanner", limit=5, after=3))

    assert [words.admit("DOE^JOHN"), words.admit("ACME X1"), words.admit("ACME X1")] == [OTHER] * 3
    assert words.admit("ACME X1") == "ACME X1"
    assert words.admit("DOE^JOHN") == OTHER


def test_rare_values_take_bounded_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics_values, "MAX_CANDIDATES", 10)
    words = Vocabulary(Label("scanner", limit=5, after=2))

    for number in range(1000):
        assert words.admit(f"scanner {number}") == OTHER

    assert len(words._seen) <= 10


def test_saying_other_and_none_does_not_use_up_the_limit() -> None:
    words = Vocabulary(Label("name", limit=1))

    assert [words.admit(value) for value in (OTHER, NONE, "a", "b")] == [OTHER, NONE, "a", OTHER]


def test_a_counter_adds_and_never_falls() -> None:
    things = counter(COLOUR)

    things.add(2, "red")
    things.add(-5, "red")
    things.add(1, "violet")

    assert things.points() == [(("red",), 2.0), ((OTHER,), 1.0)]


def test_a_counter_takes_over_a_total_and_never_goes_back() -> None:
    things = counter()

    things.advance(7)
    things.advance(3)

    assert things.points() == [((), 7.0)]


def test_adding_nothing_makes_a_series_known() -> None:
    things = counter(COLOUR)

    things.add(0, "green")

    assert things.points() == [(("green",), 0.0)]


def test_the_number_of_label_values_must_be_right() -> None:
    with pytest.raises(ValueError, match="things_total has the labels colour"):
        counter(COLOUR).add(1)


def test_a_gauge_forgets_what_is_no_longer_there() -> None:
    things = gauge(Label("name", limit=5))
    things.set(1, "old")
    things.set(2, "new")

    things.keep_only([("new",)])

    assert things.points() == [(("new",), 2.0)]


def test_bounds_of_a_histogram_are_inclusive_and_its_sum_is_exact() -> None:
    things = histogram(0.1, 1.0)

    for value in (0.1, 0.25, 1.0, 30.0):
        things.observe(value)

    [(_, seen)] = things.points()
    assert seen.cumulative == (1, 3, 4)
    assert seen.sum == 31.35
    assert things.uppers == ("0.1", "1.0", "+Inf")


def test_a_clock_set_back_counts_as_no_time_and_nan_counts_not_at_all() -> None:
    things = histogram(0.1)

    things.observe(-1.0)
    things.observe(float("nan"))

    assert things.points()[0][1] == metrics_values.Distribution((1, 1), 0.0)


def test_series_of_one_instrument_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics_values, "MAX_SERIES", 3)
    things = counter(Label("a", limit=10), Label("b", limit=10))

    for number in range(5):
        things.add(1, f"a{number}", f"b{number}")

    assert dict(things.points())[OTHER, OTHER] == 2.0
    assert len(things.points()) == 4


def test_counts_from_many_threads_are_exact() -> None:
    things, seconds = counter(COLOUR), histogram(0.5)

    def count(_: int) -> None:
        for _ in range(2000):
            things.add(1, "red")
            seconds.observe(0.25)

    with ThreadPoolExecutor(8) as threads:
        list(threads.map(count, range(8)))

    assert things.points() == [(("red",), 16_000.0)]
    assert seconds.points()[0][1] == metrics_values.Distribution((16_000, 16_000), 4000.0)
