"""The large model of the bench: a real DenseNet-121, the same on every machine."""

import hashlib
from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import pytest

from benchmarks import densenet
from benchmarks.classifier import Classifier, load_card
from benchmarks.film import Picture, jpeg


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return densenet.write(tmp_path_factory.mktemp("models"))


def test_the_graph_is_a_densenet_121(folder: Path) -> None:
    model = onnx.load(folder / "model.onnx")

    onnx.checker.check_model(model, full_check=True)
    kinds = Counter(node.op_type for node in model.graph.node)
    # Two a dense layer (58 layers), one a transition (3), one at the beginning; one linear layer.
    assert kinds["Conv"] + kinds["Gemm"] == 121
    assert kinds["Concat"] == 58
    assert kinds["AveragePool"] == 3
    weights = sum(int(np.prod(weight.dims)) for weight in model.graph.initializer)
    assert weights == 7_033_282


def test_the_same_seed_gives_the_same_bytes() -> None:
    first, second = (densenet.build().SerializeToString(deterministic=True) for _ in range(2))

    assert first == second


def test_another_seed_gives_another_model() -> None:
    first, second = (densenet.build(seed).SerializeToString(deterministic=True) for seed in (1, 2))

    assert first != second


def test_the_card_describes_the_file(folder: Path) -> None:
    card = load_card(folder)

    assert card.sha256 == hashlib.sha256((folder / "model.onnx").read_bytes()).hexdigest()
    assert sum(card.golden.scores.values()) == pytest.approx(1, abs=1e-5)
    assert min(card.golden.scores.values()) > 0.01


def test_writing_again_changes_nothing(folder: Path) -> None:
    before = (folder / "model.onnx").stat().st_mtime_ns

    densenet.write(folder.parent)

    assert (folder / "model.onnx").stat().st_mtime_ns == before


def test_the_golden_case_holds_in_a_batch_too(folder: Path) -> None:
    classifier = Classifier.load(folder)
    card = classifier.card
    pixels = np.frombuffer(card.golden.pixels(card.input), np.uint8).reshape(1, 1, 224, 224)

    scores = classifier.scores(classifier.normalise(np.repeat(pixels, 3, axis=0)))

    assert scores.shape == (3, 2)
    wanted = [card.golden.scores[label] for label in card.output.labels]
    np.testing.assert_allclose(scores, [wanted] * 3, atol=card.golden.tolerance)


@pytest.mark.parametrize("picture", Picture)
def test_both_images_of_the_film_are_decoded_alike(folder: Path, picture: Picture) -> None:
    classifier = Classifier.load(folder)

    pixels = classifier.decode(jpeg(picture))

    assert pixels.shape == (1, 1, 224, 224)
    assert pixels.mean() / 255 == pytest.approx(0.754, abs=0.01)
