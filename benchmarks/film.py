"""The images every row gets: two JPEG files of one real chest film.

The film is RG1 of the NEMA compression samples (CR, an adult, 1955 x 1841, MONOCHROME1), from the
`pydicom-data` package. It is shown as its header says, by the linear window of DICOM PS3.3
C.11.2.1.2.1, and inverted, since MONOCHROME1 paints the lowest value white (PS3.3 C.7.6.3.1.2).

    small   224 x 224, about 6 kB: what the bundled model was trained on; decoding costs little
    large   1024 x 1024, about 110 kB: what a viewer exports; decoding costs more than the model
"""

from enum import StrEnum
from io import BytesIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pydicom import dcmread
from pydicom.data import get_testdata_file

FILM = "RG1_UNCR.dcm"


class Picture(StrEnum):
    """The images by name."""

    SMALL = "small"
    LARGE = "large"


# Side in pixels, JPEG quality (libjpeg's scale).
_MADE = {Picture.SMALL: (224, 80), Picture.LARGE: (1024, 90)}


def jpeg(picture: Picture) -> bytes:
    """The file's bytes. Raises `FileNotFoundError` where the film's package is not installed."""
    side, quality = _MADE[picture]
    film = Image.fromarray(film_pixels())
    shown = film.resize((side, side), Image.Resampling.LANCZOS)
    out = BytesIO()
    shown.save(out, "JPEG", quality=quality)
    return out.getvalue()


def film_pixels() -> NDArray[np.uint8]:
    """The film on the display scale: uint8, shape (1955, 1841), 0 black."""
    path = get_testdata_file(FILM, download=False)
    if path is None:
        raise FileNotFoundError(f"{FILM}: install the pydicom-data package")
    film = dcmread(str(path))
    centre, width = float(film.WindowCenter), float(film.WindowWidth)
    stored = film.pixel_array.astype(np.float32)
    shown = ((stored - (centre - 0.5)) / (width - 1) + 0.5).clip(0, 1) * 255
    if film.PhotometricInterpretation == "MONOCHROME1":
        shown = 255 - shown
    pixels: NDArray[np.uint8] = np.rint(shown).astype(np.uint8)
    return pixels
