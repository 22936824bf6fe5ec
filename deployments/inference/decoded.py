"""What a decoder gives: pixels on the display scale, and facts by allow-list. Nothing acts here."""

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from configs.settings import LimitSettings
from registry.contract import ImageFacts
from registry.errors import ImageTooLarge, Violation


@dataclass(frozen=True, slots=True)
class PatientFacts:
    """What the header says of the patient. Used for one decision and dropped; never stored.

    Attributes:
        age_years: Age at the time of the study.
        sex: `M`, `F`, `O` or "".
        id: The patient id as it stands in the header, for the pseudonym only. Not in `repr`.
    """

    age_years: float | None = None
    sex: str = ""
    id: str = field(default="", repr=False)


@dataclass(frozen=True, slots=True)
class DecodedImage:
    """One image and what is known of it.

    Attributes:
        pixels: uint8 on the display scale, 0 black to 255 white; shape (height, width), or
            (height, width, 3) where RGB was asked for.
        facts: What may be kept.
        patient: What may not.
    """

    pixels: NDArray[np.uint8]
    facts: ImageFacts
    patient: PatientFacts = PatientFacts()


def check_size(width: int, height: int, frames: int, limits: LimitSettings) -> None:
    """To be called before anything is decoded. Raises `ImageTooLarge`, every limit named."""
    violations = []
    if width * height > limits.max_pixels:
        violations.append(
            Violation(
                "pixels",
                f"{width} x {height}",
                f"at most {limits.max_pixels} in one image",
                "send the image at a smaller size",
            )
        )
    if frames > limits.max_frames:
        violations.append(
            Violation("frames", str(frames), f"at most {limits.max_frames}", "send fewer frames")
        )
    if violations:
        raise ImageTooLarge("the image is larger than this service decodes", tuple(violations))
