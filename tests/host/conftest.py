"""The `medai` command on a home of its own, in this process."""

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pytest

from deployments import cli
from deployments.doctor import examination
from tests.host.local import NAME
from tests.ports import PORTS, free_port

REPLICA = Path(__file__).with_name("replica_process.py")
SHIPPED = Path(__file__).parents[2] / "serve_config.yaml"
FAIL = "fail"


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


@pytest.fixture(scope="session")
def prepared_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `medai init` makes, copied for each test: trying the bundled models takes seconds."""
    home = tmp_path_factory.mktemp("prepared") / "home"
    others = {name: value for name, value in os.environ.items() if not name.startswith("MEDAI_")}
    subprocess.run(
        [sys.executable, "-m", "deployments.cli", "init", "--no-admin"],
        env=others | {"MEDAI_HOME": str(home)},
        capture_output=True,
        check=True,
        timeout=120,
    )
    return home


@pytest.fixture
def home(medai: Medai, prepared_home: Path, tmp_path: Path) -> Path:
    """A prepared home."""
    home = tmp_path / "home"
    shutil.copytree(prepared_home, home)
    return home


Lines = dict[str, list[dict[str, Any]]]
Doctor = Callable[..., Lines]


@pytest.fixture
def doctor(home: Path, monkeypatch: pytest.MonkeyPatch) -> Doctor:
    """Gives what `medai doctor` finds, by check; all but the topology's, which takes seconds."""
    for name in PORTS:
        monkeypatch.setenv(f"MEDAI_SERVER__{name}", str(free_port()))
    monkeypatch.setattr(
        examination, "CHECKS", [one for one in examination.CHECKS if one.name != "topology"]
    )

    def look(topology: Path = SHIPPED) -> Lines:
        lines: Lines = {}
        for one in examination.examine(topology):
            lines.setdefault(one.check, []).append(asdict(one))
        return lines

    return look


def faults(lines: Lines) -> dict[str, str]:
    """What fails, with what was found."""
    return {
        name: one["found"] for name, found in lines.items() for one in found if one["state"] == FAIL
    }


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder whose sockets have short paths; pytest's own are too long for some systems."""
    with tempfile.TemporaryDirectory(prefix="medai-test-") as name:
        yield Path(name)


@pytest.fixture
def process(folder: Path) -> Iterator["subprocess.Popen[bytes]"]:
    """A replica in a process of its own."""
    started = subprocess.Popen([sys.executable, str(REPLICA), str(folder), NAME])
    yield started
    started.kill()
    started.wait()
