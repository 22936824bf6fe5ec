"""A typed client of the HTTP interface, the one that the command line uses.

    with Client("http://127.0.0.1:8000") as client:
        client.login("ada", password)
        answer = client.infer(Path("film.dcm"), model="cxr-pneumonia")
        print(answer["outcome"], answer["prediction"])

What the service refuses is raised as `Problem`, with the rules that were broken. Where it is busy
and says when to come again, the client does, within limits (`client_retries`): every image is sent
under an `Idempotency-Key`, so that one that is sent again is one inference.
"""

from collections.abc import Iterator, Sequence
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypedDict, Unpack, cast
from uuid import UUID, uuid4

import httpx2

from deployments.client_answers import (
    BatchItem,
    Inference,
    ModelPage,
    ProblemDocument,
    ResultPage,
)
from deployments.client_retries import IDEMPOTENCY_KEY, TOTAL_S, answered

MEDIA_TYPES = {
    ".dcm": "application/dicom",
    ".dicom": "application/dicom",
    ".jpeg": "image/jpeg",
    ".jpg": "image/jpeg",
    ".png": "image/png",
}
UNTYPED = "application/octet-stream"  # the server then looks at the first bytes
TIMEOUT_S = 60.0  # above the service's own deadline, so that its answer arrives
BATCH_IMAGES = 100  # the most images of one batch
BATCH_BYTES = 120 * 2**20  # of their files together: below the server's limit as it is delivered
_TOO_LARGE = 413


class Problem(Exception):
    """A refusal or failure (RFC 9457). `document` is the problem as it came."""

    def __init__(self, status: int, document: ProblemDocument) -> None:
        super().__init__(status, document)
        self.status = status
        self.document = document

    @property
    def code(self) -> str:
        """The last part of the problem's type, such as `validation-failed`."""
        return str(self.document.get("type", "")).rpartition("/")[2]

    def __str__(self) -> str:
        rules = [
            ": ".join(str(part) for part in (rule.get("rule"), rule.get("advice")) if part)
            for rule in self.document.get("violations") or ()
        ]
        detail = self.document.get("detail") or self.document.get("title") or "no explanation"
        return "; ".join([f"{self.status} {detail}", *rules])


class ResultFilters(TypedDict, total=False):
    """What `Client.results` filters by. `since` and `until` are aware; `until` is exclusive."""

    model_id: str
    model_version: str
    outcome: str
    created_by: UUID
    patient: str
    since: datetime
    until: datetime
    needs_review: bool


Unreachable = httpx2.TransportError
"""Raised where the server cannot be reached, or the connection breaks."""


class Client:
    """One server, one user. Use as a context, or close it.

    Args:
        url: Where the server is.
        token: An access token, instead of `login`.
        retry_for_s: How long to ask a busy server again; 0: never.
    """

    def __init__(self, url: str, token: str | None = None, *, retry_for_s: float = TOTAL_S) -> None:
        self._http = httpx2.Client(base_url=url, timeout=TIMEOUT_S)
        self._retry_for_s = retry_for_s
        if token is not None:
            self._http.headers["Authorization"] = f"Bearer {token}"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the connection."""
        self._http.close()

    def login(self, username: str, password: str) -> str:
        """Get an access token, use it from now on, and give it. Raises `Problem`."""
        form = {"username": username, "password": password}
        token = str(_checked(self._http.post("/auth/login", data=form))["access_token"])
        self._http.headers["Authorization"] = f"Bearer {token}"
        return token

    def logout(self) -> None:
        """End the token."""
        _checked(self._http.post("/auth/logout"))
        del self._http.headers["Authorization"]

    def infer(
        self,
        file: Path,
        *,
        model: str,
        patient_id: str | None = None,
        frame: int | None = None,
        idempotency_key: str | None = None,
    ) -> Inference:
        """Send one image.

        Args:
            file: A JPEG, PNG or DICOM file.
            model: The model's name.
            patient_id: The patient's id at the site; only a keyed pseudonym of it is kept.
            frame: Which frame of a multi-frame image, from 1.
            idempotency_key: The same key and image again get the same recorded answer. By default
                a new key for each call.

        Raises:
            Problem: The service refused the image or could not answer.
        """
        media_type = MEDIA_TYPES.get(file.suffix.lower())
        query: dict[str, Any] = {"model": model} | ({} if frame is None else {"frame": frame})
        headers = _keyed(idempotency_key)
        if patient_id is None and media_type is not None:
            response = self._ask(
                "POST",
                "/infer",
                params=query,
                content=file.read_bytes(),
                headers={"Content-Type": media_type, **headers},
            )
        else:
            response = self._ask(
                "POST",
                "/infer",
                params=query,
                files={"file": _part(file)},
                data={} if patient_id is None else {"patient_id": patient_id},
                headers=headers,
            )
        return cast("Inference", _checked(response))

    def infer_batch(
        self, files: Sequence[Path], *, model: str, idempotency_key: str | None = None
    ) -> Iterator[BatchItem]:
        """Send many images, in as few requests as their number and size allow.

        Where the server takes smaller bodies than it is delivered with, the images go in smaller
        batches.

        Args:
            files: JPEG, PNG or DICOM files.
            model: The model's name.
            idempotency_key: Up to 100 characters; the same key and files again get the same
                recorded answers. By default a new key for each call.

        Yields:
            The answer to each image, in order, as soon as its batch is answered. `index` is its
            place among `files`.

        Raises:
            Problem: The service could not answer a batch at all.
        """
        place = 0
        waiting = list(reversed(batches(files)))
        while waiting:
            batch = waiting.pop()
            key = None if idempotency_key is None else f"{idempotency_key}/{place}/{len(batch)}"
            try:
                items = self._infer_batch(batch, model, key)
            except Problem as problem:
                if problem.status != _TOO_LARGE or len(batch) == 1:
                    raise
                middle = len(batch) // 2
                waiting += [batch[middle:], batch[:middle]]
                continue
            for item in items:
                yield {**item, "index": place + item["index"]}
            place += len(batch)

    def _infer_batch(self, batch: Sequence[Path], model: str, key: str | None) -> list[BatchItem]:
        response = self._ask(
            "POST",
            "/infer/batch",
            params={"model": model},
            files=[("file", _part(file)) for file in batch],
            headers=_keyed(key),
        )
        return cast("list[BatchItem]", _checked(response)["items"])

    def health(self) -> dict[str, Any]:
        """Every check; to an administrator also how the service stands. Raises `Problem`."""
        return _checked(self._http.get("/health"))

    def is_ready(self) -> bool:
        """Whether the server is there and ready to answer."""
        try:
            return self._http.get("/health/ready").is_success
        except httpx2.HTTPError:
            return False

    def results(
        self,
        *,
        page: int | None = None,
        size: int = 20,
        after: UUID | None = None,
        **filters: Unpack[ResultFilters],
    ) -> ResultPage:
        """A page of recorded results, the newest first: one's own; an administrator's are all.

        Args:
            page: The page's number, from 1.
            size: How many results, at most 100.
            after: Instead of a number: results older than this one, at the same cost anywhere.
            filters: See `ResultFilters`.

        Raises:
            Problem: The service refused the request or could not answer.
        """
        given: dict[str, Any] = {"page": page, "size": size, "after": after, **filters}
        given["from"] = _moment(given.pop("since", None))
        given["to"] = _moment(given.pop("until", None))
        query = {
            name: str(value).lower() if isinstance(value, bool) else str(value)
            for name, value in given.items()
            if value is not None
        }
        return cast("ResultPage", _checked(self._ask("GET", "/results", params=query)))

    def models(
        self,
        *,
        page: int = 1,
        size: int = 20,
        clinical_domain: str | None = None,
        status: str | None = None,
    ) -> ModelPage:
        """A page (from 1) of the registered model versions. Raises `Problem`."""
        given = {"page": page, "size": size, "clinical_domain": clinical_domain, "status": status}
        query = {name: value for name, value in given.items() if value is not None}
        return cast("ModelPage", _checked(self._ask("GET", "/models", params=query)))

    def _ask(self, method: str, path: str, **options: Any) -> httpx2.Response:
        request = self._http.build_request(method, path, **options)
        return answered(self._http.send, request, total_s=self._retry_for_s)


def batches(files: Sequence[Path]) -> list[list[Path]]:
    """The files in order, in batches of at most `BATCH_IMAGES` files and `BATCH_BYTES`.

    A file that is larger by itself is a batch by itself, for the server to refuse.
    """
    made: list[list[Path]] = []
    size = 0
    for file in files:
        its = file.stat().st_size
        if not made or len(made[-1]) == BATCH_IMAGES or size + its > BATCH_BYTES:
            made.append([])
            size = 0
        made[-1].append(file)
        size += its
    return made


def _part(file: Path) -> tuple[str, bytes, str]:
    """A form part. A file's own name may hold a patient's; it never leaves this machine."""
    media_type = MEDIA_TYPES.get(file.suffix.lower(), UNTYPED)
    return "image", file.read_bytes(), media_type


def _keyed(key: str | None) -> dict[str, str]:
    return {IDEMPOTENCY_KEY: uuid4().hex if key is None else key}


def _moment(moment: datetime | None) -> str | None:
    return None if moment is None else moment.isoformat()


def _checked(response: httpx2.Response) -> dict[str, Any]:
    try:
        document = response.json() if response.content else {}
    except ValueError:
        document = {"title": "the answer is not JSON: is this the right address?"}
    if not response.is_success:
        raise Problem(response.status_code, cast("ProblemDocument", document))
    assert isinstance(document, dict)
    return document
