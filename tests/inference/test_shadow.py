"""A challenger beside a version that answers: counted, bounded, and never felt."""

import asyncio
import itertools
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from uuid import uuid4

import numpy as np
import onnx
import pytest
from prometheus_client import CollectorRegistry

from deployments.inference.host import ModelHost
from deployments.inference.shadow import REST, ShadowScoring
from deployments.inference.versions import HeldVersions
from deployments.telemetry.metrics import Instruments
from deployments.telemetry.metrics_prometheus import InstrumentsCollector
from registry.catalogue import Served, Shadow
from registry.contract import Scores, Tensors
from registry.shadow import Tally
from tests.inference.models import SIDE, Known, graph, logits, node, served

SIZE = 800  # of the matrices that make a model slow


def other_way_round() -> onnx.ModelProto:
    """Says DARK where the usual graph says BRIGHT."""
    model = graph()
    (signs,) = (one for one in model.graph.initializer if one.name == "signs")
    signs.CopyFrom(onnx.numpy_helper.from_array(np.array([[1, -1]], np.float32), "signs"))
    return model


def slow() -> onnx.ModelProto:
    """The usual answer, after some tenths of a second of work on one core."""
    nodes = [
        node("ReduceMean", ["plain"], ["scalar"], keepdims=0),
        node("Mul", ["scalar", "weights"], ["m0"]),
        *(node("MatMul", [f"m{step}", "weights"], [f"m{step + 1}"]) for step in range(4)),
        node("ReduceMean", ["m4"], ["last_mean"], keepdims=0),
        node("Mul", ["last_mean", "tiny"], ["nothing"]),
        node("Add", ["plain", "nothing"], ["logits"]),
    ]
    weights = np.full((SIZE, SIZE), 1 / SIZE, np.float32)
    return logits(nodes, weights=weights, tiny=np.array(1e-9, np.float32))


def crashing() -> onnx.ModelProto:
    """The usual answer; for images above middle grey ONNX Runtime fails: an index lies outside."""
    nodes = [
        node("Relu", ["plain"], ["positive"]),
        node("Gather", ["positive", "second"], ["bright"], axis=1),
        node("Mul", ["bright", "ten"], ["tens"]),
        node("Cast", ["tens"], ["place"], to=onnx.TensorProto.INT64),
        node("Gather", ["zeros", "place"], ["nothing"]),
        node("Add", ["plain", "nothing"], ["logits"]),
    ]
    return logits(
        nodes,
        second=np.array([1], np.int64),
        ten=np.array(10, np.float32),
        zeros=np.zeros(5, np.float32),
    )


def images(version: Served, *values: int) -> Tensors:
    """One image of each value."""
    pixels = [np.full((1, SIDE, SIDE), value, np.uint8) for value in values]
    return Tensors(version.model, np.stack(pixels))


class Stage:
    """A replica with a version that answers and a challenger."""

    def __init__(
        self,
        directory: Path,
        model: onnx.ModelProto | None = None,
        *,
        share: float = 1.0,
        chance: Callable[[], float] = lambda: 0.0,
        max_waiting_bytes: int = 2**20,
        **card: object,
    ) -> None:
        active = served(directory)
        other = served(directory, model, version="1.1.0", **card)
        self.active = active
        self.challenger = replace(other, model=replace(other.model, id=uuid4()))
        self.instruments = Instruments("model:tiny")
        self.held = HeldVersions(
            active,
            Known(active, self.challenger),
            lambda version: ModelHost(version, threads=1, deadline_s=5),
        )
        self.scoring = ShadowScoring(
            self.held.loaded,
            self.instruments,
            chance=chance,
            max_waiting_bytes=max_waiting_bytes,
        )
        self.held.on_answer(self.scoring.offer)
        self.shadow = Shadow(uuid4(), active.model.id, self.challenger, share)

    async def begin(self) -> None:
        """Load the challenger and put it in the shadow."""
        self.held.hold((self.active, self.challenger), self.active.model)
        self.scoring.follow(self.shadow, self.active)
        await until(lambda: self.held.loaded(self.challenger.model.id) is not None)

    async def ask(self, *values: int) -> Scores:
        return await self.held.score(images(self.active, *values))

    @property
    def tally(self) -> Tally:
        return self.scoring.tallies()[self.shadow.id]

    @property
    def seen(self) -> int:
        """Images that are done with."""
        return self.tally.compared + self.tally.failed + self.tally.dropped

    async def close(self) -> None:
        await self.scoring.close()
        await self.held.close()


async def until(condition: Callable[[], bool], within_s: float = 20) -> None:
    async with asyncio.timeout(within_s):
        while not condition():  # noqa: ASYNC110  # nothing tells when a thread is done
            await asyncio.sleep(0.005)


async def test_decisions_differences_and_latency_are_counted_by_pair(tmp_path: Path) -> None:
    stage = Stage(tmp_path, other_way_round(), confidence_threshold=0.9)
    registry = CollectorRegistry()
    registry.register(InstrumentsCollector(stage.instruments))
    await stage.begin()
    at_first = dict(stage.instruments.shadow_comparisons.points())

    await stage.ask(255, 255, 0)  # BRIGHT, BRIGHT, DARK against the opposite
    await stage.ask(140)  # BRIGHT, but the challenger is not sure enough
    await until(lambda: stage.seen == 4)

    assert stage.tally.pairs == {
        ("BRIGHT", "DARK"): 2,
        ("DARK", "BRIGHT"): 1,
        ("BRIGHT", "BELOW_THRESHOLD"): 1,
    }
    assert (stage.tally.compared, stage.tally.agreed) == (4, 0)
    assert sum(stage.tally.differences[-2:]) == 3  # 0.5 to 1
    assert stage.tally.latency_ms(0.5) is not None
    assert at_first == {("tiny", "1.1.0", "true"): 0, ("tiny", "1.1.0", "false"): 0}
    value, version = registry.get_sample_value, {"model": "tiny", "version": "1.1.0"}
    assert value("medai_shadow_comparisons_total", version | {"agrees": "false"}) == 4
    pair = {"answered": "BRIGHT", "challenger": "DARK"}
    assert value("medai_shadow_decisions_total", version | pair) == 2
    assert value("medai_shadow_difference_ratio_count", version) == 4
    assert value("medai_shadow_seconds_count", version) == 4
    await stage.close()


async def test_a_challenger_scores_the_same_pixels_with_its_own_scale(tmp_path: Path) -> None:
    spec = {"height": SIDE, "width": SIDE, "scale": 1.0, "mean": [127.5], "std": [63.75]}
    stage = Stage(tmp_path, input=spec)  # the same arithmetic, spelt otherwise
    await stage.begin()

    await stage.ask(0, 100, 128, 200, 255)
    await until(lambda: stage.seen == 5)

    assert stage.tally.agreed == 5
    assert stage.tally.differences[0] == 5  # at most 0.001
    await stage.close()


async def test_labels_in_another_order_are_compared_by_their_names(tmp_path: Path) -> None:
    output = {"activation": "softmax", "labels": ["BRIGHT", "DARK"]}
    stage = Stage(tmp_path, other_way_round(), output=output)
    await stage.begin()

    await stage.ask(0, 255)
    await until(lambda: stage.seen == 2)

    assert stage.tally.pairs == {("BRIGHT", "BRIGHT"): 1, ("DARK", "DARK"): 1}
    await stage.close()


async def test_answers_go_out_while_a_slow_challenger_works(tmp_path: Path) -> None:
    stage = Stage(tmp_path, slow())
    await stage.begin()
    challenger = stage.held.loaded(stage.challenger.model.id)
    assert challenger is not None
    went_out = 0

    await stage.ask(255)
    await until(lambda: not challenger.idle)
    while not challenger.idle:
        await stage.ask(255)
        went_out += not challenger.idle

    assert went_out >= 3  # during its first run of a tenth of a second and more
    await stage.close()


async def test_a_slow_challenger_rests_three_times_as_long_as_it_works(tmp_path: Path) -> None:
    stage = Stage(tmp_path, slow())
    await stage.begin()
    started = time.perf_counter()

    for _ in range(6):
        await stage.ask(255)
    await until(lambda: stage.tally.compared == 3)

    elapsed = time.perf_counter() - started
    worked = 3 * (stage.tally.latency_ms(0.01) or 0) / 1.26 / 1e3  # at least
    assert worked > 0.01
    assert elapsed > worked * (1 + 2 / 3 * REST)  # two rests lie between three runs
    await stage.close()


async def test_what_does_not_fit_is_dropped_and_counted(tmp_path: Path) -> None:
    stage = Stage(tmp_path, slow(), max_waiting_bytes=3 * SIDE * SIDE)
    await stage.begin()

    answers = await asyncio.gather(*(stage.ask(255) for _ in range(20)))

    assert len(answers) == 20
    assert stage.tally.dropped >= 16  # three wait, one is being scored
    missed = dict(stage.instruments.shadow_missed.points())
    assert missed["tiny", "1.1.0", "dropped"] == stage.tally.dropped
    await stage.close()


async def test_a_challenger_that_crashes_harms_nobody_and_is_counted(tmp_path: Path) -> None:
    stage = Stage(tmp_path, crashing())
    await stage.begin()

    bright = await stage.ask(255, 255)
    await until(lambda: stage.seen == 2)
    dark = await stage.ask(0)
    await until(lambda: stage.seen == 3)

    assert bright.values.argmax(axis=1).tolist() == [1, 1]
    assert dark.values.argmax(axis=1).tolist() == [0]
    assert (stage.tally.failed, stage.tally.compared) == (2, 1)
    stage.held.check_health()
    await stage.close()


async def test_an_answer_that_is_not_finite_is_a_failure_of_the_challenger(tmp_path: Path) -> None:
    ruined = logits([node("Div", ["plain", "zero"], ["logits"])], zero=np.array(0, np.float32))
    with pytest.raises(AssertionError):  # it fails its golden case, so it is never loaded
        await compared_with(tmp_path, ruined)
    bright_only = logits(
        [
            node("Sub", ["limit", "plain"], ["room"]),
            node("Sqrt", ["room"], ["root"]),  # NaN above the limit
            node("Mul", ["root", "zero"], ["nothing"]),
            node("Add", ["plain", "nothing"], ["logits"]),
        ],
        limit=np.array(1.5, np.float32),
        zero=np.array(0, np.float32),
    )

    tally = await compared_with(tmp_path, bright_only)

    assert (tally.compared, tally.failed) == (1, 1)


async def compared_with(directory: Path, model: onnx.ModelProto) -> Tally:
    """What is counted of one middling and one white image."""
    stage = Stage(directory, model)
    stage.held.hold((stage.active, stage.challenger), stage.active.model)
    stage.scoring.follow(stage.shadow, stage.active)
    await until(lambda: stage.challenger.model.id not in stage.held._loading)
    try:
        assert stage.held.loaded(stage.challenger.model.id) is not None
        await stage.ask(128, 255)
        await until(lambda: stage.seen == 2)
        return stage.tally
    finally:
        await stage.close()


async def test_only_the_share_is_scored(tmp_path: Path) -> None:
    turns = itertools.cycle((0.05, 0.1, 0.5, 0.9))
    stage = Stage(tmp_path, share=0.1, chance=lambda: next(turns))
    await stage.begin()

    for _ in range(40):
        await stage.ask(255)
    await until(lambda: stage.seen == 10)
    await asyncio.sleep(0.05)

    assert stage.tally.compared == 10
    await stage.close()


async def test_a_comparison_that_ends_scores_nothing_any_longer(tmp_path: Path) -> None:
    stage = Stage(tmp_path, slow())
    await stage.begin()
    for _ in range(3):
        await stage.ask(255)

    stage.scoring.follow(None, stage.active)
    await stage.ask(255)
    await asyncio.sleep(1)  # longer than all three would have taken

    assert stage.tally.compared <= 1  # the one that was under way
    assert stage.scoring.forget(stage.shadow.id)
    assert stage.scoring.tallies() == {}
    await stage.close()


async def test_answers_of_another_version_are_not_compared(tmp_path: Path) -> None:
    stage = Stage(tmp_path)
    await stage.begin()

    await stage.held.score(images(stage.challenger, 255))  # a late caller of another version
    await asyncio.sleep(0.1)
    late = stage.seen
    stage.scoring.follow(stage.shadow, stage.challenger)  # it became the one that answers
    await stage.ask(255)
    await asyncio.sleep(0.1)

    assert late == stage.seen == 0
    await stage.close()


async def test_nothing_is_counted_before_the_challenger_is_loaded(tmp_path: Path) -> None:
    stage = Stage(tmp_path)
    stage.scoring.follow(stage.shadow, stage.active)

    await stage.ask(255)
    await asyncio.sleep(0.05)

    assert stage.seen == 0
    await stage.close()
