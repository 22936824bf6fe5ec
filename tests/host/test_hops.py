"""How the images of one call are shared out between the replicas of a model."""

from uuid import uuid4

import numpy as np
import pytest

from deployments.hops import joined, shared_out
from registry.contract import ModelRef, Scores, Tensors

MODEL = ModelRef(uuid4(), "cxr", "1", "ab" * 32)


def tensors(count: int) -> Tensors:
    """So many images of one pixel each, numbered."""
    return Tensors(MODEL, np.arange(count, dtype=np.uint8).reshape(count, 1, 1, 1), ("trace",))


@pytest.mark.parametrize(
    ("images", "replicas", "sizes"),
    [(16, 0, [16]), (16, 1, [16]), (16, 2, [8, 8]), (7, 3, [3, 2, 2]), (1, 4, [1]), (2, 4, [1, 1])],
)
def test_every_replica_gets_its_share_and_none_an_empty_one(
    images: int, replicas: int, sizes: list[int]
) -> None:
    shares = shared_out(tensors(images), replicas)

    assert [len(share.pixels) for share in shares] == sizes
    assert np.array_equal(np.concatenate([s.pixels for s in shares]), tensors(images).pixels)
    assert {share.model for share in shares} == {MODEL}
    assert [trace for share in shares for trace in share.traces] == ["trace"]


def test_the_scores_are_in_the_order_of_the_images_with_the_time_of_the_slowest_run() -> None:
    first = Scores(np.array([[0.1], [0.2]], np.float32), 3.0, 2)
    second = Scores(np.array([[0.3]], np.float32), 5.0, 1)

    both = joined([first, second])

    assert both.values.ravel().tolist() == pytest.approx([0.1, 0.2, 0.3])
    assert (both.inference_ms, both.batch_size) == (5.0, 1)
