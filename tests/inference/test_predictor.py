"""The Validator's work, whole: real models, real films, and what each is answered."""

import asyncio
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest

from configs.settings import LimitSettings
from configs.topology import ValidatorTuning
from deployments.inference.predictor import Predictor
from deployments.inference.prepare import Prepared, Work, prepare
from deployments.inference.pseudonym import Pseudonyms
from registry.contract import Outcome, Reason, Verdict
from registry.errors import UnsupportedMediaType, ValidationFailed
from tests.inference.files import FILM, HEAD_CT, decode, dicom_file, encoded, film_jpeg, film_pixels
from tests.inference.models import InProcess
from tests.inference.predictors import BODY_PART, KEY, build, one, upload
from tests.inference.ruined import moved


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


async def test_a_healthy_predictor_says_nothing(predictor: Predictor) -> None:
    predictor.check_health()


async def test_screening_a_film_costs_little(predictor: Predictor) -> None:
    uploads = [upload(film_jpeg()) for _ in range(16)]
    predictor._prepare_light(uploads)
    spent = []
    for _ in range(5):
        started = time.thread_time()
        predictor._prepare_light(uploads)
        spent.append((time.thread_time() - started) / len(uploads))

    assert min(spent) < 0.003  # six times what it takes on a machine at rest
