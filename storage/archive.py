"""The archive: the log by month, as files that verify without the database.

    2026-10.jsonl            an export (`storage.export`) of the month's entries
    2026-10.manifest.json    which entries, their hashes, the signed head, the file's SHA-256

A segment ends with the last checkpoint of its month, so every entry in it is signed; the few after
that belong to the next. Segments continue each other without gaps, and an export of the live log
continues the last. A manifest is written last, once its file was verified and its entry recorded:
a file without one is no part of the archive yet. Each holds the hash of the manifest before it.
Rows stay in the database (docs/adr/0008-archive.md).
"""

import hashlib
import json
import os
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, BinaryIO, Self

from sqlalchemy import func, select

from registry.errors import AuditUnavailable, BadRequest, ValidationFailed, Violation
from storage.database import Database
from storage.export import export_log
from storage.records import rfc3339
from storage.tables import AuditCheckpoint, AuditLog, AuditState

FORMAT = 1
FILE_MODE = 0o400  # a segment is never written again


@dataclass(frozen=True, slots=True, order=True)
class Month:
    """A month of the calendar, in UTC. `str(month)` is `2026-10`."""

    year: int
    number: int

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read `YYYY-MM`. Raises `ValidationFailed`."""
        try:
            moment = datetime.strptime(text, "%Y-%m").replace(tzinfo=UTC)
        except ValueError:
            raise ValidationFailed(
                "the month is not one", (Violation("month", limit="YYYY-MM"),)
            ) from None
        return cls.of(moment)

    @classmethod
    def of(cls, moment: datetime) -> Self:
        """The month of a moment."""
        utc = moment.astimezone(UTC)
        return cls(utc.year, utc.month)

    @property
    def start(self) -> datetime:
        """Its first moment."""
        return datetime(self.year, self.number, 1, tzinfo=UTC)

    @property
    def following(self) -> Self:
        """The month after it."""
        return type(self)(self.year + self.number // 12, self.number % 12 + 1)

    def __str__(self) -> str:
        return f"{self.year:04}-{self.number:02}"


@dataclass(frozen=True, slots=True)
class Manifest:
    """What a segment is.

    Attributes:
        origin: The log's name.
        month: `YYYY-MM`.
        first: The number of its first entry.
        last: The number of its last one, which is the size of the checkpoint.
        previous: What the first entry follows, hex.
        tip: The hash of the last entry, hex.
        checkpoint: The signed note of the head at `last`.
        file: The export's name.
        sha256: Of the export, hex.
        size_bytes: Of the export.
        prior: SHA-256 of the manifest before it, hex; None for the first.
    """

    origin: str
    month: str
    first: int
    last: int
    previous: str
    tip: str
    checkpoint: str
    file: str
    sha256: str
    size_bytes: int
    prior: str | None

    def text(self) -> bytes:
        """The manifest as it is stored."""
        return (
            json.dumps({"medai_audit_archive": FORMAT, **asdict(self)}, indent=1) + "\n"
        ).encode()

    @classmethod
    def parse(cls, text: bytes) -> Self:
        """Read a manifest. Raises `ValueError` or `TypeError`."""
        document = json.loads(text)
        if document.pop("medai_audit_archive", None) != FORMAT:
            raise ValueError("the manifest is of another version")
        return cls(**document)


class Archive:
    """A directory of segments.

    Args:
        directory: Where they are; made where it is missing.

    Raises:
        AuditUnavailable: A manifest cannot be read, or does not continue the one before it.
        BadRequest: The directory cannot be read or made.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        try:
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            texts = [file.read_bytes() for file in sorted(directory.glob("*.manifest.json"))]
        except OSError as error:
            raise _unusable(error) from None
        self.manifests = [_parsed(text) for text in texts]
        self._prior: str | None = None
        last = 0
        for manifest, text in zip(self.manifests, texts, strict=True):
            if (manifest.first, manifest.prior) != (last + 1, self._prior):
                raise _damaged(manifest.month, "does not continue the segment before it")
            last, self._prior = manifest.last, hashlib.sha256(text).hexdigest()

    @property
    def last(self) -> int:
        """The number of the last archived entry, 0 where there is none."""
        return self.manifests[-1].last if self.manifests else 0

    @property
    def files(self) -> list[Path]:
        """The exports, in order."""
        return [self._directory / manifest.file for manifest in self.manifests]

    async def plan(self, database: Database, before: Month) -> list[tuple[Month, int]]:
        """The months still to be archived, each with the number of its last entry."""
        async with database.reading() as session:
            begun = await session.scalar(
                select(AuditLog.created_at).where(AuditLog.seq == self.last + 1)
            )
            if begun is None:
                return []
            month, after, planned = Month.of(datetime.fromisoformat(begun)), self.last, []
            if self.manifests:  # a clock that was set back begins no month anew
                month = max(month, Month.parse(self.manifests[-1].month).following)
            while month < before:
                size = await session.scalar(_signed_before(month.following)) or 0
                if size > after:
                    planned.append((month, size))
                    after = size
                month = month.following
        return planned

    async def write(
        self, database: Database, month: Month, last: int, *, software: str
    ) -> Manifest:
        """Write the export of one segment; its manifest is kept by `keep`.

        Raises:
            BadRequest: The file cannot be written.
            DatabaseUnavailable: The database is away; nothing of use was written.
        """
        after, name = self.last, f"{month}.jsonl"
        if (self._directory / f"{month}.manifest.json").exists():
            raise _damaged(str(month), "is archived already, and does not hold these entries")
        pieces = export_log(database, after=after, until=last, software=software)
        digest, size = await self._store(name, pieces)
        async with database.reading() as session:
            found = await session.execute(
                select(AuditLog.seq, AuditLog.previous_hash, AuditLog.entry_hash).where(
                    AuditLog.seq.in_((after + 1, last))
                )
            )
            hashes: dict[int, Any] = {row.seq: row for row in found}
            note = await session.scalar(
                select(AuditCheckpoint.note).where(AuditCheckpoint.size == last)
            )
            origin = await session.scalar(select(AuditState.origin))
        return Manifest(
            origin=str(origin),
            month=str(month),
            first=after + 1,
            last=last,
            previous=hashes[after + 1].previous_hash.hex(),
            tip=hashes[last].entry_hash.hex(),
            checkpoint=str(note),
            file=name,
            sha256=digest,
            size_bytes=size,
            prior=self._prior,
        )

    def file_of(self, manifest: Manifest) -> Path:
        """Where a segment's export is."""
        return self._directory / manifest.file

    def keep(self, manifest: Manifest) -> None:
        """Make a verified and recorded segment a part of the archive.

        Raises:
            BadRequest: The manifest cannot be written.
        """
        text = manifest.text()
        path = self._directory / f"{manifest.month}.manifest.json"
        try:
            with _whole(path) as stream:
                stream.write(text)
        except OSError as error:
            raise _unusable(error) from None
        self.manifests.append(manifest)
        self._prior = hashlib.sha256(text).hexdigest()

    def check_files(self) -> None:
        """See that every export is the one that was archived.

        Raises:
            AuditUnavailable: One is missing, or is another.
        """
        for manifest in self.manifests:
            try:
                with self.file_of(manifest).open("rb") as stream:
                    digest = hashlib.file_digest(stream, "sha256").hexdigest()
            except OSError:
                raise _damaged(manifest.month, "cannot be read") from None
            if digest != manifest.sha256:
                raise _damaged(manifest.month, "is not the one that was archived")

    async def _store(self, name: str, pieces: AsyncIterator[bytes]) -> tuple[str, int]:
        digest, size = hashlib.sha256(), 0
        try:
            with _whole(self._directory / name) as stream:
                async for piece in pieces:
                    stream.write(piece)
                    digest.update(piece)
                    size += len(piece)
        except OSError as error:
            raise _unusable(error) from None
        return digest.hexdigest(), size


def _signed_before(month: Month) -> Any:
    """The size of the last checkpoint whose entries were all recorded before `month`."""
    recorded = (
        select(func.max(AuditLog.seq))
        .where(AuditLog.created_at < rfc3339(month.start))
        .scalar_subquery()
    )
    return select(func.max(AuditCheckpoint.size)).where(AuditCheckpoint.size <= recorded)


@contextmanager
def _whole(path: Path) -> Iterator[BinaryIO]:
    """A file that is there under its name only once all of it is on the disk."""
    part = path.with_suffix(".part")
    part.unlink(missing_ok=True)
    with open(part, "xb", opener=_private) as stream:
        yield stream
        stream.flush()
        os.fsync(stream.fileno())
    part.replace(path)
    _sync(path.parent)


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, FILE_MODE)


def _sync(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _parsed(text: bytes) -> Manifest:
    try:
        return Manifest.parse(text)
    except (ValueError, TypeError, AttributeError):
        raise _damaged("a manifest", "cannot be read") from None


def _damaged(what: str, fault: str) -> AuditUnavailable:
    return AuditUnavailable(
        f"the archive is damaged: {what} {fault}",
        (Violation("archive", advice="keep it as it is, and take another copy"),),
    )


def _unusable(error: OSError) -> BadRequest:
    return BadRequest(f"the archive cannot be used: {error.strerror}")
