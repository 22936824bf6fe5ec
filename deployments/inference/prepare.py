"""One image, from a file's bytes to what the models take.

This runs in a thread, or in the guarded process. All the work on pixels is here, so that what
leaves is small: the tensors, the measures and the facts.
"""

import hashlib
import time
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from configs.settings import LimitSettings
from deployments.inference import image
from deployments.inference.decoded import PatientFacts
from deployments.inference.quality import Measures, measure
from registry.card import InputSpec
from registry.catalogue import Served
from registry.contract import ImageFacts, Upload


@dataclass(frozen=True, slots=True)
class Work:
    """What is to be done to one file.

    Attributes:
        body: The file's bytes.
        media_type: As declared.
        frame: Which frame of a multi-frame image, from 1.
        sha256: The file's digest, hex.
        specs: What each model that will see the image takes.
    """

    body: bytes
    media_type: str
    frame: int | None
    sha256: str
    specs: tuple[InputSpec, ...]

    @classmethod
    def of(cls, upload: Upload, facts: ImageFacts, served: Served, gate: Served | None) -> Self:
        """What one upload needs: a tensor for its model, then one for the gate, if there is one."""
        specs = (served.card.input,) if gate is None else (served.card.input, gate.card.input)
        return cls(upload.body, upload.media_type, upload.frame, facts.sha256, specs)


@dataclass(frozen=True, slots=True)
class Prepared:
    """One image, ready for the models.

    Attributes:
        facts: What may be kept.
        patient: What may not.
        measures: Its quality.
        tensors: For each spec, in order: uint8, shape (channels, height, width).
        decode_ms: Bytes to pixels.
        measure_ms: Pixels to measures.
        preprocess_ms: Pixels to tensors.
    """

    facts: ImageFacts
    patient: PatientFacts
    measures: Measures
    tensors: tuple[NDArray[np.uint8], ...]
    decode_ms: float
    measure_ms: float
    preprocess_ms: float


def file_facts(body: bytes) -> ImageFacts:
    """What is known of a file that has not been decoded."""
    return ImageFacts(sha256=hashlib.sha256(body).hexdigest(), size_bytes=len(body))


def prepare(work: Work, limits: LimitSettings) -> Prepared:
    """Decode, measure and resize. Raises what `inference.image.read` raises."""
    started = time.perf_counter()
    decoded = image.read(
        work.body,
        work.media_type,
        ImageFacts(sha256=work.sha256, size_bytes=len(work.body)),
        limits=limits,
        frame=work.frame,
        rgb=any(spec.color == "rgb" for spec in work.specs),
        at_least=_least_size(work.specs),
    )
    decoded_at = time.perf_counter()
    picture = Image.fromarray(decoded.pixels)
    measures = measure(
        decoded.pixels,
        width=decoded.facts.width,
        height=decoded.facts.height,
        picture=picture,
    )
    measured_at = time.perf_counter()
    tensors = tuple(
        decoded.pixels[None] if _is_ready(decoded.pixels, spec) else to_tensor(picture, spec)
        for spec in work.specs
    )
    done = time.perf_counter()
    return Prepared(
        facts=decoded.facts,
        patient=decoded.patient,
        measures=measures,
        tensors=tensors,
        decode_ms=(decoded_at - started) * 1e3,
        measure_ms=(measured_at - decoded_at) * 1e3,
        preprocess_ms=(done - measured_at) * 1e3,
    )


def to_tensor(picture: Image.Image, spec: InputSpec) -> NDArray[np.uint8]:
    """The card's resizing: uint8, shape (channels, height, width), still on the display scale.

    Scaling and normalisation are left to the model's replica: a quarter of the bytes travels.
    """
    mode = "L" if spec.color == "grayscale" else "RGB"
    if picture.mode != mode:
        picture = picture.convert(mode)
    size = (spec.width, spec.height)
    if picture.size != size:
        picture = picture.resize(size, Image.Resampling.BILINEAR)
    pixels = np.asarray(picture)
    return pixels[None] if mode == "L" else np.ascontiguousarray(pixels.transpose(2, 0, 1))


def _is_ready(pixels: NDArray[np.uint8], spec: InputSpec) -> bool:
    """Whether the pixels are the tensor as they are: a copy costs more than a look."""
    return spec.color == "grayscale" and pixels.shape == (spec.height, spec.width)


def _least_size(specs: tuple[InputSpec, ...]) -> tuple[int, int] | None:
    """What a JPEG may be scaled down to while it is decoded; None unless every card allows it."""
    if not specs or not all(spec.scaled_jpeg_decoding for spec in specs):
        return None
    return max(spec.width for spec in specs), max(spec.height for spec in specs)
