"""Images for the tests through a real service, from packages that ship them."""

import io
from functools import cache
from pathlib import Path

import numpy as np
from PIL import Image
from pydicom import dcmread
from pydicom.data import get_testdata_file

INFER = "/infer?model=cxr-pneumonia"
ROUTER = "/infer?model=body-part"


@cache
def film_file() -> Path:
    """A chest film as DICOM: RG1 of the NEMA compression samples, an adult's."""
    found = get_testdata_file("RG1_UNCR.dcm", download=False)
    assert found is not None
    return Path(found)


@cache
def film(size: int = 224) -> bytes:
    """The same film as a grey JPEG of `size` x `size` pixels, without a header."""
    header = dcmread(film_file())
    stored = header.pixel_array.astype(np.float64)
    shown = 255 - np.clip(stored / 30_000, 0, 1) * 255  # its window; MONOCHROME1
    image = Image.fromarray(shown.astype(np.uint8)).resize((size, size), Image.Resampling.BILINEAR)
    file = io.BytesIO()
    image.save(file, "JPEG", quality=90)
    return file.getvalue()


@cache
def washed_out(size: int = 224) -> bytes:
    """The film, blurred and bleached until nothing can be seen."""
    with Image.open(io.BytesIO(film(size))) as image:
        flat = image.resize((8, 8)).resize((size, size)).point(lambda value: 250 + value // 64)
    file = io.BytesIO()
    flat.save(file, "JPEG", quality=90)
    return file.getvalue()


def corrupt() -> bytes:
    """A JPEG that ends in the middle."""
    whole = film()
    return whole[: len(whole) // 2]
