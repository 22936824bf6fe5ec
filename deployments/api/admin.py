"""What only administrators may see and do."""

from fastapi import APIRouter, Request

from deployments.api.auth import SessionDetails, session_details
from deployments.api.guard import guarded_router
from deployments.api.permissions import Permission, requires


def routes() -> APIRouter:
    """The routes of this file."""
    router = guarded_router("administration")

    @router.get("/admin/secure", summary="Check an administrator's rights")
    @requires(Permission.ADMINISTER)
    async def secure(request: Request) -> SessionDetails:
        """Answers administrators only: as whom, and until when."""
        return session_details(request)

    return router
