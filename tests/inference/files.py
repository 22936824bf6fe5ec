"""Real images from packages, and small files made for one test."""

import hashlib
from functools import cache
from importlib.resources import files
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import UID, CTImageStorage, ExplicitVRLittleEndian

from configs.settings import LimitSettings
from deployments.inference.decoded import DecodedImage
from deployments.inference.image import read
from deployments.inference.signature import signature
from registry.contract import ImageFacts

FILM = "RG1_UNCR.dcm"  # an adult chest film, PA, 1841 x 1955, MONOCHROME1, 15 bits
LEG = "RG3_UNCR.dcm"
HEAD_CT = "693_UNCR.dcm"

LIMITS = LimitSettings()


@cache
def dicom_paths() -> dict[str, Path]:
    """Every file of pydicom's and pydicom-data's test data, by name; the larger of two wins."""
    roots = [Path(str(files("pydicom") / "data")), Path(str(files("data_store") / "data"))]
    found = [path for root in roots for path in root.rglob("*") if path.is_file()]
    endings = {".py", ".pyc", ".json", ".txt", ".md"}
    return {
        path.name: path
        for path in sorted(found, key=lambda path: path.stat().st_size)
        if path.suffix not in endings
    }


def dicom_file(name: str) -> bytes:
    """A DICOM file by its name."""
    return dicom_paths()[name].read_bytes()


def photograph(name: str) -> bytes:
    """A picture of scikit-image by its name, as a file."""
    return (Path(str(files("skimage") / "data")) / name).read_bytes()


def decode(body: bytes, **options: Any) -> DecodedImage:
    """Read a file of whatever type it is."""
    return read(body, signature(body).media_type, file_facts(body), **{"limits": LIMITS, **options})


def file_facts(body: bytes) -> ImageFacts:
    """What is known before decoding."""
    return ImageFacts(hashlib.sha256(body).hexdigest(), len(body))


@cache
def film_pixels(name: str = FILM) -> NDArray[np.uint8]:
    """A film on the display scale, longest side 512 pixels."""
    picture = Image.fromarray(decode(dicom_file(name)).pixels)
    picture.thumbnail((512, 512), Image.Resampling.BOX)
    return np.asarray(picture)


def encoded(pixels: NDArray[Any], kind: str = "PNG", **options: Any) -> bytes:
    """Pixels as a JPEG or PNG file."""
    buffer = BytesIO()
    Image.fromarray(pixels).save(buffer, kind, **options)
    return buffer.getvalue()


def film_jpeg(side: int = 224) -> bytes:
    """The chest film as a JPEG of `side` x `side` pixels."""
    picture = Image.fromarray(film_pixels()).resize((side, side), Image.Resampling.BILINEAR)
    return encoded(np.asarray(picture), "JPEG", quality=90)


def make_dicom(
    pixels: NDArray[Any], *, syntax: UID = ExplicitVRLittleEndian, **changes: Any
) -> bytes:
    """A DICOM file of one grey frame, with `changes` to its attributes; None removes one."""
    data = Dataset()
    data.file_meta = FileMetaDataset()
    data.file_meta.TransferSyntaxUID = syntax
    data.file_meta.MediaStorageSOPClassUID = CTImageStorage
    data.file_meta.MediaStorageSOPInstanceUID = UID("1.2.3")
    bits = 8 * pixels.dtype.itemsize
    attributes = {
        "SOPClassUID": CTImageStorage,
        "SOPInstanceUID": UID("1.2.3"),
        "Rows": pixels.shape[0],
        "Columns": pixels.shape[1],
        "SamplesPerPixel": 1,
        "PhotometricInterpretation": "MONOCHROME2",
        "BitsAllocated": bits,
        "BitsStored": bits,
        "HighBit": bits - 1,
        "PixelRepresentation": int(pixels.dtype.kind == "i"),
        "PixelData": pixels.tobytes(),
        **changes,
    }
    for keyword, value in attributes.items():
        if value is not None:
            setattr(data, keyword, value)
    data["PixelData"].VR = "OW" if bits > 8 else "OB"
    buffer = BytesIO()
    data.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()
