"""The anchors: the log's checkpoints in a file outside the database, and what they say at start.

One line a checkpoint, a JSON object:

    note      the signed note, `storage.notes`
    frontier  base64 of the Merkle tree's frontier at that size; its root is the note's
    prior     hex SHA-256 of the line before, without its line feed; of nothing for the first line
    recovers  only where entries were given up as lost: the size that the line before spoke of; it
              counts where the note signs the entry that gives them up (`storage.recovery_entries`)

The file is only ever added to, each line by one write that is on the disk before anybody hears of
it. It belongs on another volume than the database, under another owner or append-only, because it
is what finds out whoever can rewrite the database. The frontier lets the next start check the log
at the cost of the entries after the last anchor; it needs no trust, for the note is signed.

A line that a crash or a full disk cut short is no JSON. It is passed over, and the line after it
follows the last whole one.
"""

import asyncio
import base64
import errno
import fcntl
import hashlib
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from sqlalchemy import func, select

from registry.errors import AuditUnavailable, Violation
from storage.database import Database
from storage.hashchain import Frontier
from storage.heads import Behind, Diverged, Head, read_head, tip_at
from storage.notes import Checkpoint, Note, VerifierKey, claimed_time, open_checkpoint
from storage.recovery_entries import begun, check_gone_back
from storage.tables import AuditCheckpoint, AuditState

FIRST = hashlib.sha256().hexdigest()  # what the first line follows
MODE = 0o640  # the group reads: whoever checks is not the one who writes
RETRY_AFTER_S = 10
_TAIL = 65_536  # a line is below 4 KiB


@dataclass(frozen=True, slots=True)
class Anchor:
    """One line: a signed head, and the tree at that head.

    Attributes:
        note: The signed head.
        frontier: The tree at that head.
        recovers: The size of the line before, where the log goes on without the entries that it
            spoke of (`storage.recovery`).
    """

    note: Note
    frontier: Frontier
    recovers: int | None = None

    @property
    def checkpoint(self) -> Checkpoint:
        """What the note says, whoever signed it."""
        return Checkpoint.parse(self.note.text)

    def line(self, prior: str) -> str:
        """The line, without its line feed."""
        document: dict[str, str | int] = {
            "note": str(self.note),
            "frontier": base64.b64encode(self.frontier.to_bytes()).decode(),
            "prior": prior,
        }
        if self.recovers is not None:
            document["recovers"] = self.recovers
        return json.dumps(document, separators=(",", ":"))

    @classmethod
    def parse(cls, line: bytes) -> tuple[Self, str]:
        """The anchor, and the hash of the line it follows. Raises `ValueError`."""
        document = json.loads(line)
        try:
            note = Note.parse(document["note"])
            nodes = base64.b64decode(document["frontier"], validate=True)
            checkpoint = Checkpoint.parse(note.text)
            frontier = Frontier.of_bytes(checkpoint.size, nodes)
            prior, recovers = str(document["prior"]), document.get("recovers")
        except (KeyError, TypeError, AttributeError):
            raise ValueError("an anchor has a note, a frontier and a prior") from None
        if frontier.root() != checkpoint.root:
            raise ValueError("the frontier is not that of the note")
        if recovers is not None and not (isinstance(recovers, int) and recovers > 0):
            raise ValueError("what is recovered is a number of entries")
        return cls(note, frontier, recovers), prior


class AnchorFile:
    """The file. Its methods block: on a slow disk for as long as that takes.

    Args:
        path: Where it is; made with the first anchor.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._size = 0  # how far it has been seen to go: it must never be less

    def last(self) -> Anchor | None:
        """The newest anchor; None where the file is missing or empty.

        Raises:
            AuditUnavailable: The file cannot be read, or its last line is not an anchor of ours.
        """
        try:
            with self._path.open("rb") as file:
                anchor = _last(file.fileno())[0]
        except FileNotFoundError:
            return None
        except OSError as error:
            raise _unusable("read", error) from None
        if anchor is not None:
            self._size = anchor.checkpoint.size
        return anchor

    def append(self, anchor: Anchor) -> str | None:
        """Add one line; gives it, or None where the file has come as far already.

        An anchor that `recovers` goes back: it is added only after the line that it gives up.

        Raises:
            AuditUnavailable: It could not be brought to the disk, and doing it again is safe; or
                the file is not the one it was, and is left alone.
        """
        flags = os.O_RDWR | os.O_APPEND | (0 if self._size else os.O_CREAT)
        try:
            descriptor = os.open(self._path, flags, MODE)
        except OSError as error:
            raise _unusable("opened", error) from None
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            return self._append(descriptor, anchor)
        except OSError as error:
            raise _unusable("written", error) from None
        finally:
            os.close(descriptor)

    def __iter__(self) -> Iterator[Anchor]:
        """Every anchor from the first, each checked to follow the one before.

        Raises:
            AuditUnavailable: The file cannot be read, or was not only added to.
        """
        expected, size = FIRST, -1
        try:
            with self._path.open("rb") as file:
                for number, raw in enumerate(file, start=1):
                    line = raw.removesuffix(b"\n")
                    if not _is_whole(line):
                        continue
                    anchor, prior = _parsed(line)
                    grows = anchor.checkpoint.size > size or anchor.recovers == size
                    if prior != expected or not grows:
                        raise _damaged(f"line {number} does not follow the one before")
                    expected, size = _hash(line), anchor.checkpoint.size
                    yield anchor
        except OSError as error:
            raise _unusable("read", error) from None

    def _append(self, descriptor: int, anchor: Anchor) -> str | None:
        last, prior, whole = _last(descriptor)
        if (last.checkpoint.size if last is not None else 0) < self._size:
            raise _damaged("lines are gone")
        if last is not None:
            here, there = anchor.checkpoint, last.checkpoint
            if anchor.recovers is not None and anchor.recovers != there.size:
                raise _damaged("it has another last line than the one that was given up")
            forks = here.size == there.size and here != there and anchor.recovers is None
            if here.origin != there.origin or forks:
                raise _damaged("it is of another log")
            if here.size <= there.size and anchor.recovers is None:
                os.fsync(descriptor)  # it may have been written by a try whose fsync failed
                self._size = there.size
                return None
        line = anchor.line(prior)
        written = (("" if whole else "\n") + line + "\n").encode()
        if os.write(descriptor, written) != len(written):
            raise OSError(errno.ENOSPC, "")
        os.fsync(descriptor)
        if last is None:
            self._sync_directory()  # the file's name must survive, too
        self._size = anchor.checkpoint.size
        return line

    def _sync_directory(self) -> None:
        directory = os.open(self._path.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)


async def startup_check(
    database: Database, anchors: AnchorFile, public: bytes | None = None
) -> Head | None:
    """See, before anything is recorded, that the database is not behind its anchors.

    Args:
        database: Where the log is.
        anchors: What was said of it.
        public: The Ed25519 public key that is to sign from now on, 32 bytes; None where nothing
            will be signed.

    Returns:
        The present head; None where the log has not begun.

    Raises:
        AuditUnavailable: Nothing may be recorded. With `retry_after_s`: the anchor file cannot be
            read now. Without it a person must look: the log was cut, rewritten or replaced since
            its last anchor, or there are checkpoints but no anchors, or the key is not the log's.
        DatabaseUnavailable: The database is away. Checking again is safe.
    """
    last = await asyncio.to_thread(anchors.last)
    try:
        head = await read_head(database, await _known(database, last))
        if head is not None and public is not None:
            check_key(head, VerifierKey(head.origin, public), last)
        if last is not None and last.recovers is not None:
            await check_gone_back(database, anchors, last.checkpoint)
    except Diverged as diverged:
        # With one lost entry an interrupted recovery reaches the last anchor, and looks rewritten.
        if last is not None and (recovery := await begun(database, last.checkpoint)):
            raise _behind(recovery.size, last, begun=recovery.seq).refusal() from None
        raise diverged.refusal() from None
    return head


def check_key(head: Head, key: VerifierKey, last: Anchor | None) -> None:
    """See that `key` signs for the log after the entries that were read for `head`."""
    before = head.rotations[0].old if head.rotations else key
    if last is not None:
        try:
            open_checkpoint(last.note, before)
        except ValueError:
            raise Diverged("the last anchor was not signed by this log's key") from None
    if head.key_after(before) != key:
        raise Diverged("the signing key was replaced by another: use that one")


async def _known(database: Database, last: Anchor | None) -> Head | None:
    """The head that `last` speaks of, as the database has it."""
    async with database.reading() as session:
        if last is None:
            size = await session.scalar(select(func.max(AuditCheckpoint.size)))
            if size is not None:
                raise Diverged("the anchor file is missing", limit=f"anchors up to entry {size}")
            return None
        checkpoint = last.checkpoint
        state = (await session.execute(select(AuditState.origin, AuditState.size))).first()
        tip = await tip_at(session, checkpoint.size)
    if state is not None and state.origin != checkpoint.origin:
        raise Diverged("the database holds another audit log", state.origin, checkpoint.origin)
    size = 0 if state is None else state.size
    if tip is None and size >= checkpoint.size:
        raise Diverged("an entry is missing", limit=f"entry {checkpoint.size}")
    if tip is None:
        raise _behind(size, last)
    return Head(checkpoint.origin, tip, last.frontier)


def _behind(size: int, last: Anchor, begun: int | None = None) -> Behind:
    signed = claimed_time(last.note)
    when = f"{signed:%Y-%m-%dT%H:%M:%SZ}" if signed else ""
    return Behind(size, last.checkpoint.size, when, begun)


def _last(descriptor: int) -> tuple[Anchor | None, str, bool]:
    """The last anchor, the hash of its line, and whether the file ends with a line feed."""
    size = os.fstat(descriptor).st_size
    tail = os.pread(descriptor, _TAIL, max(0, size - _TAIL))
    lines = [line for line in tail.split(b"\n") if _is_whole(line)]
    ended = not tail or tail.endswith(b"\n")
    if not lines:
        if size > _TAIL:
            raise _damaged("its end holds no anchor")
        return None, FIRST, ended  # at most the beginning of a first line
    anchor, _ = _parsed(lines[-1])
    return anchor, _hash(lines[-1]), ended


def _parsed(line: bytes) -> tuple[Anchor, str]:
    try:
        return Anchor.parse(line)
    except ValueError:
        raise _damaged("a line is not an anchor") from None


def _is_whole(line: bytes) -> bool:
    """Whether the line was written to its end: it holds this bracket nowhere else."""
    return line.startswith(b"{") and line.endswith(b"}")


def _hash(line: bytes) -> str:
    return hashlib.sha256(line).hexdigest()


def _damaged(detail: str) -> AuditUnavailable:
    return AuditUnavailable(
        "the anchor file is not what it was",
        (Violation("audit anchor", detail, advice="keep it, and run medai-verify on it"),),
    )


def _unusable(act: str, error: OSError) -> AuditUnavailable:
    denied = error.errno in {errno.EACCES, errno.EPERM}
    return AuditUnavailable(
        f"the anchor file cannot be {act}",
        (
            Violation(
                "audit anchor",
                os.strerror(error.errno or errno.EIO),
                advice="use the service's account"
                if denied
                else "free space on its volume, or mend it",
            ),
        ),
        retry_after_s=RETRY_AFTER_S,
    )
