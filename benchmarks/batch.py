"""`POST /infer/batch` with 100 images, against 100 single requests from 16 clients.

Both in one start of the service, first the one, then the other. One client sends batches, one at a
time: 100 images in progress, which the gateway's default admission holds.
"""

import secrets
from dataclasses import dataclass

import httpx2

from benchmarks.load import Load, Result
from benchmarks.ours import NotOffered
from benchmarks.processes import Left
from benchmarks.service import HOST, Service, measure

PATH = "/infer/batch"
IMAGES = 100
SINGLE_CLIENTS = 16
BATCH_CLIENTS = 1


@dataclass(frozen=True, slots=True)
class Comparison:
    """Both loads; rates are images a second."""

    singles: Result
    batches: Result

    @property
    def ratio(self) -> float:
        """Images a second in batches / one by one."""
        return self.batches.throughput * IMAGES / max(self.singles.throughput, 1e-9)


def compare(service: Service, body: bytes, *, seconds: float) -> Comparison:
    """Measure both.

    Raises:
        NotOffered: The service has no such route.
        Left: An image of a batch was not answered.
    """
    schema = httpx2.get(f"http://{HOST}:{service.port}/openapi.json", timeout=30).json()
    if PATH not in schema.get("paths", {}):
        raise NotOffered(f"the service has no {PATH}")
    single = Load(
        HOST, service.port, service.request(body), SINGLE_CLIENTS, warmup_s=2, seconds=seconds
    )
    media_type, form = multipart(body, IMAGES)
    path = f"{PATH}?{service.path.partition('?')[2]}"
    answered = service.ask(form, media_type, path)["answered"]
    if answered != IMAGES:
        raise Left(f"{answered} of {IMAGES} images of a batch were answered")
    request = service.request(form, media_type, path)
    many = Load(HOST, service.port, request, BATCH_CLIENTS, warmup_s=2, seconds=seconds)
    return Comparison(measure(service, single).result, measure(service, many).result)


def multipart(body: bytes, images: int) -> tuple[str, bytes]:
    """A form with the image `images` times (RFC 7578): its media type and its bytes."""
    boundary = secrets.token_hex(16)
    part = (
        f"--{boundary}\r\n"
        'content-disposition: form-data; name="file"; filename="image"\r\n'
        "content-type: image/jpeg\r\n\r\n"
    ).encode()
    form = (part + body + b"\r\n") * images + f"--{boundary}--\r\n".encode()
    return f"multipart/form-data; boundary={boundary}", form
