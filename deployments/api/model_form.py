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

from deployments.api.form_stream import StreamedParts, read_form
from registry.errors import PayloadTooLarge, ValidationFailed, Violation

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
    parts = _Parts({CARD: MAX_CARD_BYTES, MODEL: max_model_bytes}, {CARD: card, MODEL: model})
    await read_form(stream, boundary, parts)
    parts.refuse_missing()
    await asyncio.to_thread(parts.write)


class _Parts(StreamedParts):
    """Measures and gathers the parts' bytes. `write` empties what was gathered into files."""

    def __init__(self, limits: dict[str, int], files: dict[str, Path]) -> None:
        super().__init__()
        self._limits = limits
        self._files = files
        self._gathered = 0
        self._sizes: dict[str, int] = {}
        self._pieces: dict[str, list[bytes]] = {name: [] for name in limits}

    def callbacks(self) -> "MultipartCallbacks":
        return {**super().callbacks(), "on_headers_finished": self._named}

    def data(self, data: bytes, start: int, end: int) -> None:
        name = self.part.name
        self._sizes[name] += end - start
        if self._sizes[name] > self._limits[name]:
            raise PayloadTooLarge(
                f"the part {name} is larger than this route takes",
                (Violation(name, limit=f"{self._limits[name]} bytes", advice=_SMALLER[name]),),
            )
        self._pieces[name].append(data[start:end])
        self._gathered += end - start

    def end(self) -> None:
        """Nothing is kept of a part but its bytes."""

    async def put_away(self) -> None:
        if self._gathered >= _WRITE_BYTES:
            await asyncio.to_thread(self.write)

    def write(self) -> None:
        """Append what was gathered to the files, and forget it."""
        for name, pieces in self._pieces.items():
            with self._files[name].open("ab") as file:
                file.writelines(pieces)
            pieces.clear()
        self._gathered = 0

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
