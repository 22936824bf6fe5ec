"""Faults of a whole service: `medai serve` with Ray Serve, HAProxy and a real database."""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import anyio
import httpx2

from configs.settings import DatabaseSettings
from storage.database import Database
from tests.faults.client_ledger import Balance, ClientLedger, balance
from tests.faults.http_load import NO_ANSWER, PROBLEM, Asked, HttpLoad, loaded
from tests.faults.trial import AUDIT_S, BACK_S, Trial
from tests.faults.writer_faults import quiet
from tests.postgres import PostgresServer
from tests.serve.conftest import PASSWORD, Service, environment_for, medai, running

DEPLOYMENTS = ("AuditWriter", "Validator", "OnnxModel:cxr-pneumonia", "Gateway")
HEALED_S = 60.0
STOPPED_S = 30.0
NOTICED_S = 0.5  # what was sent just before a database went away may still be answered
UNAVAILABLE = 503
# A killed gateway says nothing more, and HAProxy or Ray's own proxy answers in its place.
BY_PROXIES = {NO_ANSWER, 404, 500, 502, 503, 504}
LONG = {
    "MEDAI_AUTH__ACCESS_TOKEN_S": "7200",
    "MEDAI_RATELIMIT__PER_ADDRESS": "",
    "MEDAI_RATELIMIT__LOGIN": "",
    "MEDAI_RATELIMIT__LOGIN_PER_ADDRESS": "",
}


@dataclass
class Site:
    """A running service, its database, and what a client was told."""

    service: Service
    url: str
    where: str
    ledger: ClientLedger = field(default_factory=ClientLedger)
    last: Balance | None = None

    def balance(self, trial: Trial) -> None:
        """Count the records against the client's ledger."""

        async def read() -> Balance:
            database = Database(DatabaseSettings(command_timeout_s=60), self.url)
            try:
                return await balance(database, self.ledger)
            finally:
                await database.close()

        now = anyio.run(read)
        trial.add(now, before=self.last)
        self.last = now


def prepared(home: Path, server: PostgresServer | None) -> dict[str, str]:
    """The environment of a home with models and users, on a database of its own."""
    environment = environment_for(home) | LONG
    if server is not None:
        server.execute("CREATE DATABASE medai_faults")
        environment["MEDAI_DATABASE__URL"] = server.url("medai_faults")
    for arguments, text in (
        (("init", "--no-admin"), None),
        (("users", "add", "carl", "--role", "clinician", "--password-stdin"), PASSWORD),
        (("users", "add", "anna", "--role", "admin", "--password-stdin"), PASSWORD),
    ):
        done = medai(environment, *arguments, text=text)
        if done.returncode:
            raise RuntimeError(done.stderr)
    return environment


@contextmanager
def site(home: Path, server: PostgresServer | None) -> Iterator[Site]:
    """A service of its own, on PostgreSQL where there is a server, else on SQLite."""
    environment = prepared(home, server)
    url = environment.get("MEDAI_DATABASE__URL") or f"sqlite+aiosqlite:///{home / 'medai.db'}"
    where = f"Ray Serve on {'PostgreSQL' if server else 'SQLite'}"
    with running(environment, home / "server.log") as service:
        yield Site(service, url, where)


def killed_replicas(
    site: Site, deployment: str, times: int, tick: Callable[[], None] = quiet
) -> Trial:
    """SIGKILL to every replica of a deployment, under load."""
    trial = Trial(f"{deployment.partition(':')[0]} replica killed", site.where)
    bad = BY_PROXIES if deployment == "Gateway" else {UNAVAILABLE}
    for _ in range(times):
        with loaded(site.service, site.ledger) as load:
            load.until_healed(time.monotonic(), HEALED_S, row=40)
            killed = time.monotonic()
            victims = site.service.replicas(deployment)
            for victim in victims:
                os.kill(victim.pid, signal.SIGKILL)
            trial.expect(bool(victims), "there was nobody to kill")
            trial.kills += len(victims)
            trial.times += 1
            _heal(load, killed, trial)
        statuses = load.statuses(killed)
        trial.expect(
            set(statuses) <= {200, *bad}, f"answers were {dict(statuses)} after a {deployment} died"
        )
        _count(trial, load.between(killed, float("inf")))
        site.balance(trial)
        tick()
    return trial


def database_away(
    site: Site, server: PostgresServer, how: str, away_s: float, tick: Callable[[], None] = quiet
) -> Trial:
    """PostgreSQL is stopped, frozen or killed under load, and comes back."""
    begin, end = {
        "stopped": (server.stop, server.start),
        "frozen (SIGSTOP)": (server.freeze, server.thaw),
        "killed (SIGKILL)": (server.kill, server.start),
    }[how]
    trial = Trial(f"database {how}, {away_s:g} s", site.where, times=1)
    trial.kills += how.startswith("killed")
    with loaded(site.service, site.ledger) as load:
        load.until_healed(time.monotonic(), HEALED_S)
        begin()
        gone = time.monotonic()
        try:
            time.sleep(away_s / 2)
            _health(site, trial)
            time.sleep(away_s / 2)
        finally:
            back = time.monotonic()
            end()
        there = time.monotonic()
        _heal(load, there, trial, limit_s=BACK_S)
    _closed(load.between(gone + NOTICED_S, back - AUDIT_S), trial)
    site.balance(trial)
    tick()
    return trial


def _heal(load: HttpLoad, since: float, trial: Trial, limit_s: float = HEALED_S) -> None:
    """Wait until the service answers again; the first answer must come within `limit_s`."""
    try:
        healed_s = load.until_healed(since, HEALED_S)
    except TimeoutError as error:
        trial.failures.append(str(error))
        return
    answered = [one.at + one.took_s for one in load.between(since, float("inf")) if one.answered]
    first_s = min(answered) - since
    trial.expect(first_s <= limit_s, f"the first answer came after {first_s:.1f} s")
    trial.measure("first 2xx after s", [first_s])
    trial.measure("all answered after s", [healed_s])


def _closed(asked: list[Asked], trial: Trial) -> None:
    """While the database is away: 503 problem+json in time, and nothing else."""
    trial.expect(len(asked) > 0, "nobody asked while the database was away")
    answered = [one for one in asked if one.answered]
    trial.expect(not answered, f"{len(answered)} of {len(asked)} were answered with success")
    other = [one for one in asked if (one.status, one.media_type) != (UNAVAILABLE, PROBLEM)]
    trial.expect(not other, f"{len(other)} of {len(asked)} were no 503 problem: {other[:3]}")
    took = sorted(one.took_s for one in asked)
    p99 = took[int(len(took) * 0.99)] if took else 0.0
    trial.expect(p99 <= AUDIT_S, f"the p99 of a refusal is {p99:.2f} s")
    trial.figures["refusals"] = len(asked)
    trial.measure("refusal p99 s", [p99])
    trial.measure("refusal max s", took)


def _health(site: Site, trial: Trial) -> None:
    with httpx2.Client(base_url=site.service.url, timeout=5) as client:
        live, ready = client.get("/health/live"), client.get("/health/ready")
    trial.expect(live.status_code == 200, f"live said {live.status_code}")
    trial.expect(ready.status_code == UNAVAILABLE, f"ready said {ready.status_code}")


def _count(trial: Trial, asked: list[Asked]) -> None:
    """Of what was asked from the fault on, how much was refused or got no answer."""
    refused = sum(one.status == UNAVAILABLE for one in asked)
    broken = sum(not one.answered for one in asked) - refused
    for name, count in (("503", refused), ("no or a proxy's answer", broken)):
        known = trial.figures.get(name, 0)
        trial.figures[name] = count + (known if isinstance(known, int) else 0)


def terminated(site: Site, tick: Callable[[], None] = quiet) -> Trial:
    """SIGTERM to the service under load: what it accepted it finishes. The last fault of a site."""
    trial = Trial("SIGTERM under load", site.where, times=1)
    with loaded(site.service, site.ledger) as load:
        load.until_healed(time.monotonic(), HEALED_S)
        asked = time.monotonic()
        site.service.process.send_signal(signal.SIGTERM)
        code = site.service.process.wait(STOPPED_S + 10)
        took_s = time.monotonic() - asked
        time.sleep(0.2)
    trial.expect(code == 0, f"it ended with {code}")
    trial.expect(took_s <= STOPPED_S, f"it took {took_s:.1f} s")
    trial.measure("stopped after s", [took_s])
    statuses = load.statuses(asked)
    trial.expect(set(statuses) <= {200, UNAVAILABLE, NO_ANSWER}, f"answers were {dict(statuses)}")
    site.balance(trial)
    tick()
    return trial


def old_backup(site: Site, copy: Path, tick: Callable[[], None] = quiet) -> Trial:
    """The service starts on an older copy of its database than its anchors speak of.

    It comes up read-only and says why it is not ready; nobody gets in, because nothing can be
    recorded. The newest copy, put back, is taken.
    """
    trial = Trial("old backup restored", site.where, times=1)
    home, environment = site.service.home, site.service.environment
    newest = home / "newest"
    _move(home, "medai.db", newest)
    shutil.copy(copy, home / "medai.db")
    with (
        _starting(environment, home / "old.log"),
        httpx2.Client(base_url=site.service.url, timeout=10) as client,
    ):
        reason = _until_it_says(client, "older copy")
        trial.expect(bool(reason), "it did not say within 60 s that the database is older")
        trial.figures["it says"] = reason.partition(":")[0]
        told = _until_printed(home / "old.log", "the audit log is read-only")
        trial.expect(told, "it did not print within 60 s that it is read-only")
        ready, startup = client.get("/health/ready"), client.get("/health/startup")
        form = {"username": "carl", "password": PASSWORD}
        refused = client.post("/auth/login", data=form)
    trial.expect(ready.status_code == UNAVAILABLE, f"ready said {ready.status_code}")
    trial.expect(startup.status_code == httpx2.codes.OK, f"startup said {startup.status_code}")
    said = (refused.status_code, refused.headers.get("Content-Type"))
    trial.expect(said == (UNAVAILABLE, PROBLEM), f"a log-in was answered with {said}")
    for part in home.glob("medai.db*"):
        part.unlink()
    _move(newest, "medai.db", home)
    with running(environment, home / "again.log") as service:
        again = Site(service, site.url, site.where, site.ledger, site.last)
        with loaded(service, site.ledger) as load:
            _heal(load, time.monotonic(), trial)
        again.balance(trial)
    tick()
    return trial


def _move(source: Path, name: str, target: Path) -> None:
    """Move a SQLite file with what belongs to it."""
    target.mkdir(exist_ok=True)
    for part in source.glob(f"{name}*"):
        part.replace(target / part.name)


@contextmanager
def _starting(environment: dict[str, str], output: Path) -> Iterator[None]:
    """`medai serve`, not expected to become ready; ended by SIGTERM."""
    with output.open("wb") as stream:
        process = subprocess.Popen(
            [sys.executable, "-m", "deployments.cli", "serve"],
            env=environment,
            stdout=stream,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        yield
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(STOPPED_S + 10)


def _until_printed(output: Path, words: str, within_s: float = 60) -> bool:
    """Whether the service prints these words in time."""
    deadline = time.monotonic() + within_s
    while time.monotonic() < deadline:
        if words in output.read_text(errors="replace"):
            return True
        time.sleep(0.2)
    return False


def _until_it_says(client: httpx2.Client, words: str, within_s: float = 60) -> str:
    """The reason with these words that a health check gives; "" where none did in time."""
    deadline = time.monotonic() + within_s
    while time.monotonic() < deadline:
        with suppress(httpx2.HTTPError, ValueError, KeyError):
            for check in client.get("/health").json()["checks"].values():
                if words in check["reason"]:
                    return str(check["reason"])
        time.sleep(0.2)
    return ""
