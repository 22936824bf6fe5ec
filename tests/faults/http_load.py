"""Clients that ask a real service without end, and keep every answer they got."""

import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from uuid import UUID

import httpx2

from tests.faults.client_ledger import ClientLedger
from tests.serve.conftest import Service
from tests.serve.films import INFER, film

PAUSE_S = 0.02  # between two requests of a client: the service shares the cores with us
NO_ANSWER = 0  # the connection broke, or nothing came in time
PROBLEM = "application/problem+json"
HEADERS = {"Content-Type": "image/jpeg"}


@dataclass(frozen=True, slots=True)
class Asked:
    """One request: when it was sent (`time.monotonic`), how long it took, what came."""

    at: float
    took_s: float
    status: int
    media_type: str

    @property
    def answered(self) -> bool:
        """Whether it was answered, with success."""
        return 200 <= self.status < 300


class HttpLoad:
    """Some clients of one service, asking until they are told to stop."""

    def __init__(self, service: Service, ledger: ClientLedger, clients: int) -> None:
        self.asked: list[Asked] = []
        self._service = service
        self._ledger = ledger
        self._ended = threading.Event()
        with service.client("carl") as client:
            self._token = client.headers["Authorization"]
        self._threads = [threading.Thread(target=self._ask) for _ in range(clients)]

    def start(self) -> None:
        """Begin to ask."""
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Finish what is under way and end."""
        self._ended.set()
        for thread in self._threads:
            thread.join()

    def between(self, start: float, end: float) -> list[Asked]:
        """What was sent in this time."""
        return [one for one in list(self.asked) if start <= one.at < end]

    def until_healed(self, since: float, within_s: float, row: int = 10) -> float:
        """Wait until so many requests in a row, all sent after `since`, are answered.

        Returns:
            How long after `since` the first of them was sent, in s.

        Raises:
            TimeoutError: They were not, in time.
        """
        while time.monotonic() < since + within_s:
            sent = sorted(self.between(since, float("inf")), key=lambda one: one.at)
            last = sent[-row:]
            if len(last) == row and all(one.answered for one in last):
                failed = [one.at for one in sent if not one.answered]
                start = max(failed, default=since)
                return next(one.at for one in sent if one.at >= start and one.answered) - since
            time.sleep(0.02)
        raise TimeoutError(f"not healed within {within_s:g} s: {self.statuses(since)}")

    def statuses(self, since: float) -> Counter[int]:
        """How often each status came for what was sent after `since`."""
        return Counter(one.status for one in self.between(since, float("inf")))

    def _ask(self) -> None:
        with httpx2.Client(base_url=self._service.url, timeout=40) as client:
            client.headers["Authorization"] = self._token
            while not self._ended.is_set():
                self._ask_once(client)
                time.sleep(PAUSE_S)

    def _ask_once(self, client: httpx2.Client) -> None:
        at = time.monotonic()
        try:
            response = client.post(INFER, content=film(), headers=HEADERS)
        except httpx2.HTTPError:
            self.asked.append(Asked(at, time.monotonic() - at, NO_ANSWER, ""))
            return
        media_type = response.headers.get("Content-Type", "")
        one = Asked(at, time.monotonic() - at, response.status_code, media_type)
        if one.answered:
            document = response.json()
            audit = document["audit"]
            self._ledger.hear(
                UUID(document["result_id"]), audit["seq"], bytes.fromhex(audit["entry_hash"])
            )
        self.asked.append(one)


@contextmanager
def loaded(service: Service, ledger: ClientLedger, clients: int = 4) -> Iterator[HttpLoad]:
    """The service under load."""
    load = HttpLoad(service, ledger, clients)
    load.start()
    try:
        yield load
    finally:
        load.stop()
