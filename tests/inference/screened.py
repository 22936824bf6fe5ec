"""An image of the bundled chest model on its way through screening."""

from typing import Any

import numpy as np

from configs.settings import PrivacySettings
from deployments.inference.decoded import PatientFacts
from deployments.inference.prepare import Prepared
from deployments.inference.privacy_checks import Patients
from deployments.inference.quality import measure
from deployments.inference.screening import Candidate, decide, screen
from registry.catalogue import Served
from registry.contract import ImageFacts, Scores, Verdict
from tests.inference.files import film_pixels
from tests.inference.models import bundled

MODEL = bundled("cxr-pneumonia")
SECONDARY = "SOP class"
FACTS = ImageFacts("0" * 64, 1000, format="DICOM", modality="CR", body_part="CHEST", view="AP")
POLICY = PrivacySettings()
PATIENT = Patients(beside="p1:abc")


def prepared(facts: ImageFacts = FACTS, *, age: float | None = 4.0, pixels: Any = None) -> Prepared:
    return Prepared(
        facts=facts,
        patient=PatientFacts(age_years=age),
        measures=measure(film_pixels() if pixels is None else pixels),
        tensors=(),
        decode_ms=1.0,
        measure_ms=2.0,
        preprocess_ms=3.0,
    )


def version(**changes: Any) -> Served:
    return Served(MODEL.model, MODEL.card.model_copy(update=changes), MODEL.path)


def candidate(served: Served = MODEL, **options: Any) -> Candidate:
    stage = screen(served, None, prepared(**options), PATIENT, POLICY)
    assert isinstance(stage, Candidate), stage
    return stage


def refused(served: Served = MODEL, privacy: PrivacySettings = POLICY, **options: Any) -> Verdict:
    stage = screen(served, None, prepared(**options), PATIENT, privacy)
    assert isinstance(stage, Verdict), stage
    return stage


def scored(under_test: Candidate, *scores: float) -> Verdict:
    row = np.array(scores, np.float32)
    return decide(under_test, row, Scores(row[None], 5.0, 7), 9.0)
