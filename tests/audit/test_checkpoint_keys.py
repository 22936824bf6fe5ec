"""The key that signs the checkpoints changes, and whom a verifier and the next start believe."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from registry.contract import Receipt
from registry.errors import AuditUnavailable
from registry.events import AuditAction, ContextValue
from storage.anchors import AnchorFile, startup_check
from storage.checkpoints import Checkpointer
from storage.database import Database
from storage.notes import Note, Signature, VerifierKey, sign_rotation

if TYPE_CHECKING:
    from conftest import Export, Log, Verify


class TestRotation:
    """The signing key changes."""

    @pytest.fixture
    def new_key(self) -> Ed25519PrivateKey:
        return Ed25519PrivateKey.from_private_bytes(bytes(32))

    def recorder(self, log: "Log") -> Callable[[dict[str, ContextValue]], Any]:
        async def record(context: dict[str, ContextValue]) -> Receipt:
            event = log.site.event(action=AuditAction.KEY_ROTATED, context=context)
            return await log.append(event)

        return record

    async def test_the_verifier_follows_from_the_old_key_to_the_new(
        self,
        log: "Log",
        checkpointer: Checkpointer,
        key: Ed25519PrivateKey,
        new_key: Ed25519PrivateKey,
        export: "Export",
        verify: "Verify",
    ) -> None:
        checkpointer.observe(await log.events(2))

        vkey = await checkpointer.rotate(new_key, self.recorder(log))

        checkpointer.observe(await log.events(2))
        made = await checkpointer.now()
        assert made is not None
        old = VerifierKey.of(vkey.name, key)
        notes = [Note.parse(row.note) for row in await log.stored()]
        signers = [note.signatures[0].key_id for note in notes]
        assert signers == [old.key_id, old.key_id, vkey.key_id, vkey.key_id]
        code, report = verify("log", await export(), "--anchors", log.path, "--vkey", old)
        assert (code, report["last_checkpoint"]) == (0, made.size)
        code, report = verify("log", await export(), "--anchors", log.path, "--vkey", vkey)
        assert code == 3  # the old checkpoints cannot be verified with the new key alone
        assert report["findings"] == []

    async def test_the_next_start_needs_the_new_key(
        self,
        log: "Log",
        checkpointer: Checkpointer,
        key: Ed25519PrivateKey,
        new_key: Ed25519PrivateKey,
    ) -> None:
        await checkpointer.rotate(new_key, self.recorder(log))

        with pytest.raises(AuditUnavailable, match="not signed by this log's key"):
            await log.checkpointer(key).open()
        await log.checkpointer(new_key).open()

    async def test_a_crash_before_the_first_new_checkpoint_is_no_fault(
        self,
        log: "Log",
        checkpointer: Checkpointer,
        key: Ed25519PrivateKey,
        new_key: Ed25519PrivateKey,
    ) -> None:
        made = (await log.stored())[0]
        origin = made.note.split("\n")[0]
        await self.recorder(log)({"note": str(sign_rotation(key, new_key, origin))})

        with pytest.raises(AuditUnavailable, match="replaced by another"):
            await log.checkpointer(key).open()
        with pytest.raises(AuditUnavailable, match="replaced by another"):
            await checkpointer.now()
        following = log.checkpointer(new_key)
        await following.open()
        assert await following.now() is not None

    @pytest.mark.parametrize("forged", ["", "text\n\n— name AAAAAAAA\n", "by the thief"])
    async def test_a_successor_that_the_key_did_not_name_is_refused(
        self,
        forged: str,
        log: "Log",
        checkpointer: Checkpointer,
        key: Ed25519PrivateKey,
        new_key: Ed25519PrivateKey,
        export: "Export",
        verify: "Verify",
    ) -> None:
        origin = (await log.stored())[0].note.split("\n")[0]
        if forged == "by the thief":
            forged = str(sign_rotation(new_key, new_key, origin))
        receipt = await self.recorder(log)({"note": forged})

        for start in (log.checkpointer(key).open, log.checkpointer(new_key).open, checkpointer.now):
            with pytest.raises(AuditUnavailable):
                await start()
        code, report = verify("log", await export(), "--vkey", VerifierKey.of(origin, key))
        assert code == 1
        assert report["findings"][0]["seq"] == receipt.seq

    @pytest.mark.usefixtures("checkpointer")
    async def test_a_key_that_was_replaced_names_no_other(
        self,
        log: "Log",
        key: Ed25519PrivateKey,
        new_key: Ed25519PrivateKey,
        export: "Export",
        verify: "Verify",
    ) -> None:
        """Whoever has stolen the old key cannot bring in his own with it."""
        thief = Ed25519PrivateKey.generate()
        origin = (await log.stored())[0].note.split("\n")[0]
        record = self.recorder(log)
        await record({"note": str(sign_rotation(key, new_key, origin))})
        receipt = await record({"note": str(sign_rotation(key, thief, origin))})

        with pytest.raises(AuditUnavailable, match="another key was brought in"):
            await log.checkpointer(thief).open()
        code, report = verify("log", await export(), "--vkey", VerifierKey.of(origin, key))
        assert code == 1
        assert report["findings"][0]["seq"] == receipt.seq

    async def test_a_successor_for_another_log_is_refused(
        self,
        log: "Log",
        checkpointer: Checkpointer,
        key: Ed25519PrivateKey,
        new_key: Ed25519PrivateKey,
        export: "Export",
        verify: "Verify",
    ) -> None:
        origin = (await log.stored())[0].note.split("\n")[0]
        old, new = VerifierKey.of(origin, key), VerifierKey.of("medaiflow/other", new_key)
        text = f"medaiflow/audit/key-rotation/v1\n{old}\n{new}\n"
        note = Note(text, (Signature(origin, old.key_id, key.sign(text.encode())),))
        receipt = await self.recorder(log)({"note": str(note)})

        with pytest.raises(AuditUnavailable, match="not signed"):
            await checkpointer.now()
        code, report = verify("log", await export(), "--vkey", old)
        assert code == 1
        assert report["findings"][0]["seq"] == receipt.seq

    async def test_a_successor_in_another_logs_name_is_refused(
        self,
        log: "Log",
        checkpointer: Checkpointer,
        key: Ed25519PrivateKey,
        new_key: Ed25519PrivateKey,
    ) -> None:
        note = sign_rotation(key, new_key, "medaiflow/other")
        await self.recorder(log)({"note": str(note)})

        with pytest.raises(AuditUnavailable, match="of another log"):
            await checkpointer.now()

    async def test_an_old_key_signs_no_more(
        self,
        log: "Log",
        checkpointer: Checkpointer,
        key: Ed25519PrivateKey,
        new_key: Ed25519PrivateKey,
        anchors: AnchorFile,
    ) -> None:
        """Whoever has stolen the old key cannot make the log's next checkpoint with it."""
        await checkpointer.rotate(new_key, self.recorder(log))
        await log.events(1)

        with pytest.raises(AuditUnavailable):
            await startup_check(log.database, anchors, key.public_key().public_bytes_raw())

    async def test_a_log_that_has_not_begun_has_no_key_to_change(
        self,
        database: Database,
        log_of: Callable[[Database], "Log"],
        key: Ed25519PrivateKey,
        new_key: Ed25519PrivateKey,
    ) -> None:
        checkpointer = log_of(database).checkpointer(key)
        await checkpointer.open()

        async def never(context: dict[str, ContextValue]) -> Receipt:
            raise AssertionError(context)

        with pytest.raises(AuditUnavailable, match="not begun"):
            await checkpointer.rotate(new_key, never)
