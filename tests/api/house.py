"""One gateway in process: real SQLite, real ledger, real tokens; the core behind it as asked for.

Users have tokens at once, because a log-in costs a hash; the log-in has tests of its own.
"""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from typing import Any
from uuid import UUID

import httpx2
from fastapi import FastAPI
from sqlalchemy import text
from uuid_utils.compat import uuid7

from configs.settings import (
    AuthSettings,
    DatabaseSettings,
    LimitSettings,
    ModelSettings,
    RateLimitSettings,
)
from deployments.api.app import Services, create_app
from deployments.api.health import Check, HealthChecks
from deployments.api.health_details import HostView, ReplicaCount, ReplicaDetails
from deployments.api.passwords import Passwords
from deployments.api.rate_limits import RateLimits
from deployments.api.sessions import Sessions
from deployments.api.tokens import AccessTokens
from deployments.inference.pseudonym import Pseudonyms
from deployments.inference.service import InferenceService, Screening
from deployments.inference.traced import traced_screening, traced_trail
from deployments.telemetry.metrics_exposition import MetricsPage
from deployments.telemetry.tracing import Tracing
from registry.card import ModelCard
from registry.catalogue import Catalogue
from registry.contract import ModelRef, Role
from registry.events import CLI, AuditAction, AuditEvent, ModelTransition, NewModelVersion, NewUser
from registry.lifecycle import ModelStatus
from storage.audit import AuditRepository
from storage.database import Database
from storage.ledger import Ledger
from storage.models import ModelRepository
from storage.signing_keys import load_keys
from tests.api.scripted import LedgerTrail, ScriptedScreening

PASSWORD = "seven blue tractors sing at dawn"
ROLES = {"ada": Role.ADMIN, "clara": Role.CLINICIAN, "carl": Role.CLINICIAN, "vera": Role.VIEWER}
UNLIMITED = RateLimitSettings(per_user="", per_address="", login="", login_per_address="")
SMALL_KIB = 64  # Argon2's memory where the cost is not the point
JPEG = {"Content-Type": "image/jpeg"}
INFER = "/infer?model=cxr-pneumonia"


@dataclass
class House:
    """One gateway, its database, its users, and clients of it."""

    app: FastAPI
    services: Services
    database: Database
    trail: LedgerTrail
    screening: ScriptedScreening
    users: dict[str, UUID]
    clients: list[httpx2.AsyncClient] = field(default_factory=list)

    def token(self, username: str) -> str:
        """A fresh access token."""
        return self.services.tokens.issue(self.users[username], username).text

    def client(self, username: str | None = None) -> httpx2.AsyncClient:
        """A client; of a user, or of nobody."""
        headers = {} if username is None else {"Authorization": f"Bearer {self.token(username)}"}
        client = httpx2.AsyncClient(
            transport=httpx2.ASGITransport(self.app),
            base_url="http://medai.test",
            headers=headers,
        )
        self.clients.append(client)
        return client

    async def entries(self, *actions: AuditAction) -> list[dict[str, Any]]:
        """The payloads of the audit entries of these kinds, in order."""
        async with self.database.reading() as session:
            recent = await AuditRepository(session).recent(1000)
        payloads = [json.loads(entry.payload) for entry in reversed(recent)]
        return [payload for payload in payloads if payload["action"] in actions]

    async def record(self, action: AuditAction, *changes: Any) -> None:
        """Make changes, as the command line would."""
        await do(self.trail, action, *changes)

    async def raw(
        self,
        method: str,
        path: str,
        messages: Iterable[dict[str, Any]] = (),
        *,
        headers: Iterable[tuple[bytes, bytes]] = (),
        username: str | None = None,
        silent: bool = False,
    ) -> tuple[int, dict[str, str], bytes]:
        """One request as the server hands it on: message by message, then nothing or the end.

        Args:
            method: The method.
            path: Path and query.
            messages: What `receive` gives, in order.
            headers: Beside the token's.
            username: Whose token.
            silent: Whether the client goes silent after the messages, instead of leaving.
        """
        queue = list(messages)
        sent: list[dict[str, Any]] = []

        async def receive() -> dict[str, Any]:
            if queue:
                return queue.pop(0)
            if silent:
                await asyncio.Event().wait()
            return {"type": "http.disconnect"}

        async def send(message: Any) -> None:
            sent.append(message)

        bearer = (
            []
            if username is None
            else [(b"authorization", b"Bearer " + self.token(username).encode())]
        )
        route, _, query = path.partition("?")
        scope = {
            "type": "http",
            "method": method,
            "path": route,
            "raw_path": route.encode(),
            "root_path": "",
            "query_string": query.encode(),
            "headers": [*bearer, *headers],
            "scheme": "http",
            "server": ("medai.test", 80),
            "client": ("127.0.0.1", 1),
            "http_version": "1.1",
        }
        await self.app(scope, receive, send)
        if not sent:
            return 0, {}, b""
        start, *rest = sent
        answered = {name.decode(): value.decode() for name, value in start["headers"]}
        return start["status"], answered, b"".join(part.get("body", b"") for part in rest)


async def agents_page() -> str:
    """What the node's metrics agent says: one sample."""
    return '# TYPE ray_medai_requests_total counter\nray_medai_requests_total{route="/infer"} 3.0\n'


@asynccontextmanager
async def open_house(
    file: Path,
    keys: Path,
    *,
    url: str | None = None,
    limits: LimitSettings | None = None,
    auth: AuthSettings | None = None,
    ratelimit: RateLimitSettings | None = None,
    screening: Screening | None = None,
    stock: Callable[[LedgerTrail, Database], Awaitable[Catalogue]] | None = None,
    checks: dict[str, Check] | None = None,
    memory_kib: int = SMALL_KIB,
    docs: bool = True,
    tracing: Tracing | None = None,
    prepare: Callable[[FastAPI], None] = lambda _: None,
) -> AsyncIterator[House]:
    """A house on the database `file`, or at `url`, running until the context ends."""
    limits, auth = limits or LimitSettings(), auth or AuthSettings()
    database = Database(DatabaseSettings(), url or f"sqlite+aiosqlite:///{file}")
    ledger = Ledger(database, software_version="0.0.0", now=lambda: datetime.now(UTC))
    await ledger.open()
    trail, passwords = LedgerTrail(ledger), Passwords(auth, memory_kib=memory_kib)
    users = await add_users(trail, passwords)
    catalogue = await (stock or register)(trail, database)
    scripted = ScriptedScreening()
    to_writer = traced_trail(trail, tracing)
    inference = InferenceService(
        traced_screening(screening or scripted, tracing), to_writer, lambda: catalogue, limits
    )
    counted = ReplicaDetails(
        deployments={"Gateway": ReplicaCount(running=1, wanted=2)}, reason=None, age_s=0.5
    )
    view = HostView(
        file.parent, database, lambda: catalogue, lambda: 2, {"audit": lambda: 3}, lambda: counted
    )
    services = Services(
        inference=inference,
        audit=to_writer,
        database=database,
        tokens=AccessTokens(load_keys(keys, generate=True), auth),
        sessions=Sessions.of(database, auth),
        passwords=passwords,
        pseudonyms=Pseudonyms(b"k" * 32, version=1),
        health=HealthChecks(checks or {}, view),
        limits=limits,
        auth=auth,
        models=ModelSettings(),
        model_dir=file.parent / "models",
        rate_limits=RateLimits(ratelimit or UNLIMITED),
        metrics=MetricsPage(agents_page),
        tracing=tracing,
    )
    try:
        app = create_app(services, docs=docs)
        prepare(app)
        async with app.router.lifespan_context(app):
            house = House(app, services, database, trail, scripted, users)
            yield house
            for client in house.clients:
                await client.aclose()
    finally:  # also where the application does not start, as some tests want
        await database.close()


async def add_users(trail: LedgerTrail, passwords: Passwords) -> dict[str, UUID]:
    """The users of `ROLES`, all with the same password."""
    users = {}
    for name, role in ROLES.items():
        users[name] = uuid7()
        stored = passwords.hash_now(PASSWORD, username=name)
        await do(trail, AuditAction.USER_CREATED, NewUser(users[name], name, role, stored))
    return users


async def do(trail: LedgerTrail, action: AuditAction, *changes: Any) -> None:
    """Make changes, as the command line would."""
    await trail.record(AuditEvent(uuid7(), action, "A test's doing.", CLI, changes=changes))


def card(name: str, version: str = "1.0.0") -> ModelCard:
    """A card of a small model that is never run here."""
    return ModelCard.model_validate(
        {
            "name": name,
            "version": version,
            "sha256": "cd" * 32,
            "clinical_domain": "chest-xray",
            "intended_use": "Tests of the API.",
            "input": {"height": 64, "width": 64, "scale": 1, "mean": [0.0], "std": [1.0]},
            "output": {"activation": "softmax", "labels": ["NORMAL", "PNEUMONIA"]},
            "confidence_threshold": 0.5,
            "golden": {
                "seed": "api",
                "scores": {"NORMAL": 0.5, "PNEUMONIA": 0.5},
                "tolerance": 0.01,
            },
            "data": [{"title": "None", "authors": "Nobody", "licence": "CC0-1.0"}],
            "licence": "Apache-2.0",
            "limits": ["Never run."],
        }
    )


async def register(trail: LedgerTrail, database: Database) -> Catalogue:
    """Two versions of one model, of which the newer serves, and one that is only registered."""
    for name, version, last in (
        ("cxr-pneumonia", "0.9.0", ModelStatus.VALIDATED),
        ("cxr-pneumonia", "1.0.0", ModelStatus.ACTIVE),
        ("body-part", "1.0.0", ModelStatus.REGISTERED),
    ):
        its = card(name, version)
        model = ModelRef(uuid7(), name, version, its.sha256)
        text, domain = its.model_dump_json(), its.clinical_domain
        await do(
            trail,
            AuditAction.MODEL_REGISTERED,
            NewModelVersion(model, text, "cd.onnx", 1, domain, 0.5, "uploader"),
        )
        steps = list(ModelStatus)[: list(ModelStatus).index(last) + 1]
        for before, after in pairwise(steps):
            change = ModelTransition(model, before, after, "tests")
            await do(trail, AuditAction.MODEL_VALIDATED, change)
    async with database.reading() as session:
        return await ModelRepository(session).catalogue(Path("/models"))


async def disable(house: House, username: str) -> None:
    """Disable a user, by SQL: the API has no route for it."""
    await in_sql(house, "UPDATE users SET disabled_at = :now WHERE id = :id", username)


async def end_tokens(house: House, username: str) -> None:
    """End every token a user has, by SQL."""
    await in_sql(house, "UPDATE users SET tokens_valid_after = :now WHERE id = :id", username)


async def in_sql(house: House, statement: str, username: str) -> None:
    """Run a statement about one user."""
    values = {"now": datetime.now(UTC).replace(tzinfo=None), "id": house.users[username].hex}
    async with house.database.transaction() as session:
        await session.execute(text(statement), {**values, "now": str(values["now"])})
