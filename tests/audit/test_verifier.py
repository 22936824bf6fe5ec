"""medai-verify as an auditor meets it: its ways of ending, its words, and what it cannot read."""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from sqlalchemy import update

from deployments import medai_verify
from storage.notes import VerifierKey
from storage.tables import AuditLog
from tests.audit.verifier import OK, TAMPERED, TRUNCATED, UNVERIFIABLE, USAGE, url

if TYPE_CHECKING:
    from conftest import Audited, Export, Intruder, Log, Verify

__all__ = ["url"]


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
        "recovered": [],
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
