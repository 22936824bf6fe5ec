"""Audit entries of the API itself: log-ins, reads, and what was denied.

What succeeds waits for its entry; what is denied is denied either way, so a denial's entry is
attempted, and its failure logged.
"""

import asyncio
from collections.abc import Callable
from typing import TypeAlias

from uuid_utils.compat import uuid7

from deployments.inference.service import AuditTrail
from deployments.telemetry.events import LogEvent
from deployments.telemetry.logs import get_logger
from deployments.telemetry.tracing_context import carried_trace
from registry.contract import Receipt
from registry.errors import AuditUnavailable, MedAIError
from registry.events import Actor, AuditAction, AuditEvent, AuditOutcome, Change, ContextValue

Observe: TypeAlias = Callable[[AuditAction, dict[str, ContextValue]], None]


class Trail:
    """Commits one entry at a time.

    Args:
        audit: The AuditWriter.
        timeout_s: How long a commit may take.
        observe: Told of every committed entry's action and context.
    """

    def __init__(
        self, audit: AuditTrail, *, timeout_s: float, observe: Observe = lambda _, __: None
    ) -> None:
        self._audit = audit
        self._timeout_s = timeout_s
        self._observe = observe
        self._log = get_logger()

    async def record(
        self,
        action: AuditAction,
        description: str,
        actor: Actor,
        *,
        outcome: AuditOutcome = AuditOutcome.SUCCESS,
        request_id: str | None = None,
        context: dict[str, ContextValue] | None = None,
        changes: tuple[Change, ...] = (),
    ) -> Receipt:
        """Commit an entry and its changes. Raises what refused them, or `AuditUnavailable`."""
        event = AuditEvent(
            event_id=uuid7(),
            action=action,
            description=description,
            actor=actor,
            outcome=outcome,
            request_id=request_id,
            context=context or {},
            changes=changes,
            trace=carried_trace(),
        )
        try:
            async with asyncio.timeout(self._timeout_s):
                receipt = await self._audit.record(event)
        except TimeoutError:
            raise AuditUnavailable(
                f"the record was not committed within {self._timeout_s:g} s", retry_after_s=1
            ) from None
        self._observe(action, event.context)
        return receipt

    async def attempt(
        self,
        action: AuditAction,
        description: str,
        actor: Actor,
        *,
        request_id: str | None = None,
        context: dict[str, ContextValue] | None = None,
    ) -> None:
        """Commit the entry of a denial; where that fails, say so in the log."""
        try:
            await self.record(
                action,
                description,
                actor,
                outcome=AuditOutcome.DENIED,
                request_id=request_id,
                context=context,
            )
        except MedAIError as error:
            self._log.error(LogEvent.AUDIT_FAILED, action=action, code=error.code)
