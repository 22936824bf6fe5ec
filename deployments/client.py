"""A typed client of the HTTP interface, the one that the command line uses.

    with Client("http://127.0.0.1:8000") as client:
        client.login("ada", password)
        answer = client.infer(Path("film.dcm"), model="cxr-pneumonia")
        print(answer["outcome"], answer["prediction"])

What the service refuses is raised as `Problem`, with the rules that were broken.
"""

from pathlib import Path
from types import TracebackType
from typing import Any, Self

import httpx2

MEDIA_TYPES = {
    ".dcm": "application/dicom",
    ".dicom": "application/dicom",
    ".jpeg": "image/jpeg",
    ".jpg": "image/jpeg",
    ".png": "image/png",
}
TIMEOUT_S = 60.0  # above the service's own deadline, so that its answer arrives


class Problem(Exception):
    """A refusal or failure (RFC 9457). `document` is the problem as it came."""

    def __init__(self, status: int, document: dict[str, Any]) -> None:
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
            for rule in self.document.get("violations", [])
        ]
        detail = self.document.get("detail") or self.document.get("title") or "no explanation"
        return "; ".join([f"{self.status} {detail}", *rules])


Unreachable = httpx2.TransportError
"""Raised where the server cannot be reached, or the connection breaks."""


class Client:
    """One server, one user. Use as a context, or close it.

    Args:
        url: Where the server is.
        token: An access token, instead of `login`.
    """

    def __init__(self, url: str, token: str | None = None) -> None:
        self._http = httpx2.Client(base_url=url, timeout=TIMEOUT_S)
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

    def login(self, username: str, password: str) -> None:
        """Get an access token and use it from now on. Raises `Problem`."""
        form = {"username": username, "password": password}
        answer = _checked(self._http.post("/auth/login", data=form))
        self._http.headers["Authorization"] = f"Bearer {answer['access_token']}"

    def logout(self) -> None:
        """End the token."""
        _checked(self._http.post("/auth/logout"))
        del self._http.headers["Authorization"]

    def infer(self, file: Path, *, model: str, patient_id: str | None = None) -> dict[str, Any]:
        """Send one image.

        Args:
            file: A JPEG, PNG or DICOM file; its name's ending says which.
            model: The model's name.
            patient_id: The patient's id at the site; only a keyed pseudonym of it is kept.

        Returns:
            The answer, as in the API's documentation.

        Raises:
            Problem: The service refused the image or could not answer.
        """
        media_type = media_type_of(file)
        query = {"model": model}
        if patient_id is None:
            response = self._http.post(
                "/infer",
                params=query,
                content=file.read_bytes(),
                headers={"Content-Type": media_type},
            )
        else:
            # A file's own name may hold a patient's; it never leaves this machine.
            parts = {"file": ("image", file.read_bytes(), media_type)}
            response = self._http.post(
                "/infer", params=query, files=parts, data={"patient_id": patient_id}
            )
        return _checked(response)

    def is_ready(self) -> bool:
        """Whether the server is there and ready to answer."""
        try:
            return self._http.get("/health/ready").is_success
        except httpx2.HTTPError:
            return False

    def models(self) -> dict[str, Any]:
        """The models there are."""
        return _checked(self._http.get("/models"))


def media_type_of(file: Path) -> str:
    """The media type by the file's ending. Raises `ValueError` naming the endings there are."""
    try:
        return MEDIA_TYPES[file.suffix.lower()]
    except KeyError:
        msg = f"the file must end in one of {', '.join(sorted(MEDIA_TYPES))}"
        raise ValueError(msg) from None


def _checked(response: httpx2.Response) -> dict[str, Any]:
    try:
        document = response.json() if response.content else {}
    except ValueError:
        document = {"title": "the answer is not JSON: is this the right address?"}
    if not response.is_success:
        raise Problem(response.status_code, document)
    assert isinstance(document, dict)
    return document
