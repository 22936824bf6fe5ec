"""The Validator's work, whole: real models, real films, and nobody harmed by anybody."""

import asyncio
import os
import threading
import time
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from uuid import uuid4

import numpy as np
import pytest

from configs.settings import LimitSettings, PrivacySettings
from configs.topology import ValidatorTuning
from deployments.inference.host import ModelHost
from deployments.inference.predictor import Predictor
from deployments.inference.prepare import Prepared, Work, prepare
from deployments.inference.pseudonym import Pseudonyms
from deployments.inference.signature import signature
from deployments.telemetry.metrics import Instruments
from registry.catalogue import Served
from registry.contract import Outcome, Reason, Scores, Tensors, Upload, Verdict
from registry.errors import (
    Internal,
    InvalidConfiguration,
    ModelHalted,
    ModelNonfiniteOutput,
    ModelUnavailable,
    UndecodableImage,
    UnsupportedMediaType,
    ValidationFailed,
)
from tests.inference import bombs
from tests.inference.files import (
    FILM,
    HEAD_CT,
    LIMITS,
    decode,
    dicom_file,
    encoded,
    film_jpeg,
    film_pixels,
)
from tests.inference.models import InProcess, Known, bundled, logits, node, served
from tests.inference.ruined import moved

CXR, BODY_PART = bundled("cxr-pneumonia"), bundled("body-part")
KEY = bytes(range(32))


@pytest.fixture(scope="module")
def hosts() -> dict[str, ModelHost]:
    """The bundled models, hosted in this process."""
    return {
        version.model.name: ModelHost(version, threads=1, deadline_s=30)
        for version in (CXR, BODY_PART)
    }


@pytest.fixture
def key_file(tmp_path: Path) -> Path:
    path = tmp_path / "pseudonym.key"
    path.write_bytes(KEY)
    return path


@pytest.fixture
def scoring(hosts: dict[str, ModelHost]) -> InProcess:
    return InProcess(hosts)


@pytest.fixture
async def predictor(scoring: InProcess, key_file: Path) -> AsyncIterator[Predictor]:
    predictor = build(scoring, key_file)
    yield predictor
    await predictor.close()


def build(
    scoring: InProcess,
    key_file: Path,
    *versions: Served,
    instruments: Instruments | None = None,
    **privacy: str,
) -> Predictor:
    return Predictor(
        Known(*(versions or (CXR, BODY_PART))),
        scoring,
        limits=LIMITS,
        privacy=PrivacySettings.model_validate(privacy),
        pseudonym_key_file=key_file,
        instruments=instruments,
    )


def upload(body: bytes, version: Served = CXR, media_type: str | None = None) -> Upload:
    kind = media_type or signature(body).media_type or "image/png"
    return Upload(uuid4(), version.model, body, kind)


async def one(predictor: Predictor, sent: Upload) -> Verdict:
    (verdict,) = await predictor.screen([sent])
    return verdict


async def test_a_film_is_answered_with_everything_measured(predictor: Predictor) -> None:
    verdict = await one(predictor, upload(film_jpeg()))

    assert verdict.outcome is Outcome.PREDICTED
    assert verdict.prediction == "NORMAL"
    assert sum(verdict.scores.values()) == pytest.approx(1, abs=1e-5)
    assert verdict.gate is not None
    assert verdict.gate.passed
    assert verdict.validation is not None
    assert verdict.validation.score > 0.8
    assert min(verdict.decode_ms, verdict.validate_ms, verdict.preprocess_ms) > 0
    assert verdict.model_ms >= verdict.inference_ms > 0
    assert verdict.error is None


async def test_the_adult_film_gets_scores_and_no_label_from_a_childrens_model(
    predictor: Predictor,
) -> None:
    verdict = await one(predictor, upload(dicom_file(FILM)))

    assert verdict.outcome is Outcome.ABSTAINED
    assert verdict.reasons == (Reason.OUTSIDE_INTENDED_USE,)
    assert verdict.scores["PNEUMONIA"] == pytest.approx(0.1885, abs=1e-3)
    assert verdict.patient == Pseudonyms(KEY, version=1).of("9RG1")
    assert verdict.facts.view == "PA"


async def test_a_head_ct_never_gets_pneumonia(predictor: Predictor) -> None:
    as_dicom = await one(predictor, upload(dicom_file(HEAD_CT)))
    as_jpeg = await one(predictor, upload(encoded(decode(dicom_file(HEAD_CT)).pixels, "JPEG")))

    assert as_dicom.outcome is Outcome.REJECTED
    assert isinstance(as_dicom.error, ValidationFailed)
    assert [violation.rule for violation in as_dicom.error.violations] == ["modality"]
    assert as_jpeg.outcome is Outcome.ABSTAINED
    assert as_jpeg.reasons == (Reason.OUT_OF_DOMAIN,)
    assert as_jpeg.scores == {}


async def test_one_bad_file_among_eight_is_refused_alone(predictor: Predictor) -> None:
    uploads = [upload(film_jpeg()) for _ in range(8)]
    uploads[3] = replace(uploads[3], body=film_jpeg()[:2000])

    verdicts = await predictor.screen(uploads)

    assert isinstance(verdicts[3].error, UndecodableImage)
    others = [verdict.outcome for index, verdict in enumerate(verdicts) if index != 3]
    assert others == [Outcome.PREDICTED] * 7


async def test_files_of_every_kind_keep_their_order(
    predictor: Predictor, scoring: InProcess
) -> None:
    ruined = encoded(moved(20, 1)(film_pixels()))
    uploads = [
        upload(dicom_file(FILM)),
        upload(film_jpeg()),
        upload(b"GIF89a"),
        upload(dicom_file("MR_truncated.dcm")),
        upload(ruined),
        upload(film_jpeg(), BODY_PART),
        upload(film_jpeg(2500)),
        upload(film_jpeg(), media_type="image/png"),
    ]

    verdicts = await predictor.screen(uploads)

    assert [verdict.outcome for verdict in verdicts] == [
        Outcome.ABSTAINED,
        Outcome.PREDICTED,
        Outcome.REJECTED,
        Outcome.REJECTED,
        Outcome.REJECTED,
        Outcome.PREDICTED,
        Outcome.PREDICTED,
        Outcome.REJECTED,
    ]
    for sent, verdict in zip(uploads, verdicts, strict=True):
        assert verdict.facts.size_bytes == len(sent.body)
    assert isinstance(verdicts[2].error, UnsupportedMediaType)
    assert verdicts[5].prediction == "CXR"
    assert sorted(scoring.calls) == [("body-part", 1), ("cxr-pneumonia", 3)]


async def test_all_images_of_a_model_go_as_one_call(
    predictor: Predictor, scoring: InProcess
) -> None:
    await predictor.screen([upload(film_jpeg()) for _ in range(5)])

    assert scoring.calls == [("cxr-pneumonia", 5)]


async def test_nothing_is_asked_of_a_model_where_every_image_was_refused(
    predictor: Predictor, scoring: InProcess
) -> None:
    await predictor.screen([upload(b"GIF89a"), upload(film_jpeg()[:500])])

    assert scoring.calls == []
    assert await predictor.screen([]) == []


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


async def test_an_image_has_the_pseudonym_that_came_along(predictor: Predictor) -> None:
    sent = replace(upload(film_jpeg()), patient="p1:given")

    assert (await one(predictor, sent)).patient == "p1:given"
    assert (await one(predictor, upload(film_jpeg()))).patient is None


async def test_a_film_of_another_patient_than_was_said_is_refused(predictor: Predictor) -> None:
    pseudonyms = Pseudonyms(KEY, version=1)
    sent = upload(dicom_file(FILM))

    matched, differing = [
        await one(predictor, replace(sent, patient=pseudonyms.of(said)))
        for said in (" 9rg1 ", "9RG2")
    ]

    assert matched.outcome is Outcome.ABSTAINED
    assert isinstance(differing.error, ValidationFailed)
    assert differing.validation is not None
    assert "PATIENT_MISMATCH" in differing.validation.error_codes
    assert differing.patient == pseudonyms.of("9RG2")
    assert str(pseudonyms.of("9RG1")) not in repr(differing)


async def test_no_identifier_of_the_header_is_in_a_verdict(predictor: Predictor) -> None:
    for name in (FILM, "RG3_UNCR.dcm", "MR_truncated.dcm", "eCT_Supplemental.dcm"):
        text = repr(await one(predictor, upload(dicom_file(name))))

        for secret in ("CompressedSamples", "9RG1", "11RG3", "1940", "THORAX", "FUJI95706"):
            assert secret not in text


async def test_the_sites_privacy_policy_is_applied(scoring: InProcess, key_file: Path) -> None:
    from io import BytesIO

    from pydicom import dcmread

    film = dcmread(BytesIO(dicom_file(FILM)))
    film.BurnedInAnnotation = "YES"
    buffer = BytesIO()
    film.save_as(buffer)
    refuses, accepts = (
        build(scoring, key_file, burned_in_annotation=policy) for policy in ("refuse", "accept")
    )

    refused = await one(refuses, upload(buffer.getvalue()))
    accepted = await one(accepts, upload(buffer.getvalue()))

    assert refused.outcome is Outcome.REJECTED
    assert accepted.outcome is Outcome.ABSTAINED
    await refuses.close()
    await accepts.close()


async def test_work_on_pixels_never_runs_on_the_loop(
    predictor: Predictor, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads = []

    def seen(work: Work, limits: LimitSettings) -> Prepared:
        threads.append(threading.current_thread().name)
        return prepare(work, limits)

    monkeypatch.setattr("deployments.inference.predictor.prepare", seen)

    await predictor.screen([upload(film_jpeg()), upload(dicom_file(FILM))])

    assert len(threads) == 1  # the DICOM file is prepared in another process
    assert threads[0].startswith("prepare")


async def test_a_light_file_does_not_wait_for_a_heavy_one(predictor: Predictor) -> None:
    heavy = asyncio.ensure_future(predictor.screen([upload(dicom_file("RG1_J2KR.dcm"))]))
    await asyncio.sleep(0)

    light = await one(predictor, upload(film_jpeg()))

    assert light.outcome is Outcome.PREDICTED
    assert not heavy.done()
    assert (await heavy)[0].outcome is Outcome.ABSTAINED


async def test_tuning_changes_while_it_runs(predictor: Predictor) -> None:
    films = [upload(film_jpeg()) for _ in range(4)]

    async def tune() -> list[Verdict]:
        predictor.reconfigure(ValidatorTuning(threads=3, decoder_processes=2))
        return await predictor.screen(films)

    before, after = await asyncio.gather(predictor.screen(films), tune())
    predictor.reconfigure(ValidatorTuning(threads=3))

    assert {verdict.outcome for verdict in (*before, *after)} == {Outcome.PREDICTED}


async def test_a_decoder_that_ends_before_its_file_is_counted(
    scoring: InProcess, key_file: Path
) -> None:
    ours = Instruments("validator")
    predictor = build(scoring, key_file, instruments=ours)

    verdict = await one(predictor, upload(bombs.element_flood(600_000)))
    await predictor.close()

    assert verdict.facts.width == 16
    assert (("not_soon",), 1.0) in ours.decoder_restarts.points()


async def test_a_healthy_predictor_says_nothing(predictor: Predictor) -> None:
    predictor.check_health()


async def test_a_key_that_is_too_short_stops_the_start(scoring: InProcess, tmp_path: Path) -> None:
    short = tmp_path / "short.key"
    short.write_bytes(os.urandom(8))

    with pytest.raises(InvalidConfiguration, match="too short"):
        build(scoring, short)


async def test_screening_a_film_costs_little(predictor: Predictor) -> None:
    uploads = [upload(film_jpeg()) for _ in range(16)]
    predictor._prepare_light(uploads)
    spent = []
    for _ in range(5):
        started = time.thread_time()
        predictor._prepare_light(uploads)
        spent.append((time.thread_time() - started) / len(uploads))

    assert min(spent) < 0.003  # six times what it takes on a machine at rest
