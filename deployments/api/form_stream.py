"""A multipart/form-data body (RFC 7578), read as it arrives.

Nothing of it is kept here: a `StreamedParts` says what becomes of each part, and bounds it.
"""

from collections.abc import AsyncIterator
from typing import TYPE_CHECKING

from python_multipart.exceptions import FormParserError

from deployments.api.multipart import Parts
from registry.errors import MalformedMultipart

if TYPE_CHECKING:  # a type only, the parser has it nowhere else
    from python_multipart.multipart import MultipartCallbacks


class StreamedParts(Parts):
    """Parts that are dealt with while the body still comes. `ended`: the last boundary was read."""

    def __init__(self) -> None:
        super().__init__()
        self.ended = False

    def callbacks(self) -> "MultipartCallbacks":
        return {**super().callbacks(), "on_end": self._last}

    async def put_away(self) -> None:
        """Called after each piece of the body: for what must not wait for its end."""

    def _last(self) -> None:
        self.ended = True


async def read_form(stream: AsyncIterator[bytes], boundary: bytes, parts: StreamedParts) -> None:
    """Hand a form to `parts`.

    Args:
        stream: The body, piece by piece.
        boundary: What the Content-Type names.
        parts: What takes its parts; what they raise, this raises.

    Raises:
        MalformedMultipart: The body is no whole multipart body.
    """
    if not boundary:
        raise MalformedMultipart("the Content-Type names no boundary")
    frame = Frame(boundary)
    try:
        parser = parts.parser(boundary)
        async for piece in stream:
            if piece:
                frame.see(piece)
                parser.write(piece)
            await parts.put_away()
        parser.finalize()
    except FormParserError:
        raise MalformedMultipart("the body is not well-formed multipart/form-data") from None
    if not (parts.ended and frame.is_closed):
        raise MalformedMultipart("the body does not end with its last boundary: it is cut short")


class Frame:
    """Sees that the body begins and ends with its boundary; the parser skips what stands around."""

    def __init__(self, boundary: bytes) -> None:
        self._frame = b"--" + boundary
        self._head = self._tail = b""

    def see(self, piece: bytes) -> None:
        """Look at the next piece. Raises `MalformedMultipart` where the body begins otherwise."""
        self._tail = (self._tail + piece)[-len(self._frame) - len(b"--\r\n") :]
        if len(self._head) <= len(self._frame) + len(b"\r\n"):
            self._head += piece[: len(self._frame) + len(b"\r\n")]
            begun = self._head.removeprefix(b"\r\n")[: len(self._frame)]
            if not self._frame.startswith(begun) and self._head != b"\r":
                raise MalformedMultipart("the body does not begin with its boundary")

    @property
    def is_closed(self) -> bool:
        """Whether the body has ended with its last boundary."""
        return self._tail.endswith((self._frame + b"--", self._frame + b"--\r\n"))
