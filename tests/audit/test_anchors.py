"""The file outside the database: only added to, whole or passed over, and checked at start."""

import errno
import json
import os
import pwd
import resource
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from deployments import medai_verify
from registry.errors import AuditUnavailable
from storage.anchors import Anchor, AnchorFile
from storage.hashchain import Frontier, leaf_hash
from storage.notes import Checkpoint, sign

AT = datetime(2026, 11, 24, 8, tzinfo=UTC)
ORIGIN = "medaiflow/one"
VKEY = "medaiflow/one+9fe39d52+ATtqJ7zOtqQtYqOo0CpvDXNlMhV3HeJDpjrASKGLWdop"


def anchor(size: int, *, origin: str = ORIGIN, salt: bytes = b"") -> Anchor:
    """An anchor of a log of `size` entries; with another `salt`, of another one."""
    frontier = Frontier()
    for number in range(size):
        frontier.append(leaf_hash(salt + bytes([number])))
    key = Ed25519PrivateKey.from_private_bytes(bytes(32))
    return Anchor(sign(Checkpoint(origin, size, frontier.root()), key, at=AT), frontier)


@contextmanager
def no_more_space(path: Path) -> Iterator[None]:
    """As on a full disk: a file cannot grow beyond some 40 bytes more than it has."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    size = path.stat().st_size if path.exists() else 0
    resource.setrlimit(resource.RLIMIT_FSIZE, (size + 40, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, ignored)


def sizes(path: Path) -> list[int]:
    return [anchor.checkpoint.size for anchor in AnchorFile(path)]


def test_what_is_added_is_read_again(anchors: AnchorFile, tmp_path: Path) -> None:
    assert anchors.last() is None

    lines = [anchors.append(anchor(size)) for size in (1, 3, 7)]

    last = AnchorFile(tmp_path / "anchors.jsonl").last()
    assert last is not None
    assert last.checkpoint == anchor(7).checkpoint
    assert last.frontier.to_bytes() == anchor(7).frontier.to_bytes()
    assert (tmp_path / "anchors.jsonl").read_text() == "".join(f"{line}\n" for line in lines)
    assert sizes(tmp_path / "anchors.jsonl") == [1, 3, 7]


def test_a_line_is_what_it_will_always_be(anchors: AnchorFile, tmp_path: Path) -> None:
    anchors.append(anchor(1))
    anchors.append(anchor(2))

    first, second = (tmp_path / "anchors.jsonl").read_bytes().splitlines()

    assert list(json.loads(first)) == ["note", "frontier", "prior"]
    assert json.loads(first)["prior"] == (
        "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    )
    assert json.loads(second)["prior"] == (
        "de3d53c7ccd976b9d7d9ecd9036fa93647899cfe13d48390ed7cc6ace3b0a911"
    )


def test_a_line_is_on_the_disk_before_anybody_hears_of_it(
    anchors: AnchorFile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[tuple[int, int]] = []
    real = os.fsync

    def fsync(descriptor: int) -> None:
        status = os.fstat(descriptor)
        synced.append((status.st_ino, status.st_size))
        real(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)

    for size in (1, 2):
        anchors.append(anchor(size))

        status = (tmp_path / "anchors.jsonl").stat()
        assert (status.st_ino, status.st_size) in synced
    assert tmp_path.stat().st_ino in {inode for inode, _ in synced}  # its name, too
    assert len(synced) == 3


def test_the_file_is_not_for_everybody(anchors: AnchorFile, tmp_path: Path) -> None:
    anchors.append(anchor(1))

    assert (tmp_path / "anchors.jsonl").stat().st_mode & 0o007 == 0


def test_an_older_or_equal_head_adds_nothing(anchors: AnchorFile, tmp_path: Path) -> None:
    anchors.append(anchor(3))

    assert anchors.append(anchor(3)) is None
    assert AnchorFile(tmp_path / "anchors.jsonl").append(anchor(2)) is None
    assert sizes(tmp_path / "anchors.jsonl") == [3]


def test_another_head_of_the_same_size_is_refused(anchors: AnchorFile) -> None:
    anchors.append(anchor(3))

    with pytest.raises(AuditUnavailable, match="another log"):
        anchors.append(anchor(3, salt=b"x"))


def test_another_log_is_refused(anchors: AnchorFile) -> None:
    anchors.append(anchor(3))

    with pytest.raises(AuditUnavailable, match="another log"):
        anchors.append(anchor(4, origin="medaiflow/two"))


def test_a_file_that_was_taken_away_is_not_begun_anew(anchors: AnchorFile, tmp_path: Path) -> None:
    anchors.append(anchor(3))
    (tmp_path / "anchors.jsonl").unlink()

    with pytest.raises(AuditUnavailable, match="cannot be opened"):
        anchors.append(anchor(4))

    assert not (tmp_path / "anchors.jsonl").exists()


def test_lines_that_were_taken_away_are_missed(anchors: AnchorFile, tmp_path: Path) -> None:
    path = tmp_path / "anchors.jsonl"
    anchors.append(anchor(3))
    older = path.read_bytes()
    anchors.append(anchor(4))
    path.write_bytes(older)

    with pytest.raises(AuditUnavailable, match="lines are gone"):
        anchors.append(anchor(5))


def test_a_full_disk_is_told_and_mends(anchors: AnchorFile, tmp_path: Path) -> None:
    path = tmp_path / "anchors.jsonl"
    anchors.append(anchor(1))
    with no_more_space(path), pytest.raises(AuditUnavailable, match="cannot be written") as full:
        anchors.append(anchor(2))
    torn = path.read_bytes()

    anchors.append(anchor(3))

    assert full.value.retry_after_s is not None
    assert not torn.endswith(b"\n")
    assert sizes(path) == [1, 3]


def test_a_disk_that_is_full_at_the_first_line_mends_too(
    anchors: AnchorFile, tmp_path: Path
) -> None:
    path = tmp_path / "anchors.jsonl"
    with no_more_space(path), pytest.raises(AuditUnavailable):
        anchors.append(anchor(1))

    assert AnchorFile(path).last() is None
    anchors.append(anchor(2))
    assert sizes(path) == [2]


def test_a_line_that_lacks_only_its_end_counts(anchors: AnchorFile, tmp_path: Path) -> None:
    path = tmp_path / "anchors.jsonl"
    anchors.append(anchor(1))
    anchors.append(anchor(2))
    path.write_bytes(path.read_bytes().removesuffix(b"\n"))

    AnchorFile(path).append(anchor(3))

    assert sizes(path) == [1, 2, 3]


def test_the_verifier_passes_over_a_torn_line_as_we_do(anchors: AnchorFile, tmp_path: Path) -> None:
    path = tmp_path / "anchors.jsonl"
    anchors.append(anchor(1))
    with no_more_space(path), pytest.raises(AuditUnavailable):
        anchors.append(anchor(2))
    anchors.append(anchor(3))
    check = medai_verify.LogCheck([medai_verify.Key(VKEY)])

    with path.open("rb") as lines:
        found = [size for size, *_ in check.anchors(lines)]

    assert check.findings == []
    assert found == [1, 3]


def test_a_changed_line_is_found(anchors: AnchorFile, tmp_path: Path) -> None:
    path = tmp_path / "anchors.jsonl"
    for size in (1, 2, 3):
        anchors.append(anchor(size))
    lines = path.read_bytes().splitlines(keepends=True)

    path.write_bytes(b"".join([lines[0], lines[2]]))

    with pytest.raises(AuditUnavailable, match="line 2 does not follow"):
        sizes(path)


@pytest.mark.parametrize(
    "line",
    [
        "{}",
        '{"note":1,"frontier":"","prior":""}',
        '{"note":"x","frontier":"","prior":""}',
        "{not json}",
    ],
)
def test_a_line_that_is_no_anchor_is_told(anchors: AnchorFile, tmp_path: Path, line: str) -> None:
    (tmp_path / "anchors.jsonl").write_text(f"{line}\n")

    with pytest.raises(AuditUnavailable, match="not an anchor"):
        anchors.last()


def test_a_tree_that_is_not_that_of_the_note_is_told(anchors: AnchorFile, tmp_path: Path) -> None:
    path = tmp_path / "anchors.jsonl"
    anchors.append(anchor(2))
    document = json.loads(path.read_text())
    document["frontier"] = json.loads(anchor(2, salt=b"x").line(""))["frontier"]
    path.write_text(json.dumps(document) + "\n")

    with pytest.raises(AuditUnavailable, match="not an anchor"):
        anchors.last()


def test_a_file_of_something_else_is_told(anchors: AnchorFile, tmp_path: Path) -> None:
    (tmp_path / "anchors.jsonl").write_bytes(b"x" * 100_000)

    with pytest.raises(AuditUnavailable, match="no anchor"):
        anchors.last()


def test_a_place_that_cannot_be_used_is_told_without_its_name(tmp_path: Path) -> None:
    anchors = AnchorFile(tmp_path)  # a directory

    for act in (lambda: anchors.append(anchor(1)), anchors.last, lambda: list(anchors)):
        with pytest.raises(AuditUnavailable) as refused:
            act()
        assert refused.value.violations[0].measured == os.strerror(errno.EISDIR)
        assert str(tmp_path) not in str(refused.value)


@contextmanager
def as_another_account(directory: Path) -> Iterator[None]:
    """Without the right to look into `directory`."""
    uid = os.geteuid()
    directory.chmod(0o000)
    if uid == 0:  # nothing is closed to root
        os.seteuid(pwd.getpwnam("nobody").pw_uid)
    try:
        yield
    finally:
        os.seteuid(uid)
        directory.chmod(0o700)


def test_who_may_not_read_the_anchors_is_told_whose_account_may(
    anchors: AnchorFile, tmp_path: Path
) -> None:
    anchors.append(anchor(3))

    with (
        as_another_account(tmp_path),
        pytest.raises(
            AuditUnavailable, match=r"cannot be read.*Permission denied: use the service"
        ),
    ):
        anchors.last()
