"""The commands of the handbook: what stands in fenced `sh`, `console` and `python` blocks.

A block of Python is one command. A shell block is cut where the shell itself would: a line that
ends within quotes, a here-document or behind a backslash goes on in the next.
"""

import re
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parents[2]
FENCE: Final = re.compile(r"^(?P<fence>`{3,}|~{3,})(?P<language>[\w-]*)")
SHELL: Final = frozenset({"sh", "bash", "shell"})
CONSOLE: Final = "console"
PYTHON: Final = "python"
PROMPT: Final = "$ "


@dataclass(frozen=True, slots=True)
class Command:
    """One command as it stands in a page.

    Attributes:
        page: The page's path in the repository, such as `docs/api.md`.
        heading: The heading above it.
        line: The line of the page it begins in, from 1.
        text: What is typed; of Python the whole block.
    """

    page: str
    heading: str
    line: int
    text: str
    python: bool

    def __str__(self) -> str:
        return f"{self.page}:{self.line}: {self.text.splitlines()[0]}"

    @property
    def saved_as(self) -> str | None:
        """The file a block of Python is to be saved in: its first line, as a comment."""
        named = re.match(r"# ([\w-]+\.py)\n", self.text) if self.python else None
        return None if named is None else named[1]

    @property
    def serves(self) -> bool:
        """Whether it starts the service, and does not come back."""
        return re.match(r"(\.venv/bin/)?medai serve\b", self.text) is not None


def pages() -> list[str]:
    """Every page with commands: the README first, because it prepares what the others use."""
    handbook = sorted(file.name for file in (ROOT / "docs").glob("*.md"))
    return ["README.md", "CONTRIBUTING.md", "SECURITY.md", *(f"docs/{name}" for name in handbook)]


@cache
def commands(page: str) -> tuple[Command, ...]:
    """The commands of a page, in order. Raises `ValueError` where a fence is not closed."""
    return tuple(commands_of((ROOT / page).read_text("utf-8"), page))


def commands_of(text: str, page: str) -> Iterator[Command]:
    """The commands of a page's text."""
    for language, heading, line, lines in blocks(text, page):
        if language == PYTHON:
            yield Command(page, heading, line, "\n".join(lines) + "\n", python=True)
        elif language in SHELL or language == CONSOLE:
            console = language == CONSOLE
            for start, command in cut(typed(lines) if console else list(enumerate(lines))):
                yield Command(page, heading, line + start, command, python=False)


def blocks(text: str, page: str) -> Iterator[tuple[str, str, int, list[str]]]:
    """Language, heading above, first line's number and lines of each fenced block."""
    heading, fence, language, start = "", "", "", 0
    lines: list[str] = []
    for number, line in enumerate(text.splitlines(), 1):
        if fence:
            if line.rstrip() == fence:
                yield language, heading, start, lines
                fence = ""
            else:
                lines.append(line)
        elif opening := FENCE.match(line):
            fence, language = opening["fence"], opening["language"]
            start, lines = number + 1, []
        elif line.startswith("#"):
            heading = line.lstrip("# ")
    if fence:
        raise ValueError(f"{page}: a fence is not closed")


def typed(lines: list[str]) -> list[tuple[int, str]]:
    """What is typed of a console's lines, without the prompt and what the commands say."""
    return [
        (number, line.removeprefix(PROMPT))
        for number, line in enumerate(lines)
        if line.startswith(PROMPT)
    ]


def cut(lines: list[tuple[int, str]]) -> Iterator[tuple[int, str]]:
    """Whole commands of a shell block, each with the number of its first line."""
    held: list[str] = []
    start = 0
    for number, line in lines:
        if not held and (not line.strip() or line.startswith("#")):
            continue
        start = start if held else number
        held.append(line)
        if is_whole("\n".join(held)):
            yield start, "\n".join(held)
            held = []
    if held:
        yield start, "\n".join(held)


@cache
def is_whole(text: str) -> bool:
    """Whether a shell would not wait for another line."""
    if text.endswith("\\"):
        return False
    said = subprocess.run(
        ["bash", "-n", "-c", text], capture_output=True, text=True, check=False, timeout=10
    )
    return said.returncode == 0 and not said.stderr
