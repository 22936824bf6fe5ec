"""The commands of the handbook, typed as they stand, page after page, against one service.

The home is empty at first. What each page has to be typed before the service starts is typed
before; then there is the service, and the rest follows. `listed.py` names what is not typed.
"""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import dropwhile, takewhile
from pathlib import Path
from typing import Final

import pytest
import yaml

from tests.docs.commands import ROOT, Command, blocks, commands, pages
from tests.docs.listed import listing_of
from tests.serve.conftest import environment_for, running

pytestmark = [pytest.mark.serve, pytest.mark.long, pytest.mark.timeout(600)]

ADDRESS: Final = "http://127.0.0.1:8000"  # as the pages have it; the tests' service is elsewhere
ARCHIVE: Final = "/mnt/archive/medai"
PAGE_S: Final = 300.0  # a page takes seconds; on a machine that others use, minutes
PASSWORDS: Final = {"grace": "a second pair of eyes sees more"}
ADAS: Final = "correct horse battery staple lamp"
OPERATIONS: Final = "docs/operations.md"  # changes models under way: most of a minute

# Whose files a page uses: a reader comes to it from there. The tests come in any order.
USES: Final = {
    "docs/api.md": ("README.md",),
    "docs/audit.md": ("docs/api.md",),
    "docs/models.md": ("README.md",),
    OPERATIONS: ("docs/models.md",),
}
TYPED: Final = {
    page: [command for command in commands(page) if listing_of(command) is None] for page in pages()
}


@dataclass(slots=True)
class Terminal:
    """Somebody who types what the pages say, in one directory."""

    directory: Path
    environment: dict[str, str]
    typed: set[Command] = field(default_factory=set)
    heard: str = ""

    def read(self, page: str) -> None:
        """Type what is left of a page, once; and before it the pages whose files it uses."""
        left = [command for command in after(page) if command not in self.typed]
        if left:
            for earlier in USES.get(page, ()):
                self.read(earlier)
            self.type(left)

    def type(self, page: Sequence[Command]) -> None:
        """Type one page's commands into one shell. Raises `AssertionError` at the first failure."""
        if not page:
            return
        script = self.directory.parent / "script"
        script.write_text("\n".join(self._lines(page)))
        progress = self.directory.parent / "progress"
        progress.write_text("")
        done = subprocess.run(
            ["bash", "-uo", "pipefail", str(script)],
            cwd=self.directory,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            timeout=PAGE_S,
            start_new_session=True,  # no terminal: passwords are read from standard input
        )
        last = page[int(progress.read_text().split()[-1])]
        said = f"{done.stdout[-2000:]}\n{done.stderr[-2000:]}"
        assert done.returncode == 0, f"{last}\nended with {done.returncode}: {said}"
        self.typed.update(page)
        self.heard += done.stdout

    def _lines(self, page: Sequence[Command]) -> Iterator[str]:
        yield "set -e"
        for number, command in enumerate(page):
            answer = self.directory.parent / f"answer-{number}"
            answer.write_text(f"{password(command)}\n")
            yield f"exec <{answer}; echo {number} >>{self.directory.parent / 'progress'}"
            yield self._line(command).replace(ARCHIVE, str(self.directory / "archive"))

    def _line(self, command: Command) -> str:
        text = command.text.replace(ADDRESS, self.url)
        if not command.python:
            return text
        file = self.directory / (command.saved_as or f"block_{command.line}.py")
        file.write_text(text)
        return ":" if command.saved_as else f"{sys.executable} {file.name}"

    @property
    def url(self) -> str:
        """Where the service is, or will be."""
        return f"http://127.0.0.1:{self.environment['MEDAI_SERVER__PORT']}"


def password(command: Command) -> str:
    """What whoever gives the command answers when asked for a password."""
    return next((its for name, its in PASSWORDS.items() if f"--as {name}" in command.text), ADAS)


def before(page: str) -> list[Command]:
    """What a page has to be typed before the service starts; nothing where it starts none."""
    typed = TYPED[page]
    if not any(command.serves for command in typed):
        return []
    return list(takewhile(lambda command: not command.serves, typed))


def after(page: str) -> list[Command]:
    """What is typed while it runs."""
    typed = TYPED[page]
    if not any(command.serves for command in typed):
        return typed
    return list(dropwhile(lambda command: not command.serves, typed))[1:]


def shown(page: str) -> list[str]:
    """The answers of `medai infer` as the page shows them."""
    text = (ROOT / page).read_text("utf-8")
    return [
        line
        for language, _, _, lines in blocks(text, page)
        if language == "text"
        for line in lines
        if line.startswith("film.dcm: ")
    ]


@pytest.fixture(scope="module")
def terminal(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Terminal]:
    """A directory like the repository's after `make setup`, and a service that was set up in it."""
    directory = tmp_path_factory.mktemp("reader") / "medai-flow"
    directory.mkdir()
    (directory / ".venv").symlink_to(sys.prefix)
    shutil.copy(ROOT / "serve_config.yaml", directory)
    binaries = Path(sys.executable).parent
    environment = environment_for(directory / "var")
    environment["PATH"] = f"{binaries}{os.pathsep}{environment['PATH']}"
    environment["COLUMNS"] = "200"
    environment["MEDAI_AUDIT__CHECKPOINT_INTERVAL_S"] = "1"  # evidence waits for the next one
    reader = Terminal(directory, environment)
    for page in TYPED:
        reader.type(before(page))
    prepare_next_version(directory)
    arguments = ("--config", str(directory / "serve_config.yaml"))
    with running(environment, directory.parent / "server.log", *arguments):
        yield reader


def prepare_next_version(directory: Path) -> None:
    """The model version that docs/operations.md puts in service."""
    target = directory / "cxr-pneumonia-1.1.0"
    shutil.copytree(ROOT / "registry" / "bundled" / "cxr-pneumonia", target)
    card = yaml.safe_load((target / "card.yaml").read_text())
    (target / "card.yaml").write_text(yaml.safe_dump({**card, "version": "1.1.0"}))


@pytest.mark.parametrize(
    "page",
    [page for page, typed in TYPED.items() if typed],
)
def test_the_commands_of_the_page_do_what_it_says(page: str, terminal: Terminal) -> None:
    terminal.read(page)

    served = [command for command in TYPED[page] if command.serves]
    assert set(TYPED[page]) - terminal.typed == set(served)
    for answer in shown(page):
        assert answer in terminal.heard
