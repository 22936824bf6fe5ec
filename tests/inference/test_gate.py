"""The gate: what it accepts goes on, what it does not gets no label."""

from pathlib import Path

import numpy as np
import pytest

from configs.settings import PrivacySettings
from deployments.inference.gate import KEPT, Gates
from deployments.inference.prepare import Work, file_facts, prepare
from deployments.inference.privacy_checks import Patients
from deployments.inference.screening import Candidate, screen
from registry.card import Gate
from registry.catalogue import Served
from registry.contract import Outcome, Reason, Verdict
from registry.errors import Failed, InferenceTimeout, ModelNonfiniteOutput, ModelUnavailable
from tests.inference.files import FILM, HEAD_CT, LIMITS, decode, dicom_file, encoded
from tests.inference.models import bundled, logits, node, served
from tests.inference.test_onnx import endless


def candidate(body: bytes, gate: Served, rule: Gate | None = None) -> Candidate:
    """An image that has been screened for cxr-pneumonia, without its constraints."""
    model = bundled("cxr-pneumonia")
    free = model.card.constraints.model_copy(
        update=dict.fromkeys(type(model.card.constraints).model_fields)
    )
    card = model.card.model_copy(update={"constraints": free, "gate": rule or model.card.gate})
    version = Served(model.model, card, model.path)
    facts = file_facts(body)
    media_type = "application/dicom" if body[128:132] == b"DICM" else "image/png"
    specs = (card.input, gate.card.input)
    prepared = prepare(Work(body, media_type, None, facts.sha256, specs), LIMITS)
    stage = screen(version, gate, prepared, Patients(), PrivacySettings())
    assert isinstance(stage, Candidate), stage
    return stage


def gates(deadline_s: float = 5) -> Gates:
    return Gates(deadline_s=deadline_s)


def test_a_chest_film_goes_on_and_a_head_ct_does_not() -> None:
    body_part = bundled("body-part")
    under_test = gates()

    film, head = under_test.judge(
        [candidate(dicom_file(name), body_part) for name in (FILM, HEAD_CT)]
    )

    assert isinstance(film, Candidate)
    assert film.so_far.gate is not None
    assert film.so_far.gate.label == "CXR"
    assert film.so_far.gate.score > 0.9
    assert isinstance(head, Verdict)
    assert head.outcome is Outcome.ABSTAINED
    assert head.reasons == (Reason.OUT_OF_DOMAIN,)
    assert head.needs_review
    assert head.prediction is None
    assert head.scores == {}
    assert head.gate is not None
    assert head.gate.label == "HeadCT"
    assert not head.gate.passed
    under_test.close()


@pytest.mark.parametrize(
    "name", ["MR2_UNCR.dcm", "US1_UNCR.dcm", "eCT_Supplemental.dcm", "RG3_UNCR.dcm"]
)
def test_no_other_image_of_the_packages_passes(name: str) -> None:
    body = encoded(decode(dicom_file(name), frame=1 if "eCT" in name else None).pixels)
    under_test = gates()

    (stage,) = under_test.judge([candidate(body, bundled("body-part"))])

    assert isinstance(stage, Verdict)
    assert stage.gate is not None
    assert stage.gate.score < 0.3
    under_test.close()


def test_the_scores_of_all_accepted_labels_are_summed() -> None:
    rule = Gate(model="body-part", accept=("CXR", "HeadCT"), at_least=0.6)
    under_test = gates()

    film, head = under_test.judge(
        [candidate(dicom_file(name), bundled("body-part"), rule) for name in (FILM, HEAD_CT)]
    )

    assert isinstance(film, Candidate)
    assert isinstance(head, Candidate)
    under_test.close()


def test_a_gate_that_is_not_the_registered_file_fails_and_refuses_nobody(tmp_path: Path) -> None:
    broken = served(tmp_path)
    Path(broken.path).write_bytes(b"other")
    under_test = gates()

    (stage,) = under_test.judge(
        [candidate(dicom_file(FILM), broken, Gate(model="tiny", accept=("DARK",)))]
    )

    assert failure(stage) is ModelUnavailable
    under_test.close()


def test_a_gate_that_does_not_end_fails_and_refuses_nobody(tmp_path: Path) -> None:
    gate = served(tmp_path, endless())
    under_test = gates(deadline_s=0.2)
    under_test._sessions[gate.model] = _opened(gate, 0.2)  # its golden case would not end either

    (stage,) = under_test.judge(
        [candidate(dicom_file(FILM), gate, Gate(model="tiny", accept=("DARK",)))]
    )

    assert failure(stage) is InferenceTimeout
    under_test.close()


def test_a_gate_without_an_answer_fails_for_that_image_alone(tmp_path: Path) -> None:
    nodes = [
        node("Greater", ["plain", "limit"], ["much"]),
        node("Where", ["much", "bad", "plain"], ["logits"]),
    ]
    weights = {"limit": np.array(0.9, np.float32), "bad": np.array(np.nan, np.float32)}
    gate = served(tmp_path, logits(nodes, **weights))
    rule = Gate(model="tiny", accept=("DARK", "BRIGHT"))
    film = decode(dicom_file(FILM)).pixels
    under_test = gates()

    bright, dark = under_test.judge(
        [candidate(encoded(pixels), gate, rule) for pixels in (film, film // 2)]
    )

    assert failure(bright) is ModelNonfiniteOutput
    assert isinstance(dark, Candidate)
    under_test.close()


def failure(stage: Candidate | Verdict) -> type[Failed]:
    assert isinstance(stage, Verdict)
    assert stage.outcome is Outcome.FAILED
    assert isinstance(stage.error, Failed)
    return type(stage.error)


def _opened(gate: Served, deadline_s: float):  # type: ignore[no-untyped-def]  # a session
    from deployments.inference.onnx import OnnxSession

    return OnnxSession(gate.path, gate.card, gate.model.sha256, deadline_s=deadline_s)


def test_a_session_is_loaded_once_and_the_oldest_let_go(tmp_path: Path) -> None:
    rule = Gate(model="tiny", accept=("DARK", "BRIGHT"))
    versions = [
        served(tmp_path, version=f"1.0.{patch}", name=f"tiny{patch}") for patch in range(KEPT + 1)
    ]
    versions = [
        Served(
            type(version.model)(
                version.model.id, version.card.name, version.card.version, version.card.sha256
            ),
            version.card,
            version.path,
        )
        for version in versions
    ]
    film = dicom_file(FILM)
    under_test = gates()

    under_test.judge([candidate(film, versions[0], rule)])
    (first,) = under_test._sessions.values()
    under_test.judge([candidate(film, versions[0], rule)])
    assert list(under_test._sessions.values()) == [first]
    for version in versions[1:]:
        under_test.judge([candidate(film, version, rule)])

    assert list(under_test._sessions) == [version.model for version in versions[1:]]
    under_test.close()
    assert under_test._sessions == {}
