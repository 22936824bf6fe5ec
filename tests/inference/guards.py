"""What a guard is given, and whom it has at work."""

import hashlib

import psutil

from deployments.inference.guard import Guard
from deployments.inference.prepare import Work
from deployments.inference.signature import signature
from registry.card import InputSpec

SPECS = (
    InputSpec(height=32, width=48, scale=1 / 255, mean=(0.5,), std=(0.2,)),
    InputSpec(height=8, width=8, color="rgb", scale=1, mean=(0,) * 3, std=(1,) * 3),
)


def work(body: bytes, frame: int | None = None, media_type: str | None = None) -> Work:
    kind = signature(body).media_type if media_type is None else media_type
    return Work(body, kind, frame, hashlib.sha256(body).hexdigest(), SPECS)


def workers(guard: Guard) -> list[psutil.Process]:
    assert guard._server is not None
    return psutil.Process(guard._server._process.pid).children()
