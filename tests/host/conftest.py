"""The `medai` command on a home of its own, in this process."""

import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from deployments import cli


@dataclass(frozen=True, slots=True)
class Said:
    """What a command said and how it ended."""

    code: int
    out: str
    err: str


Medai = Callable[..., Said]


@pytest.fixture
def medai(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> Medai:
    """Gives a command on a home of its own."""
    for name in [name for name in os.environ if name.startswith("MEDAI_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("MEDAI_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("COLUMNS", "200")

    def give(*arguments: str, text: str = "") -> Said:
        monkeypatch.setattr(sys, "argv", ["medai", *arguments])
        typed = tmp_path / "typed"
        typed.write_text(text)
        capfd.readouterr()
        with typed.open() as stream:
            monkeypatch.setattr(sys, "stdin", stream)
            with pytest.raises(SystemExit) as ended:
                cli.main()
        said = capfd.readouterr()
        code = ended.value.code
        return Said(code if isinstance(code, int) else 0, said.out, said.err)

    return give


@pytest.fixture
def home(medai: Medai, tmp_path: Path) -> Path:
    """A prepared home."""
    assert medai("init", "--no-admin").code == 0
    return tmp_path / "home"
