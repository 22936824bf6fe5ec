"""An old backup was restored while anchors know of more: what the service still answers."""

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from deployments.api import health
from deployments.inference.recorder import Recorder, utc_now
from deployments.telemetry.metrics import Instruments
from registry.contract import Role
from registry.errors import AuditUnavailable
from registry.events import Actor
from storage.anchors import AnchorFile
from storage.checkpoints import Checkpointer
from storage.recovery import Decision, assess, recover
from tests.api.house import INFER, JPEG, House
from tests.serve.films import film


class Site:
    """A house that records through the AuditWriter's core, and whose database can be put back."""

    def __init__(self, build: Callable[..., Any], home: Path) -> None:
        self._build = build
        self._file = home / "medai.db"
        self._home = home
        self._key = Ed25519PrivateKey.generate()
        self.anchors = AnchorFile(home / "anchors.jsonl")
        self.house: House
        self.recorder: Recorder

    async def open(self) -> None:
        self.house = await self._build(checks={"audit": self._ready})

    async def _ready(self) -> None:
        await self.recorder.ready()

    def starts(self) -> None:
        """The AuditWriter starts."""
        checkpointer = Checkpointer(
            *(self.house.database, self._key, self.anchors),
            now=utc_now,
            report=lambda _: None,
            alarm=lambda _: None,
        )
        self.recorder = Recorder(self.house.database, checkpointer, Instruments("audit-writer"))
        self.house.trail.write_through(self.recorder)

    async def answers(self) -> int:
        return (
            await self.house.client("clara").post(INFER, content=film(), headers=JPEG)
        ).status_code

    async def until_ready(self) -> None:
        async with asyncio.timeout(10):
            while True:
                try:
                    await self.recorder.ready()
                except AuditUnavailable:
                    await asyncio.sleep(0.05)
                else:
                    return

    async def run(self) -> None:
        """The AuditWriter starts, records an answer and stops: its head is anchored."""
        self.starts()
        await self.until_ready()
        assert await self.answers() == 200
        await self.recorder.close()

    def keep(self, name: str) -> None:
        _copy(self._file, self._home / name)

    def restore(self, name: str) -> None:
        _copy(self._home / name, self._file)

    def content(self) -> list[Any]:
        with closing(sqlite3.connect(self._file)) as connection:
            return [
                connection.execute(f"SELECT * FROM {table}").fetchall()  # noqa: S608  # constants
                for table in ("audit_logs", "audit_state", "audit_checkpoints")
            ]

    async def recovers(self) -> None:
        decision = Decision("both disks burnt", Actor("cli", None, Role.ADMIN), "user:1", "user:2")
        where = (self.house.database, self.anchors, self._key)
        await recover(
            *(*where, await assess(*where), decision),
            software_version="1",
            now=utc_now,
            report=lambda _: None,
        )


def _copy(source: Path, target: Path) -> None:
    with closing(sqlite3.connect(source)) as there, closing(sqlite3.connect(target)) as here:
        there.backup(here)


@pytest.fixture
async def site(
    build: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Site]:
    """A service that has started on a backup; the database it was made from is kept, too."""
    monkeypatch.setattr(health, "MAX_AGE_S", 0.0)
    site = Site(build, tmp_path)
    await site.open()
    await site.run()
    site.keep("backup.db")
    await site.run()
    site.keep("newest.db")
    site.restore("backup.db")
    site.starts()
    with pytest.raises(AuditUnavailable):
        await site.recorder.append([])
    yield site
    await site.recorder.close()


async def test_it_lives_and_has_started_and_is_not_ready(site: Site) -> None:
    client = site.house.client()

    live, startup, ready, everything = [
        await client.get(path)
        for path in ("/health/live", "/health/startup", "/health/ready", "/health")
    ]

    assert [live.status_code, startup.status_code] == [200, 200]
    assert [ready.status_code, everything.status_code] == [503, 200]
    for document in (ready.json(), everything.json()):
        said = document["checks"]["audit"]
        assert said["condition"] == "read_only"
        for part in ("read-only", "entries or more", "signed 20", "medai audit recover"):
            assert part in said["reason"]


@pytest.mark.parametrize(
    "path", ["/models", "/models/cxr-pneumonia", "/.well-known/jwks.json", "/docs", "/health"]
)
async def test_what_records_nothing_is_answered(path: str, site: Site) -> None:
    assert (await site.house.client("ada").get(path)).status_code == 200


@pytest.mark.parametrize(
    ("method", "path", "options"),
    [
        ("POST", INFER, {"content": film(), "headers": JPEG}),
        ("POST", "/auth/login", {"data": {"username": "clara", "password": "wrong or right"}}),
        ("GET", "/results", {}),
        ("GET", "/admin/audit", {}),
        ("GET", "/admin/users", {}),
    ],
)
async def test_what_would_have_to_be_recorded_is_refused_and_told_why(
    method: str, path: str, options: dict[str, Any], site: Site
) -> None:
    before = site.content()

    refused = await site.house.client("ada").request(method, path, **options)

    assert (refused.status_code, refused.headers["Content-Type"]) == (
        503,
        "application/problem+json",
    )
    problem = refused.json()
    assert problem["type"].endswith("/audit-unavailable")
    assert "read-only" in problem["detail"]
    assert "restore the newer backup" in problem["detail"]
    assert "medai audit recover" in problem["detail"]
    assert site.content() == before


async def test_when_the_newer_database_comes_back_it_opens_by_itself(site: Site) -> None:
    site.restore("newest.db")

    await site.until_ready()

    assert (await site.house.client().get("/health/ready")).status_code == 200
    assert await site.answers() == 200


async def test_when_the_lost_entries_are_given_up_it_opens_by_itself(site: Site) -> None:
    await site.recovers()

    await site.until_ready()

    assert (await site.house.client().get("/health/ready")).status_code == 200
    assert await site.answers() == 200


async def test_a_writer_that_stops_read_only_has_written_nothing(site: Site) -> None:
    before = site.content()
    anchored = [str(anchor.note) for anchor in site.anchors]

    await site.recorder.close()

    assert site.content() == before
    assert [str(anchor.note) for anchor in site.anchors] == anchored
