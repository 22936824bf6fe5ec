"""Forms: whole ones are read to the byte, spoilt ones are refused."""

import httpx2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deployments.api.multipart import ImageForm, boundary_of, parse_image_form
from registry.errors import MalformedMultipart, MedAIError, ValidationFailed

BOUNDARY = b"frame"


def part(name: str, body: bytes, *headers: str) -> bytes:
    lines = [f'Content-Disposition: form-data; name="{name}"', *headers]
    return b"--frame\r\n" + "\r\n".join(lines).encode() + b"\r\n\r\n" + body + b"\r\n"


def form(*parts: bytes, end: bytes = b"--frame--\r\n") -> bytes:
    return b"".join(parts) + end


FILE = part("file", b"\xff\xd8", "Content-Type: image/jpeg")


def test_a_whole_form_is_read() -> None:
    body = form(part("patient_id", "M\u00fcller-7".encode()), FILE)

    assert parse_image_form(body, BOUNDARY) == ImageForm(b"\xff\xd8", "image/jpeg", "M\u00fcller-7")


@pytest.mark.parametrize("end", [b"--frame--", b"--frame--\r\n"])
def test_the_last_line_break_may_be_missing(end: bytes) -> None:
    assert parse_image_form(form(FILE, end=end), BOUNDARY).body == b"\xff\xd8"


def test_a_file_without_a_type_has_none() -> None:
    assert parse_image_form(form(part("file", b"x")), BOUNDARY).media_type == ""


def test_an_empty_file_is_read_as_such() -> None:
    assert parse_image_form(form(part("file", b"")), BOUNDARY).body == b""


@given(body=st.binary(max_size=2000), patient=st.text(st.characters(codec="utf-8"), max_size=60))
def test_what_a_client_sends_is_what_is_read(body: bytes, patient: str) -> None:
    request = httpx2.Request(
        "POST",
        "http://medai.test",
        files={"file": ("a", body, "image/png"), "patient_id": (None, patient.encode())},
    )
    boundary = boundary_of(request.headers["content-type"])
    assert boundary is not None

    read = parse_image_form(request.read(), boundary)

    assert read == ImageForm(body, "image/png", patient)


@given(st.binary(max_size=300))
def test_no_bytes_at_all_are_an_unforeseen_error(noise: bytes) -> None:
    for body in (noise, form(FILE[:-3], noise), form(part("file", b"", noise.hex()), noise)):
        try:
            parse_image_form(body, BOUNDARY)
        except MedAIError as error:
            assert isinstance(error, MalformedMultipart | ValidationFailed)  # noqa: PT017  # either, or none


@pytest.mark.parametrize(
    "body",
    [
        b"",
        FILE,
        form(FILE, end=b"--frame\r\n"),
        form(FILE, end=b"--frame--trailing"),
        form(FILE) + b"\r\n" * 2,
        form(FILE) + b"an epilogue",
        b"a preamble\r\n" + form(FILE),
        b"\r\n\r\n" + form(FILE),
        b"--other\r\n\r\n--other--\r\n",
        form(b"--frame\r\nno colon\r\n\r\nx\r\n"),
        form(b"--frame\nContent-Disposition: form-data\n\nx\n"),
        form(part("file", b"eA==", "Content-Transfer-Encoding: base64")),
        form(*[FILE] * 9),
        form(part("file", b"x", *[f"X-{number}: 1" for number in range(9)])),
        form(part("file", b"x", f"X-Long: {'x' * 2000}")),
        form(FILE, part("patient_id", b"\xff\xfe")),
        form(FILE, part("patient_id", b"x" * 2000)),
    ],
)
def test_a_spoilt_body_is_malformed(body: bytes) -> None:
    with pytest.raises(MalformedMultipart):
        parse_image_form(body, BOUNDARY)


@pytest.mark.parametrize(
    ("parts", "rules"),
    [
        ([part("patient_id", b"1")], ["file"]),
        ([FILE, FILE], ["parts"]),
        ([FILE, part("patientid", b"1")], ["parts"]),
        ([part("image", b"x")], ["parts", "file"]),
        ([FILE, part("DOE", b"x"), part("DOE", b"x")], ["parts", "parts"]),
        ([b"--frame\r\nContent-Type: image/jpeg\r\n\r\nx\r\n"], ["parts", "file"]),
        (
            [b'--frame\r\nContent-Disposition: attachment; name="file"\r\n\r\nx\r\n'],
            ["parts", "file"],
        ),
    ],
)
def test_a_form_with_other_parts_is_refused_and_no_name_repeated(
    parts: list[bytes], rules: list[str]
) -> None:
    with pytest.raises(ValidationFailed) as caught:
        parse_image_form(form(*parts), BOUNDARY)

    assert [violation.rule for violation in caught.value.violations] == rules
    assert "DOE" not in str(caught.value)


@pytest.mark.parametrize("encoding", ["binary", "8bit", "7bit", " BINARY "])
def test_bytes_as_they_are_may_be_called_so(encoding: str) -> None:
    body = form(part("file", b"x", f"Content-Transfer-Encoding: {encoding}"))

    assert parse_image_form(body, BOUNDARY).body == b"x"


@pytest.mark.parametrize(
    ("content_type", "boundary"),
    [
        ("multipart/form-data; boundary=frame", b"frame"),
        ('Multipart/Form-Data; boundary="a b"', b"a b"),
        ("multipart/form-data", b""),
        ("image/jpeg", None),
        ("multipart/mixed; boundary=frame", None),
        ("", None),
    ],
)
def test_the_boundary_is_in_the_content_type(content_type: str, boundary: bytes | None) -> None:
    assert boundary_of(content_type) == boundary


def test_a_form_without_a_boundary_is_malformed() -> None:
    with pytest.raises(MalformedMultipart):
        parse_image_form(b"----\r\n", b"")


def test_a_boundary_that_is_too_long_is_malformed() -> None:
    boundary = b"x" * 5000

    with pytest.raises(MalformedMultipart):
        parse_image_form(b"--" + boundary + b"\r\n\r\n\r\n--" + boundary + b"--", boundary)
