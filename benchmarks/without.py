"""The service with one part left out, to show what that part costs. For the bench and nothing else.

The product has no switch that turns the audit or the checks off, and gets none by this: the wheel
does not hold this package, and the builders refuse to build unless the bench itself asks.
"""

import os
import time
import uuid
from datetime import UTC, datetime

from PIL import Image
from ray.serve import Application

from configs.topology import BuildArgs
from deployments import app
from deployments.audit_writer import AuditWriter
from deployments.inference import image, screening
from deployments.inference.predictor import Predictor, Stage
from deployments.inference.prepare import Prepared, Work, file_facts, to_tensor
from deployments.inference.quality import Measures
from deployments.inference.screening import Candidate
from deployments.validator import Validator
from registry.contract import Outcome, Receipt, Upload, Validation, Verdict
from registry.errors import InvalidConfiguration, MedAIError
from registry.events import AuditAction, AuditEvent

ASKED = "BENCH_WITHOUT"  # the bench sets it; no setting of the service has this prefix
INFERENCES = frozenset(
    {AuditAction.INFERENCE, AuditAction.INFERENCE_REJECTED, AuditAction.INFERENCE_FAILED}
)


_NO_MEASURES = Measures(
    width_px=0,
    height_px=0,
    aspect_ratio=0.0,
    brightness=0.0,
    contrast=0.0,
    dynamic_range=0.0,
    clipping=0.0,
    content=0.0,
    noise=None,
    sharpness=None,
    motion=None,
    symmetry=None,
)


class Unrecorded(AuditWriter):
    """Gives receipts of inferences without a database; the rest (a log-in) is recorded."""

    async def append(self, events: list[AuditEvent]) -> list[Receipt | MedAIError]:
        """A receipt for each event, in order."""
        others = [event for event in events if event.action not in INFERENCES]
        recorded = iter(await super().append(others) if others else ())
        now = datetime.now(UTC).isoformat()
        return [
            Receipt(uuid.uuid4(), 0, bytes(32), now)
            if event.action in INFERENCES
            else next(recorded)
            for event in events
        ]


class Unscreened(Predictor):
    """Decodes and makes the tensor; measures nothing, and holds nothing against the card."""

    def _prepare_light(self, uploads: list[Upload]) -> list[Stage]:
        stages: list[Stage] = []
        for upload in uploads:
            facts = file_facts(upload.body)
            try:
                stages.append(self._candidate(upload))
            except Exception as error:  # noqa: BLE001  # no image may harm its batch-mates
                stages.append(screening.unprepared(upload, facts, error))
        return stages

    def _candidate(self, upload: Upload) -> Candidate:
        served, gate = self._models(upload)
        facts = file_facts(upload.body)
        work = Work.of(upload, facts, served, gate)
        started = time.perf_counter()
        decoded = image.read(
            work.body,
            work.media_type,
            facts,
            limits=self._limits,
            frame=work.frame,
            rgb=any(spec.color == "rgb" for spec in work.specs),
        )
        picture = Image.fromarray(decoded.pixels)
        prepared = Prepared(
            facts=decoded.facts,
            patient=decoded.patient,
            measures=_NO_MEASURES,
            tensors=tuple(to_tensor(picture, spec) for spec in work.specs),
            decode_ms=(time.perf_counter() - started) * 1e3,
            measure_ms=0.0,
            preprocess_ms=0.0,
        )
        verdict = Verdict(
            outcome=Outcome.PREDICTED,
            facts=prepared.facts,
            validation=Validation(is_valid=True, score=1.0, checks=()),
            threshold=served.card.confidence_threshold,
            decode_ms=prepared.decode_ms,
        )
        return Candidate(served, gate, prepared, verdict)


class UnscreenedValidator(Validator):
    """A Validator that looks at no rule."""

    PREDICTOR = Unscreened


def build_no_audit(args: BuildArgs) -> Application:
    """The application without the recording of inferences. Raises unless the bench asks."""
    _refuse_unless_asked()
    return app.compose(args, audit_writer=Unrecorded)


def build_no_validation(args: BuildArgs) -> Application:
    """The application without measures and rules. Raises unless the bench asks."""
    _refuse_unless_asked()
    return app.compose(args, validator=UnscreenedValidator)


def _refuse_unless_asked() -> None:
    if os.environ.get(ASKED) != "1":
        raise InvalidConfiguration(
            "this builder leaves out a part that every answer needs; it is for the bench only: "
            "name deployments.app:build as import_path"
        )
