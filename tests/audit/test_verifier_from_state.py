"""medai-verify goes on from last time: it reads what is new, and misses what was there."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from sqlalchemy import delete, update

from storage.notes import VerifierKey
from storage.tables import AuditLog
from tests.audit.verifier import OK, TAMPERED, TRUNCATED, UNVERIFIABLE, url

if TYPE_CHECKING:
    from conftest import Audited, Export, Intruder, Verify

__all__ = ["url"]


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
