"""Requests with a patient in every place of a request that can hold text."""

import base64
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote

from tests.faults import canary_files as files
from tests.faults.canary import BORN, Patient
from tests.serve.films import INFER, film

JPEG = {"Content-Type": "image/jpeg"}
PNG = {"Content-Type": "image/png"}
DICOM = {"Content-Type": "application/dicom"}
BATCH = "/infer/batch?model=cxr-pneumonia"


@dataclass(frozen=True, slots=True)
class CanaryRequest:
    """One request, as httpx2 takes it. `user` is whose token it comes with."""

    method: str
    path: str
    options: dict[str, Any] = field(default_factory=dict)
    user: str | None = "clinician"


Maker = Callable[[Patient], CanaryRequest]


def _image(body: Callable[[Patient], bytes], headers: dict[str, str], query: str = "") -> Maker:
    def make(patient: Patient) -> CanaryRequest:
        return CanaryRequest(
            "POST", INFER + query, {"content": body(patient), "headers": dict(headers)}
        )

    return make


def _form(patient: Patient, **changes: Any) -> CanaryRequest:
    """An image as a part of a form whose every name and header names the patient."""
    part = (f"{patient.plain} {BORN}.jpg", files.jpeg(patient), "image/jpeg")
    options = {"files": {"file": part}, "data": {"patient_id": patient.id}, **changes}
    return CanaryRequest("POST", INFER, options)


def _broken_form(patient: Patient, cut: int = 0) -> CanaryRequest:
    head = (
        f'--{patient.id}\r\nContent-Disposition: form-data; name="{patient.plain}"; '
        f'filename="{patient.text}"\r\nContent-Type: {patient.ascii}\r\n\r\n{patient.text}\r\n'
    )
    body = head.encode()[: -cut or None]
    headers = {"Content-Type": f"multipart/form-data; boundary={patient.id}"}
    return CanaryRequest("POST", INFER, {"content": body, "headers": headers})


def _json(method: str, path: str, user: str | None, *names: str) -> Maker:
    def make(patient: Patient) -> CanaryRequest:
        body = dict.fromkeys(names, patient.text) | {patient.plain: patient.name}
        return CanaryRequest(method, path, {"json": body}, user)

    return make


def _get(path: str, user: str | None = "clinician") -> Maker:
    """A GET; `{}` in the path is the patient."""
    return lambda patient: CanaryRequest("GET", path.replace("{}", quote(patient.text)), {}, user)


def _headers(patient: Patient) -> CanaryRequest:
    headers = {
        "User-Agent": patient.ascii,
        "Referer": f"http://pacs/{patient.id}?name={patient.ascii}",
        "Cookie": f"patient={patient.id}; name={patient.ascii}",
        "X-Request-ID": patient.ascii,
        "Medai-Request-ID": patient.ascii,
        "X-Patient-ID": patient.id,
        f"X-{patient.ascii.replace('^', '-')}": patient.ascii,
        "X-Forwarded-For": patient.ascii,
        "Forwarded": f"for={patient.ascii}",
        "Traceparent": patient.ascii,
        "Accept-Language": patient.ascii,
        "Serve_Multiplexed_Model_Id": patient.ascii,
    }
    return CanaryRequest("GET", "/models", {"headers": headers})


def _dicom(**changes: object) -> Callable[[Patient], bytes]:
    def body(patient: Patient) -> bytes:
        values = {
            key: value(patient) if callable(value) else value for key, value in changes.items()
        }
        return files.dicom(patient, **values)

    return body


MAKERS: tuple[Maker, ...] = (
    _image(files.dicom, DICOM),
    _image(files.jpeg, JPEG),
    _image(files.png, PNG),
    _image(_dicom(PatientAge="042Y"), DICOM, "&frame=1"),
    # Codes that are not codes, and texts where numbers should be.
    _image(
        _dicom(
            Modality=lambda patient: patient.ascii[:16],
            BodyPartExamined=lambda patient: patient.ascii[:16],
            ViewPosition=lambda patient: patient.ascii[:16],
            PatientSex=lambda patient: patient.ascii[:16],
            BurnedInAnnotation=lambda patient: patient.ascii[:16],
        ),
        DICOM,
    ),
    _image(_dicom(BurnedInAnnotation="YES"), DICOM),
    _image(_dicom(BitsStored=99), DICOM),
    _image(_dicom(PhotometricInterpretation=lambda patient: patient.ascii[:16]), DICOM),
    # Files that end early, or are something else.
    _image(lambda patient: files.dicom(patient)[:-9000], DICOM),
    _image(lambda patient: files.dicom(patient)[:700], DICOM),
    _image(lambda patient: files.jpeg(patient)[:-2000], JPEG),
    _image(lambda patient: files.png(patient)[:1500], PNG),
    _image(files.png, JPEG),
    _image(lambda patient: patient.text.encode(), JPEG),
    _image(lambda patient: b"\xff\xd8\xff\xfe" + patient.text.encode(), JPEG),
    _image(lambda patient: bytes(128) + b"DICM" + patient.text.encode(), DICOM),
    _image(lambda patient: patient.text.encode(), {"Content-Type": "text/html"}),
    lambda patient: CanaryRequest(
        "POST", INFER, {"content": film(), "headers": {"Content-Type": f"image/{patient.ascii}"}}
    ),
    # Forms.
    _form,
    lambda patient: _form(patient, data={"patient_id": patient.text * 9}),
    lambda patient: _form(patient, data={patient.plain: patient.text}),
    lambda patient: CanaryRequest(
        "POST", INFER, {"files": {patient.plain: (patient.text, b"x", patient.ascii)}}
    ),
    _broken_form,
    lambda patient: _broken_form(patient, cut=30),
    lambda patient: CanaryRequest(
        "POST",
        BATCH,
        {
            "files": [
                ("file", (f"{patient.plain}.dcm", files.dicom(patient), "application/dicom")),
                ("file", (f"{patient.id}.jpg", files.jpeg(patient)[:900], "image/jpeg")),
            ]
        },
    ),
    # Query, path, headers.
    lambda patient: CanaryRequest(
        "POST", f"{INFER}&patient={quote(patient.text)}", {"content": film(), "headers": JPEG}
    ),
    lambda patient: CanaryRequest(
        "POST", f"/infer?model={quote(patient.plain)}", {"content": film(), "headers": JPEG}
    ),
    lambda patient: CanaryRequest(
        "POST", f"{INFER}&frame={patient.id}", {"content": files.dicom(patient), "headers": DICOM}
    ),
    lambda patient: CanaryRequest(
        "POST",
        INFER,
        {"content": film(), "headers": {**JPEG, "Idempotency-Key": f"{patient.ascii}-{BORN}"}},
    ),
    lambda patient: CanaryRequest(
        "POST",
        INFER,
        {"content": film(), "headers": {**JPEG, "Idempotency-Key": patient.ascii + " " + BORN}},
    ),
    _headers,
    _get("/{}", None),
    _get("/results/{}"),
    _get("/results/{}/evidence"),
    _get("/results?patient={}&created_by={}"),
    _get("/models/{}"),
    _get("/models?clinical_domain={}&status={}"),
    _get("/admin/audit?action={}&user={}", "admin"),
    _get("/admin/secure?name={}"),
    lambda patient: CanaryRequest(f"{patient.ascii.split('^')[0].upper()}", "/models"),
    lambda patient: CanaryRequest("PATCH", f"/admin/users/{quote(patient.text)}", {}, "admin"),
    # Log-ins and tokens.
    lambda patient: CanaryRequest(
        "POST", "/auth/login", {"data": {patient.plain: patient.text, "grant_type": "x"}}, None
    ),
    lambda patient: CanaryRequest(
        "GET", "/models", {"headers": {"Authorization": f"Bearer {patient.ascii}"}}, None
    ),
    lambda patient: CanaryRequest(
        "GET",
        "/models",
        {
            "headers": {
                "Authorization": "Basic "
                + base64.b64encode(f"{patient.ascii}:{patient.id}".encode()).decode()
            }
        },
        None,
    ),
    # JSON.
    _json("POST", "/auth/refresh", None, "refresh_token"),
    _json("POST", "/auth/password", "clinician", "old_password", "new_password"),
    _json("POST", "/auth/reset", None, "token", "new_password"),
    _json("POST", "/admin/users", "admin", "username", "role", "email"),
    lambda patient: CanaryRequest(
        "POST",
        "/admin/users",
        {"content": patient.text.encode("utf-16"), "headers": {"Content-Type": "application/json"}},
        "admin",
    ),
)


def login(patient: Patient) -> CanaryRequest:
    """A log-in by the patient's name. Apart from the others: each costs a password hash."""
    form = {"username": patient.plain, "password": patient.text}
    return CanaryRequest("POST", "/auth/login", {"data": form}, None)


def canary_request(patient: Patient) -> CanaryRequest:
    """The request for the patient of this number: each kind in turn."""
    if patient.number % 200 == 0:
        return login(patient)
    return MAKERS[patient.number % len(MAKERS)](patient)
