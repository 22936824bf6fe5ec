"""The routes of accounts: list, add, change one thing at a time, give the right to a password."""

from datetime import datetime
from typing import Final, Self
from uuid import UUID

from fastapi import APIRouter, Request
from pydantic import BaseModel, ConfigDict, Field, model_validator

from deployments.api.account import BODY_PROBLEMS, RECORD_PROBLEMS
from deployments.api.completion import to_completion
from deployments.api.exchange import principal_of, request_id_of
from deployments.api.guard import guarded_router
from deployments.api.json_bodies import MAX_JSON_BYTES, json_body, read_json
from deployments.api.pages import MAX_SIZE, Links, Page, Size, numbered_links
from deployments.api.permissions import Permission, requires
from deployments.api.problems import problems
from deployments.api.user_administration import UserAdministration
from registry import errors
from registry.contract import Principal, Role
from storage.accounts import Person

USERNAME: Final = r"^[A-Za-z0-9][A-Za-z0-9._@-]{0,63}$"
EMAIL: Final = r"^[A-Za-z0-9._%+-]{1,64}@[A-Za-z0-9.-]{1,189}$"


class UserDetails(BaseModel):
    """An account."""

    model_config = ConfigDict(extra="forbid")

    user_id: UUID
    username: str = Field(examples=["rivera"])
    email: str | None = Field(examples=["rivera@hospital.example"])
    role: Role
    created_at: datetime
    must_change_password: bool
    locked_until: datetime | None
    disabled_at: datetime | None


class UserPage(BaseModel):
    """A page of accounts, by user name."""

    model_config = ConfigDict(extra="forbid")

    items: list[UserDetails]
    page: int = Field(ge=1, examples=[1])
    size: int = Field(ge=1, le=MAX_SIZE, examples=[20])
    total: int = Field(ge=0, examples=[1])
    links: Links


class UserRequest(BaseModel):
    """A new account. It has no password until its owner sets one by the reset token."""

    model_config = ConfigDict(extra="forbid")

    username: str = Field(pattern=USERNAME, description="kept in lower case", examples=["rivera"])
    role: Role
    email: str | None = Field(default=None, pattern=EMAIL, examples=["rivera@hospital.example"])


class UserChange(BaseModel):
    """One change: exactly one of the fields, so that one request is one entry."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={
            "minProperties": 1,
            "maxProperties": 1,
            "example": {"disabled": True},
        },
    )

    role: Role | None = None
    disabled: bool | None = None
    locked: bool | None = Field(default=None, description="only false: unlock")

    @model_validator(mode="after")
    def _exactly_one(self) -> Self:
        given = [value for value in (self.role, self.disabled, self.locked) if value is not None]
        if len(self.model_fields_set) != 1 or not given or self.locked:
            raise ValueError("send exactly one of role, disabled and locked=false")
        return self


class ResetAnswer(BaseModel):
    """A right to set a password once, at POST /auth/reset. Shown this one time."""

    model_config = ConfigDict(extra="forbid")

    reset_token: str = Field(examples=["4Nq8..."])
    expires_at: datetime


class NewUserAnswer(ResetAnswer):
    """The account, and the right of its owner to set the password."""

    user: UserDetails


def routes(users: UserAdministration) -> APIRouter:
    """The routes of this file."""
    router = guarded_router("administration")

    @router.get(
        "/admin/users",
        summary="List the accounts",
        responses=problems(errors.ValidationFailed, *RECORD_PROBLEMS),
    )
    @requires(Permission.USERS)
    async def listed(request: Request, page: Page = 1, size: Size = 20) -> UserPage:
        """By user name, also the disabled."""
        total, people = await users.listed(
            principal_of(request), page=page, size=size, request_id=request_id_of(request)
        )
        return UserPage(
            items=[user_details(person) for person in people],
            page=page,
            size=size,
            total=total,
            links=numbered_links(request, {}, page=page, size=size, total=total),
        )

    @router.post(
        "/admin/users",
        summary="Add an account",
        status_code=201,
        openapi_extra=json_body(UserRequest),
        responses=problems(*BODY_PROBLEMS, errors.Conflict, errors.Overloaded, *RECORD_PROBLEMS),
    )
    @requires(Permission.USERS, max_body_bytes=MAX_JSON_BYTES)
    async def add(request: Request) -> NewUserAnswer:
        """Give the reset token to the account's owner, who sets the password with it."""
        wanted = await read_json(request, UserRequest)
        work = users.add(
            principal_of(request),
            wanted.username,
            wanted.role,
            wanted.email,
            request_id=request_id_of(request),
        )
        person, right = await to_completion(work)
        return NewUserAnswer(
            user=user_details(person), reset_token=right.text, expires_at=right.issued.expires_at
        )

    @router.patch(
        "/admin/users/{user_id}",
        summary="Change an account",
        openapi_extra=json_body(UserChange),
        responses=problems(*BODY_PROBLEMS, errors.Conflict, errors.NotFound, *RECORD_PROBLEMS),
    )
    @requires(Permission.USERS, max_body_bytes=MAX_JSON_BYTES)
    async def change(request: Request, user_id: UUID) -> UserDetails:
        """Role, disabled, or unlock; never one's own. A changed role and disabling end sessions."""
        wanted = await read_json(request, UserChange)
        work = _changed(users, principal_of(request), user_id, wanted, request_id_of(request))
        return user_details(await to_completion(work))

    @router.post(
        "/admin/users/{user_id}/reset",
        summary="Give the right to set a password",
        responses=problems(
            errors.Conflict, errors.NotFound, errors.ValidationFailed, *RECORD_PROBLEMS
        ),
    )
    @requires(Permission.USERS, max_body_bytes=MAX_JSON_BYTES)
    async def reset(request: Request, user_id: UUID) -> ResetAnswer:
        """A token that is good once, for a quarter of an hour. Ends any earlier one of the user."""
        work = users.reset(principal_of(request), user_id, request_id=request_id_of(request))
        right = await to_completion(work)
        return ResetAnswer(reset_token=right.text, expires_at=right.issued.expires_at)

    return router


async def _changed(
    users: UserAdministration, by: Principal, user_id: UUID, wanted: UserChange, request_id: str
) -> Person:
    if wanted.role is not None:
        return await users.set_role(by, user_id, wanted.role, request_id=request_id)
    if wanted.disabled is not None:
        disabled = wanted.disabled
        return await users.set_disabled(by, user_id, disabled=disabled, request_id=request_id)
    return await users.unlock(by, user_id, request_id=request_id)


def user_details(person: Person) -> UserDetails:
    """What `UserDetails` describes."""
    return UserDetails(
        user_id=person.user_id,
        username=person.username,
        email=person.email,
        role=person.role,
        created_at=person.created_at,
        must_change_password=person.must_change_password,
        locked_until=person.locked_until,
        disabled_at=person.disabled_at,
    )
