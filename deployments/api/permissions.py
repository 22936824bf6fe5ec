"""Who may do what. Permissions belong to routes, roles hold permissions; nothing else decides.

A route declares its permission by `requires(...)`, or that it needs none by `PUBLIC`. A route that
declares neither cannot be built (`api.guard`), so what was forgotten is closed, not open.
"""

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType
from typing import Any, Final, TypeVar

from starlette.types import Scope

from registry.contract import Role

DEFAULT_BODY_BYTES: Final = 64 * 1024

Endpoint = TypeVar("Endpoint", bound=Callable[..., Any])


class Permission(StrEnum):
    """One thing a user may do. The values stand in audit entries: never renamed."""

    INFER = "inference.create"
    MODELS_READ = "models.read"
    MODELS_MANAGE = "models.manage"
    RESULTS_READ = "results.read"  # one's own
    RESULTS_READ_ALL = "results.read-all"
    SESSION = "session.use"  # see and end one's own session, and set one's own password
    USERS = "users.manage"
    AUDIT = "audit.read"
    METRICS = "metrics.read"
    ADMINISTER = "admin.access"


_VIEWER = frozenset({Permission.SESSION, Permission.MODELS_READ, Permission.RESULTS_READ})

PERMISSIONS: Final[MappingProxyType[Role, frozenset[Permission]]] = MappingProxyType(
    {
        Role.VIEWER: _VIEWER,
        Role.CLINICIAN: _VIEWER | {Permission.INFER},
        Role.ADMIN: frozenset(Permission),
    }
)


def holds(role: Role, permission: Permission) -> bool:
    """Whether `role` has `permission`."""
    return permission in PERMISSIONS[role]


@dataclass(frozen=True, slots=True)
class Access:
    """What a route declares: the permission it needs (None: public) and the largest body.

    `recognises`: it is public, but says more to whom it knows; a token that is not good is no error
    there. `body_timeout_s`: how long the body may take, where that is longer than usual. `admit`:
    called before anything of the request is looked at; raises where there is no room for it.
    """

    permission: Permission | None
    max_body_bytes: int = DEFAULT_BODY_BYTES
    recognises: bool = False
    body_timeout_s: float | None = None
    admit: Callable[[Scope], None] | None = None


PUBLIC: Final = None  # instead of a permission: anybody

_ATTRIBUTE: Final = "__medai_access__"


def requires(
    permission: Permission | None,
    *,
    max_body_bytes: int = DEFAULT_BODY_BYTES,
    recognises: bool = False,
    body_timeout_s: float | None = None,
    admit: Callable[[Scope], None] | None = None,
) -> Callable[[Endpoint], Endpoint]:
    """Declare what a route's endpoint needs: a permission, or `PUBLIC`."""
    access = Access(permission, max_body_bytes, recognises, body_timeout_s, admit)

    def declare(endpoint: Endpoint) -> Endpoint:
        setattr(endpoint, _ATTRIBUTE, access)
        return endpoint

    return declare


def declared(endpoint: Callable[..., Any]) -> Access | None:
    """What the endpoint declares; None where it declares nothing."""
    access: Access | None = getattr(endpoint, _ATTRIBUTE, None)
    return access
