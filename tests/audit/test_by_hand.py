"""What docs/audit.md tells an auditor to type works, with no program of ours."""

import re
import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.audit.verifier import url

if TYPE_CHECKING:
    from conftest import Audited, Export

TOOLS = ("bash", "sed", "jq", "xxd", "sha256sum", "base64", "openssl")
DOCUMENT = Path(__file__).parents[2] / "docs" / "audit.md"

pytestmark = pytest.mark.skipif(
    not all(map(shutil.which, TOOLS)), reason=f"needs {', '.join(TOOLS)}"
)

__all__ = ["url"]


@pytest.fixture
async def directory(audited: "Audited", export: "Export", tmp_path: Path) -> Path:
    """Where the auditor has his files."""
    shutil.copy(await export(), tmp_path / "e.jsonl")
    anchor = audited.log.anchors.last()
    assert anchor is not None
    (tmp_path / "note").write_text(str(anchor.note))
    (tmp_path / "vkey").write_text(f"{audited.vkey}\n")
    return tmp_path


def block(number: int) -> str:
    """The commands of one block under "By hand"."""
    section = DOCUMENT.read_text().split("## By hand\n")[1].split("\n## ")[0]
    blocks: list[str] = re.findall(r"^```sh\n(.*?)^```", section, re.MULTILINE | re.DOTALL)
    return blocks[number]


def run(script: str, directory: Path) -> list[str]:
    ended = subprocess.run(
        ["bash", "-euc", script], cwd=directory, capture_output=True, text=True, check=True
    )
    return ended.stdout.split()


async def test_an_entrys_hash_can_be_computed_by_hand(directory: Path) -> None:
    for number in (2, 6, 15):
        commands = block(0).replace("n=5", f"n={number}", 1)

        computed, _, leaf, entry, stored = run(
            f"{commands}\necho $leaf; row $n | jq -r '.[12], .[13]'", directory
        )

        assert (computed, leaf) == (entry, stored)


async def test_a_changed_payload_shows_by_hand(directory: Path) -> None:
    path = directory / "e.jsonl"
    path.write_text(path.read_text().replace('"pages":3', '"pages":4'))

    computed, _, entry = run(f"{block(0)}\nrow $n | jq -r '.[12]'", directory)

    assert computed != entry


async def test_a_signature_can_be_verified_by_hand(directory: Path) -> None:
    assert run(block(1), directory) == ["Signature", "Verified", "Successfully"]


async def test_a_changed_checkpoint_shows_by_hand(directory: Path) -> None:
    note = directory / "note"
    note.write_text(note.read_text().replace("\n12\n", "\n13\n"))

    with pytest.raises(subprocess.CalledProcessError):
        run(block(1), directory)
