"""A model and its card from a multipart/form-data body (RFC 7578), written to files as it arrives.

    card      the card, YAML
    model     the ONNX file

Rules this file keeps: the model is never in memory as a whole, and never longer on the disk than
allowed; the event loop writes nothing; each part comes once, and no other comes at all.
"""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import TYPE_CHECKING, Final

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser

from deployments.api.batch_form import Frame
from deployments.api.multipart import MAX_HEADER_BYTES, MAX_HEADERS, Parts
from registry.errors import MalformedMultipart, PayloadTooLarge, ValidationFailed, Violation

if TYPE_CHECKING:  # a type only, the parser has it nowhere else
    from python_multipart.multipart import MultipartCallbacks

CARD: Final = "card"
MODEL: Final = "model"
MAX_CARD_BYTES: Final = 128 * 1024  # the bundled ones have 3 KiB
_SMALLER: Final = {
    CARD: "shorten its texts",
    MODEL: "register it on the host: medai models register",
}
_WRITE_BYTES: Final = 2**20  # that are gathered before a thread writes them


async def receive_model(
    stream: AsyncIterator[bytes], boundary: bytes, *, card: Path, model: Path, max_model_bytes: int
) -> None:
    """Read the form.

    Args:
        stream: The body, piece by piece.
        boundary: What the Content-Type names.
        card: Where the card is written to.
        model: Where the model is written to.
        max_model_bytes: The largest model.

    Raises:
        MalformedMultipart: The body is no whole multipart body.
        PayloadTooLarge: A part is larger than allowed.
        ValidationFailed: A part is missing, comes twice, or has a name nobody asked for.
        OSError: The files cannot be written.
    """
    if not boundary:
        raise MalformedMultipart("the Content-Type names no boundary")
    parts = _Parts({CARD: MAX_CARD_BYTES, MODEL: max_model_bytes})
    frame = Frame(boundary)
    try:
        parser = MultipartParser(
            boundary,
            parts.callbacks(),
            max_header_count=MAX_HEADERS,
            max_header_size=MAX_HEADER_BYTES,
        )
        async for piece in stream:
            if piece:
                frame.see(piece)
                parser.write(piece)
            if parts.gathered >= _WRITE_BYTES:
                await asyncio.to_thread(parts.write, {CARD: card, MODEL: model})
        parser.finalize()
    except FormParserError:
        raise MalformedMultipart("the body is not well-formed multipart/form-data") from None
    if not (parts.ended and frame.is_closed):
        raise MalformedMultipart("the body does not end with its last boundary: it is cut short")
    parts.refuse_missing()
    await asyncio.to_thread(parts.write, {CARD: card, MODEL: model})


class _Parts(Parts):
    """Measures and gathers the parts' bytes. `write` empties what was gathered into files."""

    def __init__(self, limits: dict[str, int]) -> None:
        super().__init__()
        self.ended = False
        self.gathered = 0
        self._limits = limits
        self._sizes: dict[str, int] = {}
        self._pieces: dict[str, list[bytes]] = {name: [] for name in limits}

    def callbacks(self) -> "MultipartCallbacks":
        return {**super().callbacks(), "on_headers_finished": self._named, "on_end": self._last}

    def data(self, data: bytes, start: int, end: int) -> None:
        name = self.part.name
        self._sizes[name] += end - start
        if self._sizes[name] > self._limits[name]:
            raise PayloadTooLarge(
                f"the part {name} is larger than this route takes",
                (Violation(name, limit=f"{self._limits[name]} bytes", advice=_SMALLER[name]),),
            )
        self._pieces[name].append(data[start:end])
        self.gathered += end - start

    def end(self) -> None:
        """Nothing is kept of a part but its bytes."""

    def write(self, files: dict[str, Path]) -> None:
        """Append what was gathered to the files, and forget it."""
        for name, pieces in self._pieces.items():
            with files[name].open("ab") as file:
                file.writelines(pieces)
            pieces.clear()
        self.gathered = 0

    def refuse_missing(self) -> None:
        """Raises `ValidationFailed`, naming every part that is missing or empty."""
        missing = [name for name in self._limits if not self._sizes.get(name)]
        if missing:
            raise ValidationFailed(
                "the form is not the one this route takes",
                tuple(
                    Violation(name, "missing", advice=f"add the part {name}") for name in missing
                ),
            )

    def _named(self) -> None:
        """A part's headers are complete: see that it is one of ours."""
        name = self.part.name
        if name not in self._limits:
            limit = ", ".join(self._limits)
            violation = Violation("parts", limit=limit, advice="leave out every other part")
        elif name in self._sizes:
            violation = Violation(name, limit="once", advice="send one model")
        else:
            self._sizes[name] = 0
            return
        raise ValidationFailed("the form is not the one this route takes", (violation,))

    def _last(self) -> None:
        self.ended = True
