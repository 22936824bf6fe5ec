"""Every hostile class through the real way of decoding: named, soon, and for itself alone."""

import asyncio
import re
from pathlib import Path

import psutil
import pytest

from tests.inference import syntax_table
from tests.inference.bomb_table import BOMBS, MIB, Decoding, Outcome, measure, measure_all
from tests.inference.files import film_jpeg

DOCUMENT = (Path(__file__).parents[2] / "docs" / "input.md").read_text("utf-8")
LIGHT = [name for name in BOMBS if name.startswith(("PNG, a", "PNG, c", "JPEG, c", "MPO", "GIF"))]


@pytest.fixture(scope="module")
def outcomes() -> dict[str, Outcome]:
    """What came of each, once for all tests."""
    return {outcome.name: outcome for outcome in asyncio.run(measure_all())}


@pytest.mark.parametrize("name", BOMBS)
@pytest.mark.filterwarnings("ignore:.*:UserWarning")  # Pillow's, on EXIF
def test_a_hostile_file_ends_as_it_should(name: str, outcomes: dict[str, Outcome]) -> None:
    outcome = outcomes[name]

    assert outcome.status in BOMBS[name].ends, outcome.code
    assert outcome.seconds < 10
    assert outcome.service_bytes < 128 * MIB
    assert outcome.child_bytes < 1200 * MIB


def test_neighbours_are_answered_while_a_file_is_slow(outcomes: dict[str, Outcome]) -> None:
    outcome = outcomes["JPEG, two million comments"]

    assert len(outcome.neighbours_s) > 20
    assert max(outcome.neighbours_s) < outcome.seconds / 2


async def test_memory_comes_back() -> None:
    decoding = Decoding()
    bodies = {name: BOMBS[name].build() for name in LIGHT}
    try:
        kept = []
        for _ in range(3):
            for name, body in bodies.items():
                await measure(name, body, decoding)
            await decoding.prepare(film_jpeg())
            kept.append(psutil.Process().memory_info().rss)
    finally:
        decoding.guard.close()

    assert kept[-1] - kept[0] < 32 * MIB


def block(name: str) -> str:
    found = re.search(rf"<!-- {name} -->\n(.*?)\n<!-- /{name} -->", DOCUMENT, re.DOTALL)
    assert found is not None
    return found[1]


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_the_documents_table_of_transfer_syntaxes_is_what_happens() -> None:
    table = syntax_table.table()

    assert block("syntaxes") == table, f"put this between the marks:\n{table}"


def test_the_documents_table_of_hostile_files_is_what_happens(
    outcomes: dict[str, Outcome],
) -> None:
    rows = [[cell.strip() for cell in row.split("|")] for row in block("bombs").splitlines()[2:]]
    told = {row[1]: row[3] for row in rows}

    assert set(told) == set(BOMBS)
    for name, outcome in outcomes.items():
        if len(BOMBS[name].ends) == 1:
            answer = f"{outcome.status} `{outcome.code}`" if outcome.code else "decoded"
            assert told[name] == answer, name
