"""Images with a patient in every place of the file that can hold text."""

import io
from functools import cache

import numpy as np
from PIL import Image, PngImagePlugin
from pydicom.config import disable_value_validation
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import (
    DigitalXRayImageStorageForPresentation,
    ExplicitVRLittleEndian,
    generate_uid,
)

from tests.faults.canary import BORN, Patient
from tests.serve.films import film

XMP = '<x:xmpmeta xmlns:x="adobe:ns:meta/"><dc:creator>{}</dc:creator></x:xmpmeta>'
EXIF_TEXT = (0x010E, 0x013B, 0x8298, 0x9C9B, 0x9C9C, 0x9C9D)  # description, artist, ..., XPAuthor


@cache
def pixels(size: int = 128) -> "np.ndarray[tuple[int, int], np.dtype[np.uint16]]":
    """The adult chest film, 12 bit."""
    with Image.open(io.BytesIO(film())) as image:
        grey = np.asarray(image.resize((size, size)), np.uint16)
    return grey * 16


def dicom(patient: Patient, **changes: object) -> bytes:
    """A film whose header names the patient in every kind of value there is."""
    with disable_value_validation():  # what no scanner should write is what we want
        return _dicom(patient, changes)


def _dicom(patient: Patient, changes: dict[str, object]) -> bytes:
    header = Dataset()
    header.file_meta = _meta(patient)
    header.preamble = patient.ascii.encode().ljust(128, b"\0")[:128]
    header.SpecificCharacterSet = "ISO_IR 100"
    header.SOPClassUID = DigitalXRayImageStorageForPresentation
    header.SOPInstanceUID = header.file_meta.MediaStorageSOPInstanceUID
    header.StudyInstanceUID = f"1.2.840.99999.{patient.id}"
    header.Modality = "DX"
    _name(header, patient)
    _describe(header, patient)
    _private(header, patient)
    _pixels(header)
    for keyword, value in changes.items():
        setattr(header, keyword, value)
    file = io.BytesIO()
    header.save_as(file, enforce_file_format=True)
    return file.getvalue()


def _meta(patient: Patient) -> FileMetaDataset:
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = DigitalXRayImageStorageForPresentation
    meta.MediaStorageSOPInstanceUID = generate_uid(prefix=f"1.2.840.99999.{patient.id}.")
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    meta.ImplementationVersionName = patient.ascii[:16]
    meta.SourceApplicationEntityTitle = patient.ascii[:16]
    return meta


def _name(header: Dataset, patient: Patient) -> None:
    """Person names, numbers, dates, addresses."""
    for keyword in (
        "PatientName",
        "OtherPatientNames",
        "PatientBirthName",
        "PatientMotherBirthName",
        "ReferringPhysicianName",
        "PerformingPhysicianName",
        "OperatorsName",
        "NameOfPhysiciansReadingStudy",
        "ResponsiblePerson",
    ):
        setattr(header, keyword, patient.name)
    for keyword in ("PatientID", "OtherPatientIDs", "AccessionNumber", "StudyID", "AdmissionID"):
        setattr(header, keyword, patient.id)
    header.PatientBirthDate = BORN
    header.StudyDate = "20260102"
    header.PatientTelephoneNumbers = patient.id
    header.PatientAddress = patient.plain
    other = Dataset()
    other.PatientName, other.PatientID = patient.name, patient.id
    header.OtherPatientIDsSequence = [other]


def _describe(header: Dataset, patient: Patient) -> None:
    """Free text, and the devices and codes whose values are kept where they have their form."""
    for keyword in (
        "PatientComments",
        "ImageComments",
        "AdditionalPatientHistory",
        "StudyDescription",
        "SeriesDescription",
        "ProtocolName",
        "InstitutionName",
        "InstitutionAddress",
        "StationName",
        "DeviceSerialNumber",
        "SoftwareVersions",
        "DerivationDescription",
    ):
        setattr(header, keyword, patient.text[:16] if keyword == "StationName" else patient.text)
    header.Manufacturer = patient.name
    header.ManufacturerModelName = patient.plain


def _private(header: Dataset, patient: Patient) -> None:
    block = header.private_block(0x0011, "MEDAI CANARY", create=True)
    block.add_new(0x01, "LO", patient.plain)
    block.add_new(0x02, "UT", patient.text)
    block.add_new(0x03, "OB", patient.text.encode("utf-16-le"))
    block.add_new(0x04, "PN", patient.name)


def _pixels(header: Dataset) -> None:
    image = pixels()
    header.Rows, header.Columns = image.shape
    header.SamplesPerPixel = 1
    header.PhotometricInterpretation = "MONOCHROME2"
    header.BitsAllocated, header.BitsStored, header.HighBit = 16, 12, 11
    header.PixelRepresentation = 0
    header.PixelData = image.tobytes()


def jpeg(patient: Patient) -> bytes:
    """A film with the patient in EXIF, XMP and a comment."""
    with Image.open(io.BytesIO(film())) as image:
        exif = Image.Exif()
        for tag in EXIF_TEXT:
            wide = tag >= 0x9C00  # Windows' tags are UTF-16
            exif[tag] = patient.text.encode("utf-16-le") if wide else patient.text
        file = io.BytesIO()
        image.save(
            file,
            "JPEG",
            exif=exif,
            comment=patient.text.encode(),
            xmp=XMP.format(patient.text).encode(),
        )
    return file.getvalue()


def png(patient: Patient) -> bytes:
    """A film with the patient in each kind of text that PNG has, and in EXIF."""
    with Image.open(io.BytesIO(film())) as image:
        texts = PngImagePlugin.PngInfo()
        texts.add_text("Author", patient.text)
        texts.add_text("Title", patient.text, zip=True)
        texts.add_itxt("Description", patient.text, lang="en", tkey=patient.plain)
        exif = Image.Exif()
        exif[0x013B] = patient.text
        file = io.BytesIO()
        image.save(file, "PNG", pnginfo=texts, exif=exif)
    return file.getvalue()
