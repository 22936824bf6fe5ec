"""What is taken from a header, and that nothing else gets out."""

from dataclasses import asdict
from typing import Any

import numpy as np
import pytest
from pydicom.uid import (
    DigitalXRayImageStorageForPresentation,
    MultiFrameTrueColorSecondaryCaptureImageStorage,
    SecondaryCaptureImageStorage,
    VLWholeSlideMicroscopyImageStorage,
)

from deployments.inference.decoded import PatientFacts
from deployments.inference.defined_terms import TERMS, UNLISTED, defined
from registry.contract import ImageFacts
from tests.inference.files import FILM, decode, dicom_file, make_dicom

PIXELS = np.zeros((8, 8), np.uint8)


def facts(**attributes: Any) -> ImageFacts:
    return decode(make_dicom(PIXELS, **attributes)).facts


def patient(**attributes: Any) -> PatientFacts:
    return decode(make_dicom(PIXELS, **attributes)).patient


def test_the_film_is_described() -> None:
    found = decode(dicom_file(FILM)).facts

    assert (found.format, found.modality, found.body_part, found.view) == (
        "DICOM", "CR", "CHEST", "PA",
    )  # fmt: skip
    assert (found.width, found.height, found.bit_depth) == (1841, 1955, 15)
    assert found.photometric == "MONOCHROME1"
    assert found.transfer_syntax == "1.2.840.10008.1.2.1"
    assert found.sop_class == "1.2.840.10008.5.1.4.1.1.1"
    assert found.manufacturer == "Philips Medical Systems"
    assert found.pixel_spacing_mm is None  # it says 0.000, which is no spacing


def test_the_films_patient_is_known_for_a_moment() -> None:
    found = decode(dicom_file(FILM)).patient

    assert found.sex == "F"
    assert found.id == "9RG1"
    assert found.age_years == pytest.approx(64.5, abs=0.1)
    assert "9RG1" not in repr(found)


@pytest.mark.parametrize(
    ("age", "years"), [("034Y", 34), ("018M", 1.5), ("006W", 0.115), ("003D", 0.008)]
)
def test_an_age_string_is_read_in_its_unit(age: str, years: float) -> None:
    assert patient(PatientAge=age).age_years == pytest.approx(years, abs=0.001)


def test_an_age_is_made_from_the_dates_where_it_is_not_written() -> None:
    born = {"PatientBirthDate": "20000229"}

    assert patient(**born, StudyDate="20100301").age_years == pytest.approx(10, abs=0.01)
    assert patient(**born, AcquisitionDate="20010301").age_years == pytest.approx(1, abs=0.01)
    assert patient(**born).age_years is None


@pytest.mark.parametrize(
    "attributes",
    [
        {"PatientAge": "34"},
        {"PatientAge": "999Y"},
        {"PatientBirthDate": "20201340", "StudyDate": "20240101"},
        {"PatientBirthDate": "2020", "StudyDate": "20240101"},
        {"PatientBirthDate": "20300101", "StudyDate": "20240101"},
    ],
)
@pytest.mark.filterwarnings("ignore:Invalid value:UserWarning")
def test_an_age_that_cannot_be_is_unknown(attributes: dict[str, str]) -> None:
    assert patient(**attributes).age_years is None


def test_image_laterality_wins_over_laterality() -> None:
    assert facts(Laterality="R").laterality == "R"
    assert facts(Laterality="R", ImageLaterality="L").laterality == "L"


def test_spacing_is_the_larger_of_rows_and_columns() -> None:
    assert facts(PixelSpacing=[0.1, 0.2]).pixel_spacing_mm == pytest.approx(0.2)
    assert facts(ImagerPixelSpacing=[0.3, 0.1]).pixel_spacing_mm == pytest.approx(0.3)
    assert facts(PixelSpacing=[5000, 5000]).pixel_spacing_mm is None


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_a_value_that_does_not_fit_its_form_is_dropped() -> None:
    found = facts(
        Modality="doe^john",
        ViewPosition="born 1.4.1970",
        Manufacturer="DOE^JOHN",
        ManufacturerModelName="x" * 65,
        BodyPartExamined=["CHEST", "DOE"],
        SOPClassUID="1.2.3.4.5.6",
    )

    assert (found.modality, found.view, found.manufacturer) == (UNLISTED, UNLISTED, "")
    assert (found.manufacturer_model, found.body_part, found.sop_class) == ("", "CHEST", "")


@pytest.mark.parametrize(
    "keyword",
    sorted(set(TERMS) - {"PhotometricInterpretation"}),  # such a file is refused
)
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_a_name_written_as_a_code_does_not_leave_the_header(keyword: str) -> None:
    assert defined(keyword, "DOE JOHN") == UNLISTED
    assert "DOE" not in str(facts(**{keyword: "DOE JOHN"}))
    assert "DOE" not in str(patient(**{keyword: "DOE JOHN"}))


@pytest.mark.parametrize(
    ("attributes", "evidence"),
    [
        ({"SOPClassUID": SecondaryCaptureImageStorage}, "SOP class"),
        ({"SOPClassUID": MultiFrameTrueColorSecondaryCaptureImageStorage}, "SOP class"),
        ({"ConversionType": "WSD"}, "conversion type WSD"),
        ({"ImageType": ["DERIVED", "SECONDARY", "OTHER"]}, "image type SECONDARY"),
        ({"ImageType": ["DERIVED", "PRIMARY"]}, ""),
        ({"ImageType": "DERIVED"}, ""),
        ({"SOPClassUID": VLWholeSlideMicroscopyImageStorage}, ""),  # its UID begins alike
        ({"ConversionType": "doe^john"}, "conversion type UNLISTED"),
        ({}, ""),
    ],
)
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_a_secondary_capture_is_told_by_its_attributes(
    attributes: dict[str, Any], evidence: str
) -> None:
    assert facts(**attributes).secondary_capture == evidence


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_nothing_of_the_patient_is_among_the_facts() -> None:
    secrets = {
        "PatientName": "CANARY^NAME",
        "PatientID": "CANARY-ID",
        "PatientBirthDate": "19010203",
        "AccessionNumber": "CANARY-ACC",
        "StudyDescription": "CANARY STUDY",
        "InstitutionName": "CANARY HOSPITAL",
        "StudyDate": "19990807",
        "OperatorsName": "CANARY^OPERATOR",
    }

    text = str(asdict(facts(**secrets, SOPClassUID=DigitalXRayImageStorageForPresentation)))

    assert "CANARY" not in text
    assert "1901" not in text
    assert "1999" not in text
