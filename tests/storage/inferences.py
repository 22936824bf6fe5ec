"""The least that an inference records."""

from datetime import UTC, datetime
from uuid import UUID

from uuid_utils.compat import uuid7

from registry.contract import ImageFacts, ModelRef, Outcome, Role, Verdict
from registry.events import Actor, AuditAction, AuditEvent, NewResult


def inference(user_id: UUID, model: ModelRef) -> AuditEvent:
    """An event with a result."""
    result_id = uuid7()
    verdict = Verdict(Outcome.ABSTAINED, ImageFacts("cd" * 32, 1), patient="p1:00")
    return AuditEvent(
        event_id=result_id,
        action=AuditAction.INFERENCE,
        description="An image was sent for inference.",
        actor=Actor("user", user_id, Role.CLINICIAN),
        changes=(NewResult(result_id, model, verdict, user_id, datetime.now(UTC)),),
    )
