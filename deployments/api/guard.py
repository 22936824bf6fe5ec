"""The only kind of route there is: one that knows what its caller must be permitted.

Before an endpoint sees its request, the route checks the permission that the endpoint declares
(`permissions.requires`) and sets the largest body. An endpoint that declares nothing cannot become
a route, and an application that holds another kind of route does not start.
"""

from collections.abc import Callable, Iterable
from typing import Any

from fastapi import APIRouter, FastAPI
from fastapi.routing import APIRoute
from starlette.requests import Request
from starlette.types import Receive, Scope, Send

from deployments.api.exchange import exchange_in
from deployments.api.permissions import Access, Permission, declared, holds
from deployments.api.query import QueryReader
from registry.errors import (
    Forbidden,
    InvalidConfiguration,
    PasswordExpired,
    Unauthenticated,
    Violation,
)


class GuardedRoute(APIRoute):
    """A route with an `access`. Raises `InvalidConfiguration` where its endpoint declares none."""

    def __init__(self, path: str, endpoint: Callable[..., Any], **options: Any) -> None:
        access = declared(endpoint)
        if access is None:
            raise _undeclared(path)
        if access.permission is None and "{" in path:
            raise InvalidConfiguration(
                "a public route has a parameter in its path",
                (Violation(path, advice="make it a query parameter"),),
            )
        self.access: Access = access
        self._query = QueryReader.of(endpoint)
        super().__init__(path, endpoint, **options)

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Check the permission, then let the endpoint answer.

        Raises:
            Unauthenticated: Nobody is known, though somebody must be.
            PasswordExpired: The caller may only set a new password.
            Forbidden: The caller's role does not hold the permission.
            Overloaded: There is no room for the request.
        """
        exchange = exchange_in(scope)
        exchange.route = self.path
        exchange.max_body_bytes = self.access.max_body_bytes
        exchange.body_timeout_s = self.access.body_timeout_s
        permission = exchange.permission = self.access.permission
        if permission is not None:
            if exchange.principal is None:
                raise Unauthenticated
            if exchange.principal.must_change_password and permission is not Permission.SESSION:
                raise PasswordExpired("a new password is needed first: POST /auth/password")
            if not holds(exchange.principal.role, permission):
                raise Forbidden(f"this needs the permission {permission}")
        if self.access.admit is not None:
            self.access.admit(scope)
        if self._query is None or scope["method"] not in (self.methods or ()):
            await super().handle(scope, receive, send)
            return
        request = Request(scope, receive, send)
        response = await self.endpoint(**self._query.arguments(request))
        await response(scope, receive, send)


def guarded_router(tag: str) -> APIRouter:
    """A router of guarded routes, all under one tag of the documentation."""
    return APIRouter(route_class=GuardedRoute, tags=[tag])


def refuse_unguarded(app: FastAPI) -> None:
    """Raises `InvalidConfiguration` where the application holds a route of another kind."""
    for route in app.routes:
        if not isinstance(route, GuardedRoute):
            raise _undeclared(getattr(route, "path", type(route).__name__))


def recognising_paths(routes: Iterable[object]) -> frozenset[tuple[str, str]]:
    """Method and path of each public route that says more to whom it knows."""
    return frozenset(
        (method, route.path)
        for route in routes
        if isinstance(route, GuardedRoute) and route.access.recognises
        for method in route.methods or ()
    )


def public_paths(routes: Iterable[object]) -> frozenset[tuple[str, str]]:
    """Method and path of each route that needs no permission."""
    return frozenset(
        (method, route.path)
        for route in routes
        if isinstance(route, GuardedRoute) and route.access.permission is None
        for method in route.methods or ()
    )


def _undeclared(path: str) -> InvalidConfiguration:
    return InvalidConfiguration(
        "a route declares no permission",
        (Violation(path, advice="add @requires(Permission...) or @requires(PUBLIC)"),),
    )
