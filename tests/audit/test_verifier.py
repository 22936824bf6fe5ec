"""medai-verify as an auditor meets it: its ways of ending, and going on from last time."""

import hashlib
import json
import shutil
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from sqlalchemy import delete, select, update

from deployments import medai_verify
from storage.notes import Checkpoint, Note, Signature, VerifierKey, sign
from storage.tables import AuditCheckpoint, AuditLog

if TYPE_CHECKING:
    from conftest import Audited, Export, Intruder, Log, Verify

OK, TAMPERED, TRUNCATED, UNVERIFIABLE, USAGE = range(5)


@pytest.fixture
def url(sqlite_url: str) -> str:
    """The verifier reads a file: for it, one database is like the other."""
    return sqlite_url


async def test_an_untouched_log_is_ok(
    audited: "Audited", export: "Export", verify: "Verify"
) -> None:
    code, report = verify(
        "log", await export(), "--anchors", audited.log.path, "--vkey", audited.vkey
    )

    assert code == OK
    assert report == {
        "result": "OK",
        "log": audited.vkey.split("+", maxsplit=1)[0],
        "entries": 15,
        "checked_from": 1,
        "last_checkpoint": 12,
        "last_anchor": 12,
        "last_signed_at": report["last_signed_at"],
        "not_yet_signed": 3,
        "missing": 0,
        "clock_steps": [],
        "doubts": [],
        "findings": [],
        "finding_count": 0,
    }
    assert report["last_signed_at"].startswith("2026-11-24T08:00:0")


async def test_it_needs_nothing_of_this_project(
    audited: "Audited", export: "Export", tmp_path: Path
) -> None:
    alone = tmp_path / "alone" / "verify.py"
    alone.parent.mkdir()
    shutil.copy(medai_verify.__file__, alone)
    export_file, anchor_file = str(await export()), str(audited.log.path)
    forbid = (
        "import sys, runpy\n"
        "for name in ('storage', 'registry', 'configs', 'deployments', 'sqlalchemy', 'pydantic'):\n"
        "    sys.modules[name] = None\n"
        "runpy.run_path(sys.argv.pop(1), run_name='__main__')\n"
    )

    ended = subprocess.run(  # noqa: ASYNC221  # a test may wait
        [
            *(sys.executable, "-I", "-c", forbid, str(alone), "log", export_file),
            *("--anchors", anchor_file, "--vkey", audited.vkey),
        ],
        cwd=alone.parent,
        capture_output=True,
        text=True,
        check=False,
    )

    assert ended.returncode == OK, ended.stderr
    assert "result  OK\n" in ended.stdout
    assert "not yet signed  3\n" in ended.stdout


async def test_its_words_are_for_people(
    audited: "Audited",
    intruder: "Intruder",
    export: "Export",
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    await intruder.run(update(AuditLog).where(AuditLog.seq == 9).values(outcome="denied"))
    (tmp_path / "vkey").write_text(audited.vkey + "\n")

    path = str(await export())
    code = medai_verify.main(["log", path, "--vkey", f"@{tmp_path / 'vkey'}"])

    said = capsys.readouterr().out
    assert code == TAMPERED
    assert "findings  entry 9: column: not what the entry says: outcome\n" in said


@pytest.mark.parametrize("item", ["\x1b[2J", "\x9b2J", {"a": "\x9b"}, ["\u202e"]])
def test_what_is_in_a_file_does_not_write_on_the_terminal(item: object) -> None:
    assert medai_verify.shown(item).isascii()
    assert medai_verify.shown(item).isprintable()


def test_its_help_teaches(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        medai_verify.main(["--help"])

    assert ended.value.code == 0
    told = capsys.readouterr().out
    for word in ("--anchors", "--vkey", "--from-state", "exit codes", "2  truncated", "payload"):
        assert word in told


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["log"],
        ["log", "export.jsonl"],
        ["log", "export.jsonl", "--vkey"],
        ["evidence", "--vkey", "x"],
        ["prove", "export.jsonl"],
        ["log", "export.jsonl", "--vkey", "x", "--unknown"],
    ],
)
def test_wrong_usage_ends_with_4(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        medai_verify.main(arguments)

    assert ended.value.code == USAGE
    assert "medai-verify: " in capsys.readouterr().err


async def test_a_file_that_is_not_there_ends_with_4(
    audited: "Audited", tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code = medai_verify.main(["log", str(tmp_path / "none"), "--vkey", audited.vkey])

    assert code == USAGE
    assert "No such file" in capsys.readouterr().err


async def test_without_any_checkpoint_it_cannot_be_sure(
    log: "Log", export: "Export", verify: "Verify", key: Ed25519PrivateKey
) -> None:
    await log.events(2)
    path = await export()
    origin = json.loads(path.read_text().splitlines()[0])["origin"]

    code, report = verify("log", path, "--vkey", VerifierKey.of(origin, key))

    assert code == UNVERIFIABLE
    assert report["doubts"] == ["there is no checkpoint that the key has signed"]


async def test_with_another_key_it_cannot_be_sure(
    audited: "Audited", export: "Export", verify: "Verify"
) -> None:
    origin = audited.vkey.split("+", maxsplit=1)[0]
    other = VerifierKey.of(origin, Ed25519PrivateKey.generate())

    code, report = verify("log", await export(), "--vkey", other)

    assert code == UNVERIFIABLE
    assert report["doubts"] == [
        "a checkpoint is signed by no key given",
        "there is no checkpoint that the key has signed",
    ]


async def test_the_key_of_another_log_is_told(
    audited: "Audited", export: "Export", verify: "Verify", key: Ed25519PrivateKey
) -> None:
    other = VerifierKey.of("medaiflow/other", key)

    code, report = verify("log", await export(), "--vkey", other)

    assert code == TAMPERED
    assert report["findings"][0]["kind"] == "genesis"
    code, report = verify("log", await export(), "--vkey", audited.vkey, "--vkey", other)
    assert report["doubts"] == ["the keys are of different logs"]


@pytest.mark.parametrize(
    "vkey",
    [
        "x",
        "a+b+c",
        "PeterNeumann+00000000+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW",
        "remora.n621.de+da77ade7+BOvN63jn/bLvkieywe8R6UYAtVtNbZpXh34x7onlmtw2",
    ],
)
def test_what_is_no_key_of_a_log_is_told(vkey: str, verify: "Verify", tmp_path: Path) -> None:
    code, report = verify("log", tmp_path / "none", "--vkey", vkey)

    assert code == UNVERIFIABLE
    assert "key" in report["doubts"][0]


@pytest.mark.parametrize(
    "content",
    [
        "",
        "\n",
        "[]\n",
        "{}\n",
        '{"medai_audit_export":2,"columns":[]}\n',
        "\x00\xff",
    ],
)
async def test_what_is_no_export_is_told(
    content: str, audited: "Audited", tmp_path: Path, verify: "Verify"
) -> None:
    path = tmp_path / "export.jsonl"
    path.write_bytes(content.encode("latin-1"))

    code, _ = verify("log", path, "--vkey", audited.vkey)

    assert code == UNVERIFIABLE


@pytest.mark.parametrize(
    "line",
    ["", "junk", "{}", '{"payload":}', '{"payload":{},"row":[]}', '{"record":', '{"checkpoint":1}'],
)
async def test_a_broken_line_is_told(
    line: str, audited: "Audited", export: "Export", verify: "Verify"
) -> None:
    path = await export()
    with path.open("a") as file:
        file.write(line + "\n")

    code, report = verify("log", path, "--vkey", audited.vkey)

    assert code == UNVERIFIABLE
    assert report["doubts"] == ["this is not an export of the audit log"]


@pytest.mark.parametrize(("lines", "entries"), [(1, 1), (2, 1), (3, 2)])
async def test_an_export_that_was_cut_is_truncated(
    lines: int, entries: int, audited: "Audited", export: "Export", verify: "Verify"
) -> None:
    path = await export()
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:-lines]))

    code, report = verify("log", path, "--vkey", audited.vkey)

    assert (code, report["missing"]) == (TRUNCATED, entries)


async def test_a_lost_result_is_found(
    audited: "Audited", export: "Export", verify: "Verify"
) -> None:
    path = await export()
    lines = path.read_text().splitlines(keepends=True)
    records = [number for number, line in enumerate(lines) if line.startswith('{"record":')]
    del lines[records[0]]
    path.write_text("".join(lines))

    code, report = verify("log", path, "--vkey", audited.vkey)

    assert code == TAMPERED
    assert [finding["kind"] for finding in report["findings"]] == ["record"]
    assert "gone" in report["findings"][0]["message"]


@pytest.mark.parametrize(
    ("changed", "kind"),
    [
        ({"root": bytes(32)}, "column"),
        ({"note": "medaiflow/x\n7\nAAAA\n\n— medaiflow/x AAAAAAAA\n"}, "column"),
    ],
)
async def test_a_changed_checkpoint_is_found(
    changed: dict[str, Any],
    kind: str,
    audited: "Audited",
    intruder: "Intruder",
    export: "Export",
    verify: "Verify",
) -> None:
    await intruder.run(update(AuditCheckpoint).where(AuditCheckpoint.size == 7).values(**changed))

    code, report = verify("log", await export(), "--vkey", audited.vkey)

    assert code == TAMPERED
    assert [(finding["seq"], finding["kind"]) for finding in report["findings"]] == [(7, kind)]


async def test_a_forged_checkpoint_is_found(
    audited: "Audited", intruder: "Intruder", export: "Export", verify: "Verify"
) -> None:
    """Another root, and another size that is still to come, under the old signature."""
    async with audited.log.database.reading() as session:
        note = await session.scalar(select(AuditCheckpoint.note).where(AuditCheckpoint.size == 7))
    lines = str(note).split("\n")
    for size in (7, 99):
        forged = "\n".join([lines[0], str(size), "A" * 43 + "=", *lines[3:]])
        await intruder.run(
            update(AuditCheckpoint)
            .where(AuditCheckpoint.size < 12)
            .values(note=forged, root=bytes(32), size=size)
        )

        code, report = verify("log", await export(), "--vkey", audited.vkey)

        assert code == TAMPERED
        assert [(f["seq"], f["kind"]) for f in report["findings"]] == [(size, "signature")]
        await intruder.run(
            update(AuditCheckpoint).where(AuditCheckpoint.size == size).values(size=7)
        )


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("}", "},"),
        ('"prior":"', '"prior":"0'),
        ('"note"', '"nota"'),
        ('"note":"', '"note":1,"x":"'),
    ],
)
async def test_a_changed_anchor_file_is_found(
    old: str, new: str, audited: "Audited", export: "Export", verify: "Verify"
) -> None:
    path = audited.log.path
    first, second = path.read_text().splitlines()
    path.write_text(first.replace(old, new, 1) + "\n" + second + "\n")

    code, report = verify("log", await export(), "--anchors", path, "--vkey", audited.vkey)

    assert code == TAMPERED
    assert {finding["kind"] for finding in report["findings"]} == {"anchors"}


@pytest.mark.parametrize("text", ["{0}\n7\n{1}\nmore\n", "{0}\n07\n{1}\n", "{0}\n7\n"])
async def test_a_text_that_the_key_signed_but_is_no_checkpoint_is_found(
    text: str,
    audited: "Audited",
    key: Ed25519PrivateKey,
    intruder: "Intruder",
    export: "Export",
    verify: "Verify",
) -> None:
    origin = audited.vkey.split("+", maxsplit=1)[0]
    text = text.format(origin, "A" * 43 + "=")
    public = VerifierKey.of(origin, key)
    note = Note(text, (Signature(origin, public.key_id, key.sign(text.encode())),))
    values = {"note": str(note), "root": bytes(32)}
    await intruder.run(update(AuditCheckpoint).where(AuditCheckpoint.size == 7).values(**values))

    code, report = verify("log", await export(), "--vkey", audited.vkey)

    assert code == TAMPERED
    assert "signature" in {finding["kind"] for finding in report["findings"]}


async def test_a_checkpoint_may_stand_before_its_entry(
    audited: "Audited", export: "Export", verify: "Verify"
) -> None:
    path = await export()
    lines = path.read_text().splitlines(keepends=True)
    (place,) = [number for number, line in enumerate(lines) if '"size":12,' in line]
    lines[place - 1], lines[place] = lines[place], lines[place - 1]
    path.write_text("".join(lines))

    code, report = verify("log", path, "--vkey", audited.vkey)

    assert (code, report["last_checkpoint"]) == (OK, 12)


async def test_a_checkpoint_of_nothing_is_found(
    audited: "Audited", export: "Export", verify: "Verify"
) -> None:
    root = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    note = "medaiflow/x\n0\n47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=\n\n— x AAAAAAAA\n"
    path = await export()
    header, *lines = path.read_text().splitlines(keepends=True)
    stored = json.dumps({"checkpoint": note, "size": 0, "root": root})
    path.write_text(f"{header}{stored}\n{''.join(lines)}")

    code, report = verify("log", path, "--vkey", audited.vkey)

    assert code == TAMPERED
    assert [(finding["seq"], finding["kind"]) for finding in report["findings"]] == [
        (0, "signature")
    ]


async def test_an_anchor_to_come_that_another_key_signed_proves_nothing(
    audited: "Audited", export: "Export", verify: "Verify"
) -> None:
    origin = audited.vkey.split("+", maxsplit=1)[0]
    thief = Ed25519PrivateKey.generate()
    note = sign(Checkpoint(origin, 99, bytes(32)), thief, at=datetime(2026, 1, 1, tzinfo=UTC))
    prior = hashlib.sha256(audited.log.path.read_bytes().splitlines()[-1]).hexdigest()
    with audited.log.path.open("a") as file:
        file.write(json.dumps({"note": str(note), "prior": prior}) + "\n")

    code, report = verify(
        "log", await export(), "--anchors", audited.log.path, "--vkey", audited.vkey
    )

    assert (code, report["missing"]) == (UNVERIFIABLE, 0)
    assert report["doubts"] == ["a checkpoint is signed by no key given"]


async def test_anchors_in_another_order_are_found(
    audited: "Audited", export: "Export", verify: "Verify"
) -> None:
    path = audited.log.path
    prior, lines = hashlib.sha256().hexdigest(), []
    for line in reversed(path.read_text().splitlines()):
        lines.append(json.dumps({**json.loads(line), "prior": prior}))
        prior = hashlib.sha256(lines[-1].encode()).hexdigest()
    path.write_text("\n".join(lines) + "\n")

    code, report = verify("log", await export(), "--anchors", path, "--vkey", audited.vkey)

    assert code == TAMPERED
    assert [(finding["seq"], finding["kind"]) for finding in report["findings"]] == [(0, "anchors")]


async def test_a_number_that_is_left_out_is_found_also_where_the_hashes_fit(
    audited: "Audited", intruder: "Intruder", export: "Export", verify: "Verify"
) -> None:
    await intruder.forget_checkpoints()
    await intruder.write(await intruder.chained(await intruder.rows(), 8, skip=1))

    _, report = verify("log", await export(), "--vkey", audited.vkey)

    assert [(finding["seq"], finding["kind"]) for finding in report["findings"]] == [(10, "gap")]


async def test_an_epoch_that_goes_back_is_found(
    audited: "Audited", intruder: "Intruder", export: "Export", verify: "Verify"
) -> None:
    rows = await intruder.rows()
    for row, epoch in ((rows[13], 3), (rows[14], 2)):
        row["payload"] = row["payload"].replace('"epoch":1', f'"epoch":{epoch}')
        row["epoch"] = epoch
    await intruder.write(await intruder.chained(rows, 13))

    _, report = verify("log", await export(), "--vkey", audited.vkey)

    assert [(finding["seq"], finding["kind"]) for finding in report["findings"]] == [(15, "epoch")]


async def test_a_log_that_begins_otherwise_is_found(
    audited: "Audited", intruder: "Intruder", export: "Export", verify: "Verify"
) -> None:
    rows = await intruder.rows()
    await intruder.write(await intruder.chained(rows[1:]))

    _, report = verify("log", await export(), "--vkey", audited.vkey)

    assert (1, "genesis") in [(finding["seq"], finding["kind"]) for finding in report["findings"]]


@pytest.mark.parametrize(
    "payload", ["", "junk", "two\nlines", '"text"', "[1]", "{}", '{"a":1} more', "{" * 99999]
)
async def test_a_payload_that_cannot_be_read_is_found(
    payload: str, audited: "Audited", intruder: "Intruder", export: "Export", verify: "Verify"
) -> None:
    await intruder.run(update(AuditLog).where(AuditLog.seq == 9).values(payload=payload))

    code, report = verify("log", await export(), "--vkey", audited.vkey)

    assert code == TAMPERED
    assert {(finding["seq"], finding["kind"]) for finding in report["findings"]} == {(9, "payload")}


@pytest.mark.parametrize(("seconds", "code"), [(4, OK), (6, TAMPERED)])
async def test_a_clock_may_be_set_back_a_little(
    seconds: int,
    code: int,
    audited: "Audited",
    intruder: "Intruder",
    export: "Export",
    verify: "Verify",
) -> None:
    rows = await intruder.rows()
    before = datetime.fromisoformat(rows[13]["created_at"]) - timedelta(seconds=seconds)
    back = before.isoformat(timespec="microseconds").replace("+00:00", "Z")
    rows[14]["payload"] = rows[14]["payload"].replace(rows[14]["created_at"], back)
    rows[14]["created_at"] = back
    await intruder.write(await intruder.chained(rows, 14))

    assert verify("log", await export(), "--vkey", audited.vkey)[0] == code


async def test_a_clock_that_is_said_to_have_gone_back_is_no_damage(
    audited: "Audited", export: "Export", verify: "Verify"
) -> None:
    audited.log.clock.time = audited.log.clock.time.replace(hour=7)
    await audited.log.events(2)

    code, report = verify("log", await export(), "--vkey", audited.vkey)

    assert code == OK
    assert report["clock_steps"] == [16]


async def test_a_step_of_the_clock_that_names_another_time_is_damage(
    audited: "Audited", intruder: "Intruder", export: "Export", verify: "Verify"
) -> None:
    audited.log.clock.time = audited.log.clock.time.replace(hour=7)
    await audited.log.events(1)
    rows = await intruder.rows()
    for name in ("payload", "context"):
        rows[15][name] = rows[15][name].replace("2026-11-24T08:00", "2026-11-24T07:59")
    await intruder.write(await intruder.chained(rows, 15))

    code, report = verify("log", await export(), "--vkey", audited.vkey)

    assert code == TAMPERED
    assert [(finding["seq"], finding["kind"]) for finding in report["findings"]] == [(16, "clock")]


class TestGoingOn:
    """The second verification reads what is new, and misses what was there."""

    @pytest.fixture
    async def state(
        self, audited: "Audited", export: "Export", verify: "Verify", tmp_path: Path
    ) -> Path:
        path = tmp_path / "state.json"
        code, _ = verify("log", await export(), "--vkey", audited.vkey, "--save-state", path)
        assert code == OK
        return path

    @pytest.fixture
    def again(self, audited: "Audited", verify: "Verify", state: Path) -> "Verify":
        def run(path: object, *more: object) -> tuple[int, dict[str, Any]]:
            return verify("log", path, "--vkey", audited.vkey, "--from-state", state, *more)

        return run

    @pytest.mark.parametrize("after", [0, 9, 15])
    async def test_it_reads_what_is_new(
        self, after: int, audited: "Audited", export: "Export", again: "Verify", tmp_path: Path
    ) -> None:
        audited.checkpointer.observe(await audited.log.events(4))
        await audited.checkpointer.now()

        code, report = again(
            await export(after=after),
            *("--anchors", audited.log.path, "--save-state", tmp_path / "next.json"),
        )

        assert code == OK
        assert (report["checked_from"], report["entries"]) == (16, 19)
        assert (report["last_checkpoint"], report["last_anchor"]) == (19, 19)
        assert json.loads((tmp_path / "next.json").read_text())["size"] == 19

    async def test_nothing_new_is_ok(self, export: "Export", again: "Verify") -> None:
        code, report = again(await export(after=15))

        assert code == OK
        assert report["entries"] == 15

    async def test_an_export_that_begins_too_late_is_told(
        self, audited: "Audited", export: "Export", again: "Verify"
    ) -> None:
        await audited.log.events(4)

        code, report = again(await export(after=17))

        assert code == UNVERIFIABLE
        assert "begins after entry 17" in report["doubts"][0]

    async def test_one_that_does_not_begin_at_the_beginning_is_told(
        self, audited: "Audited", export: "Export", verify: "Verify"
    ) -> None:
        code, report = verify("log", await export(after=3), "--vkey", audited.vkey)

        assert code == UNVERIFIABLE
        assert "--from-state" in report["doubts"][0]

    @pytest.mark.parametrize("agree", [True, False])
    @pytest.mark.parametrize("after", [0, 15])
    async def test_a_log_that_became_shorter_is_truncated(
        self,
        after: int,
        agree: bool,
        intruder: "Intruder",
        export: "Export",
        again: "Verify",
    ) -> None:
        await intruder.write((await intruder.rows())[:13], agree=agree)

        code, report = again(await export(after=after))

        assert (code, report["missing"]) == (TRUNCATED, 2)

    @pytest.mark.parametrize("after", [0, 15])
    async def test_an_entry_that_was_verified_and_is_another_now_is_found(
        self, after: int, intruder: "Intruder", export: "Export", again: "Verify"
    ) -> None:
        rows = await intruder.rows()
        rows[13]["payload"] = rows[13]["payload"].replace('"success"', '"denied"')
        await intruder.write(await intruder.chained(rows, 13))

        code, report = again(await export(after=after))

        assert code == TAMPERED
        assert (report["findings"][0]["seq"], report["findings"][0]["kind"]) == (15, "root")

    async def test_new_damage_is_found(
        self, audited: "Audited", intruder: "Intruder", export: "Export", again: "Verify"
    ) -> None:
        await audited.log.events(3)
        await intruder.run(delete(AuditLog).where(AuditLog.seq == 16))

        code, report = again(await export(after=15))

        assert code == TAMPERED
        assert report["findings"][0]["kind"] == "gap"

    async def test_a_state_with_other_keys_or_of_something_else_is_told(
        self,
        audited: "Audited",
        export: "Export",
        verify: "Verify",
        state: Path,
    ) -> None:
        path = await export()
        origin = audited.vkey.split("+", maxsplit=1)[0]
        other = VerifierKey.of(origin, Ed25519PrivateKey.generate())
        code, report = verify("log", path, "--vkey", other, "--from-state", state)
        assert (code, report["doubts"]) == (
            UNVERIFIABLE,
            ["the state was made with other keys: begin anew"],
        )

        for content in ("", "[]", "{}", '{"size":1,"size":2}'):
            state.write_text(content)  # noqa: ASYNC240  # a test may wait
            code, report = verify("log", path, "--vkey", audited.vkey, "--from-state", state)
            assert code == UNVERIFIABLE
            assert report["doubts"]

    async def test_a_tampered_log_leaves_no_state(
        self,
        audited: "Audited",
        intruder: "Intruder",
        export: "Export",
        verify: "Verify",
        tmp_path: Path,
    ) -> None:
        await intruder.run(update(AuditLog).where(AuditLog.seq == 9).values(outcome="denied"))

        verify(
            "log", await export(), "--vkey", audited.vkey, "--save-state", tmp_path / "none.json"
        )

        assert not (tmp_path / "none.json").exists()
