"""One image and its patient's id from a multipart/form-data body (RFC 7578), or why not.

The parser underneath takes a body that is cut short for one without parts, and ignores what stands
before and after; so the whole frame is checked here: the body begins with the first boundary and
ends with the last one. Names nobody asked for are refused, because a misspelt `patient_id` must not
be a missing one.
"""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from registry.errors import MalformedMultipart, ValidationFailed, Violation

if TYPE_CHECKING:  # a type only, the parser has it nowhere else
    from python_multipart.multipart import MultipartCallbacks

FILE: Final = "file"
PATIENT_ID: Final = "patient_id"
MAX_PARTS: Final = 8
MAX_HEADERS: Final = 8  # of one part
MAX_HEADER_BYTES: Final = 1024
MAX_FIELD_BYTES: Final = 1024
_PLAIN: Final = frozenset({b"binary", b"8bit", b"7bit"})


@dataclass(frozen=True, slots=True)
class ImageForm:
    """What the form holds. `media_type` is the file part's own, or "" where it names none."""

    body: bytes
    media_type: str
    patient_id: str | None


@dataclass(slots=True)
class Part:
    """A part while it is read."""

    name: str = ""
    media_type: str = ""
    pieces: list[bytes] = field(default_factory=list)

    @property
    def body(self) -> bytes:
        return self.pieces[0] if len(self.pieces) == 1 else b"".join(self.pieces)


def boundary_of(content_type: str) -> bytes | None:
    """The boundary that a Content-Type names; None where it is no multipart/form-data."""
    kind, options = parse_options_header(content_type)
    return options.get(b"boundary", b"") if kind == b"multipart/form-data" else None


def parse_image_form(body: bytes, boundary: bytes) -> ImageForm:
    """Read the form.

    Raises:
        MalformedMultipart: The body is no whole multipart body, or has too many or too large parts.
        ValidationFailed: A part is missing, comes twice, or has a name nobody asked for.
    """
    frame = b"--" + boundary
    if not boundary or not body.removeprefix(b"\r\n").startswith(frame):
        raise MalformedMultipart("the body does not begin with its boundary")
    if not body.endswith((frame + b"--", frame + b"--\r\n")):
        raise MalformedMultipart("the body does not end with its last boundary: it is cut short")
    parts = Parts()
    try:
        parser = parts.parser(boundary)
        parser.write(body)
        parser.finalize()
    except FormParserError:
        raise MalformedMultipart("the body is not well-formed multipart/form-data") from None
    return _image_form(parts.complete)


class Parts:
    """Collects parts from the parser's callbacks."""

    def __init__(self) -> None:
        self.complete: list[Part] = []
        self.part = Part()
        self._name = self._value = b""

    def parser(self, boundary: bytes) -> MultipartParser:
        """A parser that calls these parts as it reads."""
        return MultipartParser(
            boundary,
            self.callbacks(),
            max_header_count=MAX_HEADERS,
            max_header_size=MAX_HEADER_BYTES,
        )

    def callbacks(self) -> "MultipartCallbacks":
        return {
            "on_part_begin": self.begin,
            "on_header_field": self._header_name,
            "on_header_value": self._header_value,
            "on_header_end": self._header_end,
            "on_part_data": self.data,
            "on_part_end": self.end,
        }

    def begin(self) -> None:
        if len(self.complete) == MAX_PARTS:
            raise MalformedMultipart(f"the body has more than {MAX_PARTS} parts")
        self.part = Part()

    def _header_name(self, data: bytes, start: int, end: int) -> None:
        self._name += data[start:end]

    def _header_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

    def _header_end(self) -> None:
        name, value = self._name.lower(), self._value
        self._name = self._value = b""
        if name == b"content-disposition":
            kind, options = parse_options_header(value)
            if kind == b"form-data":
                self.part.name = options.get(b"name", b"").decode("utf-8", "replace")
        elif name == b"content-type":
            self.part.media_type = parse_options_header(value)[0].decode("ascii", "replace")
        elif name == b"content-transfer-encoding" and value.strip().lower() not in _PLAIN:
            raise MalformedMultipart("a part is encoded: send the bytes as they are")

    def data(self, data: bytes, start: int, end: int) -> None:
        self.part.pieces.append(data[start:end])

    def end(self) -> None:
        self.complete.append(self.part)


def _image_form(parts: list[Part]) -> ImageForm:
    by_name = {part.name: part for part in parts}
    violations = []
    if len(by_name) < len(parts):
        violations.append(Violation("parts", limit="each name once", advice="send one image"))
    if by_name.keys() - {FILE, PATIENT_ID}:
        limit = f"{FILE}, {PATIENT_ID}"
        violations.append(Violation("parts", limit=limit, advice="leave out every other part"))
    if FILE not in by_name:
        violations.append(Violation(FILE, "missing", advice=f"add the image as the part {FILE}"))
    if violations:
        raise ValidationFailed("the form is not the one this route takes", tuple(violations))
    file, patient = by_name[FILE], by_name.get(PATIENT_ID)
    return ImageForm(file.body, file.media_type, None if patient is None else text_of(patient))


def text_of(part: Part) -> str:
    if len(part.body) > MAX_FIELD_BYTES:
        raise MalformedMultipart(f"a field has more than {MAX_FIELD_BYTES} bytes")
    try:
        return part.body.decode()
    except UnicodeDecodeError:
        raise MalformedMultipart("a field is not UTF-8 text") from None
