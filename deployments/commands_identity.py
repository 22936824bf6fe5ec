"""Who gives a command on the host: its account, or a user who proves it by a password.

Where several people share one account of the host, such as the one the service runs as, only the
second tells them apart.
"""

import os
import pwd
import sys
from typing import Annotated

import typer

from configs.settings import Settings
from deployments.api.passwords import Passwords
from deployments.inference.model_life import By
from deployments.inference.recorder import utc_now
from registry.contract import Role
from registry.errors import Unauthenticated
from registry.events import CLI, Actor
from storage.accounts import Account, AccountRepository
from storage.database import Database

MAX_NAME = 32

As = Annotated[
    str | None,
    typer.Option("--as", help="Act as this administrator of the service; asks for the password."),
]
PasswordStdin = Annotated[
    bool, typer.Option("--password-stdin", help="Read the password of --as from standard input.")
]


def operator() -> By:
    """The account of the host: the real user id, not a variable that anybody sets."""
    uid = os.getuid()
    try:
        name = pwd.getpwuid(uid).pw_name
    except KeyError:  # a container may run as a user without a name
        name = str(uid)
    return By(CLI, f"operator:{name[:MAX_NAME]}")


def asked_password(username: str | None, *, from_stdin: bool) -> str | None:
    """The password of the user who is named; None where none is."""
    if username is None:
        return None
    if from_stdin:
        return sys.stdin.readline().rstrip("\n")
    return str(typer.prompt(f"password of {username}", hide_input=True, err=True))


async def identified(
    settings: Settings, database: Database, username: str | None, password: str | None
) -> By:
    """Who acts: the operator, or the administrator who is named.

    Raises:
        Unauthenticated: User and password do not open an administrator's account. Wrong passwords
            lock it, as at a log-in.
    """
    if username is None or password is None:
        return operator()
    async with database.reading() as session:
        account = await AccountRepository(session).for_login(username.strip().lower())
    passwords = Passwords(settings.auth)
    try:
        stored = None if account is None else account.password_hash
        verified = await passwords.verify(stored, password)
    finally:
        passwords.close()
    if account is None or not _open(account):
        raise _refused()
    if not verified.right:
        async with database.transaction() as session:
            await AccountRepository(session).count_failure(account.user_id, at=utc_now())
        raise _refused()
    return By(Actor("cli", account.user_id, account.role), f"user:{account.user_id}")


def _open(account: Account) -> bool:
    return (
        account.role is Role.ADMIN
        and account.disabled_at is None
        and not account.must_change_password
        and not account.is_locked(at=utc_now())
    )


def _refused() -> Unauthenticated:
    return Unauthenticated(
        "user and password do not open an administrator's account; wait where it is locked, and"
        " change a temporary password first"
    )
