"""Commands on the host add nothing to a log that is not the one its anchors speak of."""

import asyncio
import sqlite3
from collections.abc import Awaitable, Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import TypeVar

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from sqlalchemy import select

from configs.settings import DatabaseSettings
from storage.database import Database
from storage.tables import AuditState
from tests.audit.conftest import Intruder
from tests.host.conftest import Medai, Said
from tests.host.test_commands_audit import Hospital
from tests.postgres import PostgresServer

T = TypeVar("T")

ADA, BEA = "seven blue tractors sing at dawn", "nine grey windows lean on rain"
ADD = ("users", "add", "dora", "--role", "viewer", "--password-stdin")
PASSWORD = "four green kettles walk uphill"
RECORDS: tuple[tuple[tuple[str, ...], str], ...] = (
    (ADD, PASSWORD),
    (("audit", "erase-patient"), "4711"),
    (("audit", "archive", "archive"), ""),
    (("audit", "rotate-key"), ""),
    (("models", "approve", "cxr", "1.0.0"), ""),
    (("models", "halt", "cxr", "--reason", "wrong-answers"), ""),
    (("models", "shadow", "cxr", "--off"), ""),
)


class Site(Hospital):
    """A hospital on one kind of database, which can be backed up and put back."""

    def __init__(self, home: Path, url: str, postgres: PostgresServer | None) -> None:
        super().__init__(home, url)
        self._postgres = postgres
        self._file = Path(url.removeprefix("sqlite+aiosqlite:///"))
        self._name = url.partition("@/")[2].partition("?")[0]

    def backup(self) -> None:
        self._copy(self._file, self._file.with_suffix(".backup"), self._name, f"{self._name}b")

    def restore(self) -> None:
        if self._postgres is not None:
            self._postgres.drop(self._name)
        self._copy(self._file.with_suffix(".backup"), self._file, f"{self._name}b", self._name)

    def forget_backup(self) -> None:
        if self._postgres is not None:
            self._postgres.drop(f"{self._name}b")

    def _copy(self, source: Path, target: Path, database: str, copy: str) -> None:
        if self._postgres is not None:
            self._postgres.execute(f"CREATE DATABASE {copy} TEMPLATE {database}")
            return
        with closing(sqlite3.connect(source)) as there, closing(sqlite3.connect(target)) as here:
            there.backup(here)

    def look(self, work: Callable[[Database], Awaitable[T]]) -> T:
        """Do something with the database that no command does."""

        async def done() -> T:
            database = Database(DatabaseSettings(), self.url)
            try:
                return await work(database)
            finally:
                await database.close()

        return asyncio.run(done())

    def state(self) -> tuple[int, str]:
        """The log's size, and the anchors."""

        async def size(database: Database) -> int:
            async with database.reading() as session:
                return await session.scalar(select(AuditState.size)) or 0

        return self.look(size), self.anchors.read_text()

    def key_file(self) -> Path:
        (file,) = self.keys.glob("*.pem")
        return file


@pytest.fixture
def site(
    medai: Medai,
    tmp_path: Path,
    url: str,
    request: pytest.FixtureRequest,
    monkeypatch: pytest.MonkeyPatch,
) -> Site:
    """Two administrators, added before the first checkpoint, and a month of results after it."""
    monkeypatch.setenv("MEDAI_DATABASE__URL", url)
    monkeypatch.chdir(tmp_path)
    home = tmp_path / "home"
    (home / "keys").mkdir(mode=0o700, parents=True)
    key = home / "keys" / "pseudonym.key"
    key.write_bytes(bytes(range(32)))
    key.chmod(0o600)
    for name, password in (("ada", ADA), ("bea", BEA)):
        added = medai("users", "add", name, "--role", "admin", "--password-stdin", text=password)
        assert added.code == 0, added.err
    server = None if url.startswith("sqlite") else request.getfixturevalue("postgres")
    site = Site(home, url, server)
    site.month(10)
    return site


@pytest.fixture
def restored(site: Site) -> Iterator[Site]:
    """The database is that of a month before."""
    site.backup()
    site.month(11)
    site.restore()
    yield site
    site.forget_backup()


def refused(said: Said) -> str:
    """The one line of a refusal."""
    assert said.code == 1, said.out
    (line,) = said.err.strip().splitlines()
    assert line.startswith("medai: ")
    return line


def test_what_records_adds_nothing_to_a_restored_backup(medai: Medai, restored: Site) -> None:
    before = restored.state()

    for arguments, text in RECORDS:
        line = refused(medai(*arguments, text=text))
        assert "the audit log is read-only" in line, arguments
        assert "restore the newer backup, or give up what is lost by `medai audit recover`" in line

    assert restored.state() == before


def test_what_only_reads_answers_beside_a_restored_backup(medai: Medai, restored: Site) -> None:
    for arguments in (
        ("models", "list"),
        ("models", "replicas", "cxr"),
        ("db", "check"),
        ("audit", "export", "export.jsonl"),
    ):
        assert medai(*arguments).code == 0, arguments
    assert "no challenger" in refused(medai("models", "shadow", "cxr", "--report"))


def test_after_the_recovery_commands_record_again(medai: Medai, restored: Site) -> None:
    refused(medai(*ADD, text=PASSWORD))

    recovered = medai(
        *("audit", "recover", "--reason", "both disks burnt", "--as", "ada"),
        *("--approve-as", "bea", "--password-stdin", "--yes"),
        text=f"{ADA}\n{BEA}\n",
    )

    assert recovered.code == 0, recovered.err
    assert medai(*ADD, text=PASSWORD).code == 0
    assert medai("audit", "verify").code == 0


def test_a_log_that_was_rewritten_is_not_made_longer(medai: Medai, site: Site) -> None:
    async def rewrite(database: Database) -> None:
        intruder = Intruder(database)
        rows = await intruder.rows()
        rows[3]["payload"] = rows[3]["payload"].replace('"success"', '"denied"')
        await intruder.write(await intruder.chained(rows, 3))

    site.look(rewrite)
    before = site.state()

    line = refused(medai(*ADD, text=PASSWORD))

    assert "rewritten" in line
    assert "run medai-verify on both" in line
    assert site.state() == before


def test_a_log_that_fits_its_anchors_is_added_to(medai: Medai, site: Site) -> None:
    size, anchors = site.state()

    assert medai(*ADD, text=PASSWORD).code == 0

    assert site.state() == (size + 1, anchors)


def test_without_the_anchors_nothing_is_recorded(medai: Medai, site: Site) -> None:
    size, anchors = site.state()
    site.anchors.unlink()
    gone = refused(medai(*ADD, text=PASSWORD))
    site.anchors.mkdir()
    unreadable = refused(medai(*ADD, text=PASSWORD))
    site.anchors.rmdir()
    site.anchors.write_text(anchors)

    assert "the anchor file is missing" in gone
    assert "the anchor file cannot be read" in unreadable
    assert site.state() == (size, anchors)


def test_without_the_key_that_signed_the_anchors_nothing_is_recorded(
    medai: Medai, site: Site
) -> None:
    before = site.state()
    file = site.key_file()
    own = file.read_bytes()
    file.chmod(0o640)
    open_to_others = refused(medai(*ADD, text=PASSWORD))
    file.unlink()
    missing = refused(medai(*ADD, text=PASSWORD))
    file.symlink_to("nowhere")  # as a secret whose mount is broken
    dangling = refused(medai(*ADD, text=PASSWORD))
    file.unlink()
    file.write_bytes(
        Ed25519PrivateKey.generate().private_bytes(
            Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()
        )
    )
    file.chmod(0o600)
    of_another = refused(medai(*ADD, text=PASSWORD))

    for line in (open_to_others, missing, dangling):
        assert "nothing is recorded without the key that signs the audit log" in line
        assert "as the service's account" in line
    assert "may be read by others" in open_to_others
    assert "No such file" in dangling
    assert "not signed by this log's key" in of_another
    assert site.state() == before
    file.write_bytes(own)
    assert medai(*ADD, text=PASSWORD).code == 0
