"""Canaries: a patient's names, numbers and dates that exist nowhere else, and the search for them.

Everything that a request can carry is filled with them (`canary_requests`), and then everything
that the service left behind is searched, as text and in the encodings text may have taken.
"""

import base64
import itertools
import re
from collections.abc import AsyncIterator, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import MetaData, inspect, select

from storage.database import Database

NAME = "Zqxcanary"
NUMBER = "734955106"  # how every canary number begins; nothing else has these nine digits in a row
BORN = "18610327"
BORN_TEXTS = (BORN, "1861-03-27", "27.03.1861", "27/03/1861", "27 Mar 1861")
MARKS = (NAME, NUMBER, *BORN_TEXTS)


@dataclass(frozen=True, slots=True)
class Patient:
    """One patient, of whom there is no second."""

    number: int

    @property
    def name(self) -> str:
        """A DICOM person name (PS3.5 §6.2.1.2), with Latin-1 letters."""
        return f"{NAME}{self.number}^Jürgen^^Dr"

    @property
    def plain(self) -> str:
        """The name as in a letter."""
        return f"Dr. Jürgen {NAME}{self.number}"

    @property
    def ascii(self) -> str:
        """A name where only ASCII may be."""
        return f"{NAME}{self.number}^Juergen"

    @property
    def id(self) -> str:
        """A hospital number."""
        return f"{NUMBER}{self.number:05}"

    @property
    def text(self) -> str:
        """Free text as a radiographer writes it."""
        return f"{self.plain}, born 27.03.1861, no. {self.id}: cough; compare {BORN}"


@dataclass(frozen=True, slots=True)
class Hit:
    """Where a canary was found, and what stands around it."""

    place: str
    around: str


class Searcher:
    """Finds marks as text in any case, in UTF-8 and UTF-16, in hexadecimal and in base64.

    Base64 has three forms, by where in a group of three bytes the mark begins; its letters depend
    on the mark's case, so the mark as it is, in lower and in upper case are looked for.
    """

    def __init__(self, marks: Iterable[str] = MARKS) -> None:
        any_case: set[bytes] = set()
        exact: set[bytes] = set()
        for mark in marks:
            for encoding in ("utf-8", "utf-16-le", "utf-16-be"):
                any_case.add(mark.encode(encoding))
            for spelled in (mark, mark.lower(), mark.upper()):
                for encoding in ("utf-8", "utf-16-le", "utf-16-be"):
                    raw = spelled.encode(encoding)
                    any_case.add(raw.hex().encode())
                    exact |= set(base64_forms(raw))
        self._any_case = re.compile(b"|".join(map(re.escape, sorted(any_case))), re.IGNORECASE)
        self._exact = re.compile(b"|".join(map(re.escape, sorted(exact))))

    def find(self, place: str, content: bytes) -> Iterator[Hit]:
        """Every canary in `content`."""
        for pattern in (self._any_case, self._exact):
            for match in pattern.finditer(content):
                start = max(0, match.start() - 60)
                around = content[start : match.end() + 40].decode("utf-8", "replace")
                yield Hit(place, around)

    def find_in_files(self, *roots: Path) -> tuple[int, list[Hit]]:
        """Search every file under `roots`; gives also how many bytes were searched."""
        hits: list[Hit] = []
        searched = 0
        for root in roots:
            for file in sorted(root.rglob("*")):
                if not file.is_file() or file.is_symlink():
                    continue
                content = file.read_bytes()
                searched += len(content)
                hits += self.find(str(file), content)
        return searched, hits

    async def find_in_tables(self, database: Database) -> tuple[int, list[Hit]]:
        """Search every value of every table; gives also how many rows were searched."""
        hits: list[Hit] = []
        rows = 0
        async for table, row in every_row(database):
            rows += 1
            for value in row:
                content = value if isinstance(value, bytes) else str(value).encode()
                hits += self.find(f"table {table}", content)
        return rows, hits


def base64_forms(raw: bytes) -> Iterator[bytes]:
    """What of `raw`'s base64 does not depend on what stands before and after it."""
    for before in range(3):
        encoded = base64.b64encode(bytes(before) + raw)
        first = (0, 2, 3)[before]  # letters that also hold bits of the bytes before
        whole = (before + len(raw)) * 8 // 6  # letters that hold no bit of the bytes after
        core = encoded[first:whole]
        yield core
        yield core.translate(bytes.maketrans(b"+/", b"-_"))


async def every_row(database: Database) -> AsyncIterator[tuple[str, Iterable[object]]]:
    """Every row of every table that the database has, also those no model of ours names."""
    async with database.reading() as session:
        connection = await session.connection()
        found = MetaData()
        await connection.run_sync(found.reflect)
        names = await connection.run_sync(lambda sync: inspect(sync).get_table_names())
        assert set(names) == set(found.tables)
        for name, table in found.tables.items():
            for row in await session.execute(select(table)):
                yield name, row


def patients(first: int = 0) -> Iterator[Patient]:
    """One new patient after the other."""
    return map(Patient, itertools.count(first))
