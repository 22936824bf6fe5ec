"""Canary requests to a real service, and the search of everything it left behind."""

import itertools
import json
import socket
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from urllib.parse import urlsplit

import anyio
import httpx2

from configs.settings import DatabaseSettings
from storage.database import Database
from tests.faults.canary import Hit, Patient, Searcher
from tests.faults.canary_requests import CanaryRequest, canary_request
from tests.faults.serve_faults import Site
from tests.faults.trial import Trial
from tests.faults.writer_faults import quiet
from tests.serve.films import INFER, film

THREADS = 4
USERS = {"clinician": "carl", "admin": "anna"}
ECHOED = b"x-request-id"
UNDERSTOOD = 1000  # hits that are kept: more say nothing more


class Canaries:
    """Sends requests and searches the answers, from several threads."""

    def __init__(self, site: Site, searcher: Searcher, clients: dict[str | None, httpx2.Client]):
        self.statuses: Counter[int] = Counter()
        self.hits: list[Hit] = []
        self.unmarked = 0  # requests in which the search itself found no canary: it would be blind
        self._url = site.service.url
        self._searcher = searcher
        self._clients = clients
        self._lock = threading.Lock()

    def send(self, number: int) -> None:
        """Send the request of this patient. Every fiftieth caller hangs up in the middle of it."""
        if number % 50 == 0:
            leave(self._url, Patient(number), self._clients["clinician"])
            return
        wanted = canary_request(Patient(number))
        client = self._clients[wanted.user]
        request = client.build_request(wanted.method, wanted.path, **wanted.options)
        marked = sent_marks(self._searcher, request)
        try:
            response = client.send(request)
        except httpx2.HTTPError:
            with self._lock:
                self.statuses[0] += 1
            return
        hits = list(answer_hits(self._searcher, wanted, response))
        with self._lock:
            self.statuses[response.status_code] += 1
            self.unmarked += not marked
            self.hits += hits


def leave(url: str, patient: Patient, client: httpx2.Client) -> None:
    """Ask for an inference, naming the patient in the headers, and reset the connection."""
    address = urlsplit(url)
    body = film()
    head = (
        f"POST {INFER} HTTP/1.1\r\nHost: {address.netloc}\r\n"
        f"Authorization: {client.headers['Authorization']}\r\n"
        f"X-Request-ID: {patient.ascii}\r\nUser-Agent: {patient.ascii}\r\n"
        f"Content-Type: image/jpeg\r\nContent-Length: {len(body)}\r\n\r\n"
    ).encode()
    with socket.create_connection((address.hostname or "", address.port or 80)) as leaving:
        leaving.sendall(head + body)
        leaving.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")


def sent_marks(searcher: Searcher, request: httpx2.Request) -> int:
    """How many canaries the search finds in a request as it goes out."""
    head = [request.method.encode(), request.url.raw_path]
    head += [part for pair in request.headers.raw for part in pair]
    return len(list(searcher.find("request", b"\n".join([*head, request.read()]))))


def answer_hits(
    searcher: Searcher, wanted: CanaryRequest, response: httpx2.Response
) -> Iterator[Hit]:
    """The canaries in an answer: in its body or its headers.

    Ray Serve gives a caller's own `x-request-id` back to him, before and after our code; it goes
    nowhere else, which the search of Ray's logs shows.
    """
    head = b"\n".join(
        part for pair in response.headers.raw if pair[0].lower() != ECHOED for part in pair
    )
    path = wanted.path.partition("?")[0][:20]
    place = f"answer {response.status_code} to {wanted.method[:6]} {path}"
    yield from searcher.find(place, head + b"\n" + response.content)


def canary_trial(site: Site, requests: int, tick: Callable[[], None] = quiet) -> Trial:
    """Send so many requests that name patients; nothing of them may be anywhere afterwards."""
    trial = Trial("patients named in every place of a request", site.where, times=requests)
    searcher = Searcher()
    with ExitStack() as stack:
        clients: dict[str | None, httpx2.Client] = {
            key: stack.enter_context(site.service.client(name))
            for key, name in (*USERS.items(), (None, None))
        }
        canaries = Canaries(site, searcher, clients)
        with ThreadPoolExecutor(THREADS) as threads:
            for _ in threads.map(canaries.send, range(1, requests + 1)):
                tick()
        pages = _pages(site, clients["admin"])
    hits = canaries.hits + [hit for page in pages for hit in searcher.find(*page)]
    searched, in_files = searcher.find_in_files(site.service.home, run_directory(site))
    rows, in_tables = _in_tables(site, searcher)
    hits += in_files + in_tables
    unknown = (site.service.output.read_text("utf-8", "replace")).count('"dropped_keys"')
    failed = sum(count for status, count in canaries.statuses.items() if _ours(status))
    trial.expect(not canaries.unmarked, f"the search is blind for {canaries.unmarked} requests")
    trial.expect(not failed, f"{failed} requests failed on our side: {dict(canaries.statuses)}")
    trial.expect(not unknown, f"{unknown} log lines had keys nobody knows")
    for hit in itertools.islice(hits, UNDERSTOOD):
        trial.failures.append(f"{hit.place}: {hit.around}")
    trial.figures |= {
        "requests": requests,
        "hits": len(hits),
        "searched MiB": round(searched / 2**20, 1),
        "searched rows": rows,
        "answers": json.dumps(dict(sorted(canaries.statuses.items()))),
    }
    return trial


def run_directory(site: Site) -> Path:
    """Where Ray keeps its session and its logs while the service runs."""
    return Path(json.loads((site.service.home / "server.json").read_text())["directory"])


def _ours(status: int) -> bool:
    return status == 0 or status >= httpx2.codes.INTERNAL_SERVER_ERROR


def _pages(site: Site, admin: httpx2.Client | None) -> list[tuple[str, bytes]]:
    """What else the service says of itself."""
    assert admin is not None
    ports = site.service.environment
    pages = [
        (path, admin.get(path).raise_for_status().content)
        for path in ("/metrics", "/health", "/admin/audit/export", "/results?size=100")
    ]
    for name in ("METRICS_PORT", "HAPROXY_METRICS_PORT"):
        url = f"http://127.0.0.1:{ports[f'MEDAI_SERVER__{name}']}/metrics"
        pages.append((name, httpx2.get(url, timeout=20).content))
    return pages


def _in_tables(site: Site, searcher: Searcher) -> tuple[int, list[Hit]]:
    async def search() -> tuple[int, list[Hit]]:
        database = Database(DatabaseSettings(command_timeout_s=60), site.url)
        try:
            return await searcher.find_in_tables(database)
        finally:
            await database.close()

    return anyio.run(search)
