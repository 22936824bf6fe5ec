"""A file or a model that fails harms its own images and nobody else's."""

import os
from dataclasses import replace
from pathlib import Path
from uuid import uuid4

import numpy as np
import pytest

from deployments.inference.host import ModelHost
from deployments.inference.predictor import Predictor
from deployments.telemetry.metrics import Instruments
from registry.contract import Outcome, Scores, Tensors
from registry.errors import (
    Internal,
    InvalidConfiguration,
    ModelHalted,
    ModelNonfiniteOutput,
    ModelUnavailable,
    UndecodableImage,
)
from tests.inference import bombs
from tests.inference.files import FILM, dicom_file, encoded, film_jpeg, film_pixels
from tests.inference.models import InProcess, logits, node, served
from tests.inference.predictors import BODY_PART, CXR, build, one, upload


async def test_one_bad_file_among_eight_is_refused_alone(predictor: Predictor) -> None:
    uploads = [upload(film_jpeg()) for _ in range(8)]
    uploads[3] = replace(uploads[3], body=film_jpeg()[:2000])

    verdicts = await predictor.screen(uploads)

    assert isinstance(verdicts[3].error, UndecodableImage)
    others = [verdict.outcome for index, verdict in enumerate(verdicts) if index != 3]
    assert others == [Outcome.PREDICTED] * 7


@pytest.mark.parametrize(
    ("raised", "seen"),
    [(ModelHalted("stopped"), ModelHalted), (RuntimeError("DOE^JOHN"), Internal)],
)
async def test_a_model_that_fails_concerns_only_its_own_images(
    hosts: dict[str, ModelHost], key_file: Path, raised: Exception, seen: type[Exception]
) -> None:
    predictor = build(InProcess(hosts, {"cxr-pneumonia": raised}), key_file)

    cxr, body_part = await predictor.screen([upload(film_jpeg()), upload(film_jpeg(), BODY_PART)])

    assert cxr.outcome is Outcome.FAILED
    assert type(cxr.error) is seen
    assert "DOE" not in str(cxr.error)
    assert cxr.validation is not None
    assert body_part.outcome is Outcome.PREDICTED
    await predictor.close()


async def test_an_answer_that_is_short_is_a_failure_of_all_its_images(key_file: Path) -> None:
    class Short:
        async def score(self, _: Tensors) -> Scores:
            return Scores(np.ones((1, 2), np.float32), 1.0, 1)

    predictor = build(InProcess({"cxr-pneumonia": Short()}), key_file)

    verdicts = await predictor.screen([upload(film_jpeg()), upload(film_jpeg())])

    assert [verdict.outcome for verdict in verdicts] == [Outcome.FAILED] * 2
    await predictor.close()


async def test_an_answer_that_is_not_finite_fails_for_its_image_alone(
    tmp_path: Path, key_file: Path
) -> None:
    nodes = [
        node("Greater", ["plain", "limit"], ["much"]),
        node("Where", ["much", "bad", "plain"], ["logits"]),
    ]
    weights = {"limit": np.array(0.9, np.float32), "bad": np.array(np.nan, np.float32)}
    tiny = served(tmp_path, logits(nodes, **weights))
    host = ModelHost(tiny, threads=1, deadline_s=5)
    predictor = build(InProcess({"tiny": host}), key_file, tiny)
    dark = encoded(film_pixels() // 2)

    bright, other = await predictor.screen([upload(film_jpeg(), tiny), upload(dark, tiny)])

    assert isinstance(bright.error, ModelNonfiniteOutput)
    assert bright.outcome is Outcome.FAILED
    assert other.prediction == "DARK"
    await predictor.close()
    await host.close()


async def test_a_gate_without_an_active_version_is_our_failure(
    scoring: InProcess, key_file: Path
) -> None:
    predictor = build(scoring, key_file, CXR)

    for body in (film_jpeg(), dicom_file(FILM)):
        verdict = await one(predictor, upload(body))

        assert verdict.outcome is Outcome.FAILED
        assert isinstance(verdict.error, ModelUnavailable)
        assert verdict.facts.size_bytes == len(body)
    await predictor.close()


async def test_an_unknown_version_is_our_failure_and_harms_nobody(predictor: Predictor) -> None:
    lost = upload(film_jpeg())
    lost = replace(lost, model=replace(lost.model, id=uuid4()))

    unknown, known = await predictor.screen([lost, upload(film_jpeg())])

    assert unknown.outcome is Outcome.FAILED
    assert known.outcome is Outcome.PREDICTED


async def test_a_decoder_that_ends_before_its_file_is_counted(
    scoring: InProcess, key_file: Path
) -> None:
    ours = Instruments("validator")
    predictor = build(scoring, key_file, instruments=ours)

    verdict = await one(predictor, upload(bombs.element_flood(600_000)))
    await predictor.close()

    assert verdict.facts.width == 16
    assert (("not_soon",), 1.0) in ours.decoder_restarts.points()


async def test_a_key_that_is_too_short_stops_the_start(scoring: InProcess, tmp_path: Path) -> None:
    short = tmp_path / "short.key"
    short.write_bytes(os.urandom(8))

    with pytest.raises(InvalidConfiguration, match="too short"):
        build(scoring, short)
