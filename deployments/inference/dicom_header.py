"""What is taken from a DICOM header, and nothing else.

The header is read by allow-list, each value is held to the form its VR prescribes, and a value that
does not fit is dropped as if it were absent: free text has no way out of here. Dates and the
patient's id are used to make an age and a pseudonym, and are dropped after that.
"""

import re
from datetime import date
from typing import Any

from pydicom.dataset import Dataset
from pydicom.multival import MultiValue
from pydicom.uid import UID

from deployments.inference.decoded import PatientFacts
from deployments.inference.defined_terms import defined
from registry.contract import ImageFacts

HEADER = (
    "SpecificCharacterSet",
    "ImageType",
    "SOPClassUID",
    "StudyDate",
    "AcquisitionDate",
    "ContentDate",
    "Modality",
    "ConversionType",
    "Manufacturer",
    "ManufacturerModelName",
    "PatientID",
    "PatientBirthDate",
    "PatientSex",
    "PatientAge",
    "BodyPartExamined",
    "ImagerPixelSpacing",
    "ViewPosition",
    "Laterality",
    "ImageLaterality",
    "PixelSpacing",
    "BurnedInAnnotation",
)

_PRODUCT = re.compile(r"[A-Za-z0-9 .,&()/+_-]{1,64}")  # VR LO, without what names are written with
_AGE = re.compile(r"(\d{3})([DWMY])")  # VR AS
_DATE = re.compile(r"(\d{4})(\d{2})(\d{2})")  # VR DA
_SECONDARY_CAPTURE = "1.2.840.10008.5.1.4.1.1.7"  # and the multi-frame classes below it
_DAYS = {"D": 1.0, "W": 7.0, "M": 30.436875, "Y": 365.2425}
_MAX_AGE_YEARS = 130
_MAX_ID_LENGTH = 64


def image_facts(
    header: Dataset, shared: Dataset, facts: ImageFacts, *, frame: int, frames: int
) -> ImageFacts:
    """The facts of one frame.

    Args:
        header: The data set.
        shared: Where this frame's pixel measures are: the header itself, or a functional group.
        facts: Digest and size of the file; the rest is filled in.
        frame: Which frame, from 1.
        frames: How many there are.
    """
    return ImageFacts(
        sha256=facts.sha256,
        size_bytes=facts.size_bytes,
        format="DICOM",
        width=int(header.Columns),
        height=int(header.Rows),
        bit_depth=int(header.BitsStored),
        frames=frames,
        frame=frame,
        photometric=_code(header, "PhotometricInterpretation"),
        transfer_syntax=_uid(header.file_meta.TransferSyntaxUID),
        sop_class=_uid(header.get("SOPClassUID")),
        modality=_code(header, "Modality"),
        body_part=_code(header, "BodyPartExamined"),
        view=_code(header, "ViewPosition"),
        laterality=_code(header, "ImageLaterality") or _code(header, "Laterality"),
        pixel_spacing_mm=_spacing(shared) or _spacing(header),
        manufacturer=_product(header, "Manufacturer"),
        manufacturer_model=_product(header, "ManufacturerModelName"),
        burned_in_annotation=_code(header, "BurnedInAnnotation"),
        secondary_capture=_secondary_capture(header),
    )


def patient_facts(header: Dataset) -> PatientFacts:
    """What the header says of the patient: see `PatientFacts`."""
    patient_id = header.get("PatientID")
    return PatientFacts(
        age_years=_age(header),
        sex=_code(header, "PatientSex"),
        id=patient_id[:_MAX_ID_LENGTH] if isinstance(patient_id, str) else "",
    )


def _code(header: Dataset, keyword: str) -> str:
    """A defined term; the first of several; "" where it is absent, `UNLISTED` where it is none."""
    text = str(_first(header.get(keyword)) or "").strip(" \0").upper()
    return defined(keyword, text)


def _product(header: Dataset, keyword: str) -> str:
    text = str(_first(header.get(keyword)) or "").strip(" \0")
    return text if _PRODUCT.fullmatch(text) else ""


def _secondary_capture(header: Dataset) -> str:
    """The attribute by which the image was not made by a modality, but from another image.

    The SOP class of secondary captures (PS3.3 A.8); a conversion type (0008,0064), which only they
    have (C.8.6.1); or the second value of image type (0008,0008), SECONDARY (C.7.6.1.1.2). DERIVED
    alone says nothing: a film that was processed for presentation is DERIVED, PRIMARY.
    """
    if f"{_uid(header.get('SOPClassUID'))}.".startswith(f"{_SECONDARY_CAPTURE}."):
        return "SOP class"
    if conversion := _code(header, "ConversionType"):
        return f"conversion type {conversion}"
    kinds = header.get("ImageType")
    if isinstance(kinds, MultiValue) and len(kinds) > 1 and str(kinds[1]).strip() == "SECONDARY":
        return "image type SECONDARY"
    return ""


def _uid(value: Any) -> str:
    """A UID of the standard. Others say nothing to anybody, and may hold anything."""
    uid = UID(str(value or ""))
    return str(uid) if uid.name != str(uid) else ""


def _spacing(header: Dataset) -> float | None:
    """The larger of row and column spacing in mm; None where absent or not positive."""
    for keyword in ("PixelSpacing", "ImagerPixelSpacing"):
        try:
            spacing = max(float(number) for number in header.get(keyword) or ())
        except (TypeError, ValueError):
            continue
        if 0 < spacing < 1000:  # noqa: PLR2004  # a metre a pixel is no spacing
            return spacing
    return None


def _age(header: Dataset) -> float | None:
    """Years, from the age itself, or else from the birth date and the date of the study."""
    years = None
    if match := _AGE.fullmatch(str(header.get("PatientAge") or "").strip(" \0")):
        years = int(match[1]) * _DAYS[match[2]] / _DAYS["Y"]
    elif (born := _date(header.get("PatientBirthDate"))) is not None:
        dates = map(_date, map(header.get, ("StudyDate", "AcquisitionDate", "ContentDate")))
        if (seen := next(filter(None, dates), None)) is not None:
            years = (seen - born).days / _DAYS["Y"]
    return years if years is not None and 0 <= years <= _MAX_AGE_YEARS else None


def _date(value: Any) -> date | None:
    if match := _DATE.fullmatch(str(value or "").strip(" \0")):
        try:
            return date(int(match[1]), int(match[2]), int(match[3]))
        except ValueError:
            pass
    return None


def _first(value: Any) -> Any:
    """The first of several values (`MultiValue` is a list, text is not)."""
    if isinstance(value, (str, bytes)) or not hasattr(value, "__getitem__"):
        return value
    return value[0] if len(value) else None
