"""What only administrators may see and do."""

from datetime import UTC, datetime
from uuid import UUID

from fastapi import APIRouter, Request
from pydantic import BaseModel, ConfigDict, Field

from deployments.api.exchange import claims_of, principal_of
from deployments.api.guard import guarded_router
from deployments.api.permissions import Permission, requires
from registry.contract import Role


class AdministratorSession(BaseModel):
    """Proof that the caller is an administrator, as whom, and until when."""

    model_config = ConfigDict(extra="forbid")

    user_id: UUID
    username: str = Field(examples=["rivera"])
    role: Role
    expires_at: datetime


def routes() -> APIRouter:
    """The routes of this file."""
    router = guarded_router("administration")

    @router.get("/admin/secure")
    @requires(Permission.ADMINISTER)
    async def secure(request: Request) -> AdministratorSession:
        """Answers administrators only: to check that an account has its rights."""
        principal, claims = principal_of(request), claims_of(request)
        return AdministratorSession(
            user_id=principal.user_id,
            username=principal.username,
            role=principal.role,
            expires_at=datetime.fromtimestamp(claims.expires_at, UTC),
        )

    return router
