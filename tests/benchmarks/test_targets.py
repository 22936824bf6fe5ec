"""The arithmetic of the table: medians, ratios within a round, and verdicts."""

import pytest

from benchmarks.figures import Figures, Sample
from benchmarks.film import Picture
from benchmarks.percentiles import Latency
from benchmarks.rows import CXR, UNGATED, Cell
from benchmarks.targets import LESS, TARGETS, Target, Verdict, judged


def cell(row: str, clients: int) -> Cell:
    return Cell(row, CXR, Picture.SMALL, clients)


def sample(throughput: float, p50: float = 1.0) -> Sample:
    return Sample(throughput, Latency(p50=p50), {"200": 10, "503": 1}, {"model": throughput / 100})


def measured(rounds: dict[str, list[Sample]], clients: int) -> Figures:
    figures = Figures()
    for row, samples in rounds.items():
        for turn, each in enumerate(samples):
            figures.add(cell(row, clients), turn, each)
    return figures


@pytest.mark.parametrize(
    ("value", "verdict"),
    [
        (None, Verdict.OPEN),
        (1.19, Verdict.MISSED),
        (1.2, Verdict.MET),
        (1.69, Verdict.MET),
        (1.7, Verdict.AIM),
    ],
)
def test_more_is_better_where_it_is(value: float | None, verdict: Verdict) -> None:
    assert Target("k", "what", must=1.2, aim=1.7).judge(value) is verdict


@pytest.mark.parametrize(
    ("value", "verdict"),
    [(1.11, Verdict.MISSED), (1.1, Verdict.MET), (0.51, Verdict.MET), (0.5, Verdict.AIM)],
)
def test_less_is_better_where_it_is(value: float, verdict: Verdict) -> None:
    assert Target("k", "what", must=1.1, aim=0.5, direction=LESS).judge(value) is verdict


def test_a_target_without_an_aim_is_met_or_missed() -> None:
    target = Target("k", "what", must=0, direction=LESS)

    assert target.judge(0) is Verdict.MET
    assert target.judge(1) is Verdict.MISSED


def test_a_cell_is_the_median_of_its_rounds_and_the_sum_of_its_errors() -> None:
    figures = measured({"bare": [sample(100), sample(900), sample(200)]}, clients=1)

    median = figures.median(cell("bare", 1))

    assert median.throughput == 200
    assert median.cpu_ms == {"model": 2.0}
    assert median.statuses == {"200": 30, "503": 3}


def test_a_ratio_is_taken_within_each_round() -> None:
    """The second round was slow for both: their ratio stands, the ratio of medians would not."""
    rounds = {
        UNGATED.name: [sample(1200), sample(600), sample(1100)],
        "litserve": [sample(1000), sample(300), sample(1000)],
    }

    lines = {line.target.key: line for line in judged(measured(rounds, clients=64), {})}

    assert lines["litserve_64"].measured == pytest.approx(1.2)
    assert lines["litserve_64"].spread == pytest.approx((1.1, 2.0))
    assert lines["litserve_64"].verdict is Verdict.MET


def test_a_round_that_one_row_missed_does_not_count() -> None:
    rounds = {UNGATED.name: [sample(900), sample(1300)], "litserve": [sample(1000)]}

    lines = {line.target.key: line for line in judged(measured(rounds, clients=16), {})}

    assert lines["litserve_16"].measured == pytest.approx(0.9)


def test_latency_is_compared_by_its_median_request() -> None:
    rounds = {UNGATED.name: [sample(1, p50=3.0)], "litserve": [sample(1, p50=4.0)]}

    lines = {line.target.key: line for line in judged(measured(rounds, clients=1), {})}

    assert lines["p50_1"].measured == pytest.approx(0.75)
    assert lines["p50_1"].verdict is Verdict.MET


def test_what_was_not_measured_is_not_met() -> None:
    lines = judged(Figures(), {})

    assert [line.target for line in lines] == list(TARGETS)
    assert {line.verdict for line in lines} == {Verdict.OPEN}


def test_figures_beside_the_cells_are_judged_too() -> None:
    lines = {line.target.key: line for line in judged(Figures(), {"idle_gib": 1.2})}

    assert lines["idle_gib"].verdict is Verdict.MET
