"""Segments of the archive, on both databases: where they are cut, and that they continue."""

from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from registry.errors import AuditUnavailable, ValidationFailed
from storage.archive import Archive, Manifest, Month
from storage.export import export_log
from storage.notes import VerifierKey

if TYPE_CHECKING:
    from conftest import Log, Verify

NOVEMBER, DECEMBER = Month(2026, 11), Month(2026, 12)


async def archived(log: "Log", directory: Path, before: Month) -> list[Manifest]:
    """Write and keep what is due."""
    archive = Archive(directory)
    for month, last in await archive.plan(log.database, before):
        archive.keep(await archive.write(log.database, month, last, software="1"))
    return archive.manifests


@pytest.fixture
async def months(log: "Log", key: Ed25519PrivateKey) -> "Log":
    """November has 7 signed entries and 2 that are not, December has 3, of which 2 are signed."""
    checkpointer = log.checkpointer(key)
    await log.append(log.site.event(), log.site.inference(), log.site.event())
    await checkpointer.open()
    await checkpointer.now()
    await log.events(2)
    log.clock.time = datetime(2026, 12, 2, tzinfo=UTC)
    await log.events(2)
    await checkpointer.now()
    await log.events(1)
    return log


async def test_a_segment_ends_with_the_last_checkpoint_of_its_month(
    months: "Log", tmp_path: Path
) -> None:
    manifests = await archived(months, tmp_path / "a", Month(2027, 1))

    assert [(one.month, one.first, one.last) for one in manifests] == [
        ("2026-11", 1, 7),
        ("2026-12", 8, 11),
    ]
    assert manifests[1].previous == manifests[0].tip
    assert [one.checkpoint.split("\n")[1] for one in manifests] == ["7", "11"]


async def test_segments_and_the_rest_are_one_log_to_the_verifier(
    months: "Log", tmp_path: Path, verify: "Verify"
) -> None:
    manifests = await archived(months, tmp_path / "a", DECEMBER)
    await archived(months, tmp_path / "a", Month(2027, 1))
    rest = tmp_path / "rest.jsonl"
    rest.write_bytes(b"".join([piece async for piece in export_log(months.database, after=11)]))
    segments = sorted((tmp_path / "a").glob("*.jsonl"))

    assert len(manifests) == 1
    assert len(segments) == 2
    code, report = verify("log", *segments, rest, "--anchors", months.path, *key_of(months))
    assert (code, report["entries"], report["last_anchor"]) == (0, 12, 11)
    code, report = verify("log", segments[1], rest, *key_of(months))
    assert (code, report["result"]) == (3, "UNVERIFIABLE")
    code, report = verify("log", *segments, "--anchors", months.path, *key_of(months))
    assert (code, report["not_yet_signed"]) == (0, 0)


async def test_a_segment_that_was_changed_is_found_where_it_was_changed(
    months: "Log", tmp_path: Path, verify: "Verify"
) -> None:
    await archived(months, tmp_path / "a", Month(2027, 1))
    first, second = sorted((tmp_path / "a").glob("*.jsonl"))
    changed = tmp_path / "changed.jsonl"
    changed.write_text(second.read_text().replace('"pages":3', '"pages":4', 1))

    code, report = verify("log", first, changed, *key_of(months))

    assert code == 1
    assert (report["findings"][0]["seq"], report["findings"][0]["kind"]) == (8, "payload")


async def test_a_segment_that_was_cut_is_truncated(
    months: "Log", tmp_path: Path, verify: "Verify"
) -> None:
    await archived(months, tmp_path / "a", Month(2027, 1))
    first, second = sorted((tmp_path / "a").glob("*.jsonl"))
    cut = tmp_path / "cut.jsonl"
    cut.write_text("".join(first.read_text().splitlines(keepends=True)[:4]))

    code, _ = verify("log", cut, second, *key_of(months))

    assert code == 2


async def test_a_clock_that_was_set_back_begins_no_month_anew(
    months: "Log", tmp_path: Path, key: Ed25519PrivateKey
) -> None:
    await archived(months, tmp_path / "a", Month(2027, 1))
    months.clock.time = datetime(2026, 11, 30, tzinfo=UTC)
    await months.events(1)
    checkpointer = months.checkpointer(key)
    await checkpointer.open()
    await checkpointer.now()

    assert len(await archived(months, tmp_path / "a", Month(2027, 1))) == 2
    months.clock.time = datetime(2027, 1, 3, tzinfo=UTC)
    await months.events(1)
    await checkpointer.now()
    manifests = await archived(months, tmp_path / "a", Month(2027, 2))

    assert [one.month for one in manifests] == ["2026-11", "2026-12", "2027-01"]
    assert manifests[2].first == 12


async def test_before_its_first_month_a_log_has_nothing_to_archive(
    months: "Log", tmp_path: Path
) -> None:
    assert await Archive(tmp_path / "a").plan(months.database, NOVEMBER) == []


@pytest.mark.parametrize("text", ["{}", "no json", '{"medai_audit_archive":1}', "[]"])
def test_a_manifest_that_is_none_is_told(text: str, tmp_path: Path) -> None:
    (tmp_path / "2026-11.manifest.json").write_text(text)

    with pytest.raises(AuditUnavailable, match="the archive is damaged"):
        Archive(tmp_path)


def test_a_month_is_one_of_the_calendar_in_utc() -> None:
    late = datetime(2026, 11, 30, 23, 30, tzinfo=timezone(timedelta(hours=-5)))

    assert Month.of(late) == DECEMBER
    assert DECEMBER.following == Month(2027, 1)
    assert NOVEMBER.following == DECEMBER
    assert str(Month.parse("2026-11")) == "2026-11"
    with pytest.raises(ValidationFailed):
        Month.parse("2026-13")


def key_of(log: "Log") -> tuple[str, str]:
    """The option that gives the log's public key, which is the same in every test."""
    anchor = log.anchors.last()
    assert anchor is not None
    key = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
    return ("--vkey", str(VerifierKey.of(anchor.checkpoint.origin, key)))
