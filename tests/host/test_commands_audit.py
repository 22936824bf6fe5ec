"""`medai audit`: the archive, the log's key, and forgetting a patient, as an operator does it."""

import asyncio
import hashlib
import json
import shutil
import sqlite3
from collections.abc import Awaitable, Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from uuid_utils.compat import uuid7

from configs.settings import DatabaseSettings
from deployments import medai_verify
from deployments.inference.pseudonym import Pseudonyms
from registry.contract import ModelRef, Receipt
from registry.errors import AuditUnavailable
from storage.anchors import AnchorFile
from storage.checkpoints import Checkpointer
from storage.database import Database
from storage.ledger import Ledger
from storage.notes import VerifierKey
from storage.signing_keys import load_keys
from tests.host.conftest import Medai
from tests.storage.conftest import Site, TestClock, predicted

PATIENT = "DOE-4711-OAKLAND"
Work = Callable[[Site, Ledger, Checkpointer], Awaitable[None]]


class Hospital:
    """A home with a log: what its service did, and when."""

    def __init__(self, home: Path, url: str | None = None) -> None:
        self.home = home
        self.url = url or f"sqlite+aiosqlite:///{home / 'medai.db'}"
        self.anchors = home / "anchors.jsonl"
        self.keys = home / "keys" / "log"
        self.clock = TestClock()
        self._user_id, self._model = uuid7(), ModelRef(uuid7(), "cxr", "1.0.0", "ab" * 32)
        self._begun = False

    def serves(self, work: Work, *, stops: bool = True) -> None:
        """The service starts, does `work` and, unless it is killed, stops."""
        asyncio.run(self._serve(work, stops=stops))

    def month(self, number: int, *, stops: bool = True) -> None:
        """Some days of one month: a result of the patient, and another."""
        self.clock.time = datetime(2026, number, 5, 8, tzinfo=UTC)

        async def work(site: Site, ledger: Ledger, checkpointer: Checkpointer) -> None:
            of_patient = replace(predicted(), patient=self.pseudonym)
            ended = await ledger.append([site.inference(of_patient), site.inference()])
            assert all(isinstance(one, Receipt) for one in ended), ended
            await checkpointer.now()
            await ledger.append([site.event()])

        self.serves(work, stops=stops)

    @property
    def pseudonym(self) -> str:
        made = Pseudonyms.from_file(self.home / "keys" / "pseudonym.key", version=1).of(PATIENT)
        assert made is not None
        return made

    @property
    def vkey(self) -> str:
        """The public key of the present signing key."""
        origin = self.anchors.read_text().split('"note":"')[1].split("\\n")[0]
        return str(VerifierKey.of(origin, load_keys(self.keys, generate=False).private))

    async def _serve(self, work: Work, *, stops: bool) -> None:
        database = Database(DatabaseSettings(), self.url)
        key = load_keys(self.keys, generate=True).private
        signer = Checkpointer(
            database,
            key,
            AnchorFile(self.anchors),
            now=self.clock,
            report=lambda _: None,
            alarm=lambda error: pytest.fail(str(error)),
        )
        ledger = Ledger(database, software_version="1", now=self.clock)
        site = Site(database, self.clock)
        try:
            await signer.open()
            await ledger.open()
            site.user_id, site.model = self._user_id, self._model
            if not self._begun:
                await site.found()
                self._begun = True
            await work(site, ledger, signer)
            if stops:
                await ledger.close()
                await signer.close()
        finally:
            await database.close()


@pytest.fixture
def hospital(medai: Medai, tmp_path: Path) -> Hospital:
    """A home whose log has three months, the last of them the present one's first days."""
    home = tmp_path / "home"
    assert medai("db", "upgrade").code == 0
    (home / "keys").mkdir(mode=0o700)
    key = home / "keys" / "pseudonym.key"
    key.write_bytes(bytes(range(32)))
    key.chmod(0o600)
    return Hospital(home)


@pytest.fixture
def served(hospital: Hospital) -> Hospital:
    for number in (9, 10, 11):
        hospital.month(number)
    return hospital


def verified(*arguments: object) -> int:
    return medai_verify.main(list(map(str, arguments)))


def manifest(archive: Path, month: str) -> dict[str, object]:
    document: dict[str, object] = json.loads((archive / f"{month}.manifest.json").read_text())
    return document


class TestArchive:
    """Past months as files."""

    def test_past_months_and_the_rest_of_the_log_verify_one_after_the_other(
        self, medai: Medai, served: Hospital, tmp_path: Path
    ) -> None:
        archive, rest = tmp_path / "archive", tmp_path / "rest.jsonl"

        said = medai("audit", "archive", str(archive), "--before", "2026-11")

        assert said.code == 0, said.err
        segments = sorted(archive.glob("*.jsonl"))
        assert [file.stem for file in segments] == ["2026-09", "2026-10"]
        last = manifest(archive, "2026-10")["last"]
        assert medai("audit", "export", str(rest), "--after", str(last)).code == 0
        anchored = ("--anchors", served.anchors, "--vkey", served.vkey)
        assert verified("log", *segments, rest, *anchored) == medai_verify.OK
        assert verified("log", *segments, *anchored) == medai_verify.TRUNCATED
        assert verified("log", segments[0], rest, *anchored) == medai_verify.UNVERIFIABLE
        assert verified("log", rest, *anchored) == medai_verify.UNVERIFIABLE

    @pytest.mark.usefixtures("served")
    def test_every_entry_of_a_segment_is_signed_and_the_log_says_what_was_archived(
        self, medai: Medai, tmp_path: Path
    ) -> None:
        archive = tmp_path / "archive"
        medai("audit", "archive", str(archive), "--before", "2026-11")
        whole = tmp_path / "whole.jsonl"
        medai("audit", "export", str(whole))

        entries = [json.loads(line) for line in whole.read_text().splitlines()]
        archived = [
            entry["payload"]["context"]
            for entry in entries
            if entry.get("payload", {}).get("action") == "audit.archived"
        ]
        for told, month in zip(archived, ("2026-09", "2026-10"), strict=True):
            kept = manifest(archive, month)
            assert {name: kept[name] for name in told} == told
            assert str(kept["checkpoint"]).split("\n")[1] == str(kept["last"])
            held = (archive / f"{month}.jsonl").read_bytes()
            assert told["sha256"] == hashlib.sha256(held).hexdigest()
        assert medai("audit", "verify").code == 0

    @pytest.mark.usefixtures("served")
    def test_a_second_run_archives_only_what_is_new(self, medai: Medai, tmp_path: Path) -> None:
        archive = tmp_path / "archive"

        first = medai("audit", "archive", str(archive), "--before", "2026-10")
        second = medai("audit", "archive", str(archive), "--before", "2026-11")
        third = medai("audit", "archive", str(archive), "--before", "2026-11")

        assert "2026-09" in first.out
        assert "2026-10" in second.out
        assert "2026-09" not in second.out
        assert "nothing to archive" in third.out

    def test_a_log_that_was_changed_is_not_archived(
        self, medai: Medai, served: Hospital, tmp_path: Path
    ) -> None:
        with sqlite3.connect(served.home / "medai.db") as database:
            database.execute("UPDATE inference_results SET prediction = 'normal'")
        database.close()

        said = medai("audit", "archive", str(tmp_path / "archive"), "--before", "2026-11")

        assert said.code == 1
        assert "does not verify" in said.err
        assert "record" in said.err
        assert not list((tmp_path / "archive").glob("*.manifest.json"))

    @pytest.mark.parametrize("damage", ["changed", "missing", "manifest"])
    @pytest.mark.usefixtures("served")
    def test_a_damaged_archive_is_not_added_to(
        self, damage: str, medai: Medai, tmp_path: Path
    ) -> None:
        archive = tmp_path / "archive"
        medai("audit", "archive", str(archive), "--before", "2026-11")
        segment = archive / "2026-09.jsonl"
        text = segment.read_text()
        segment.unlink()
        if damage == "changed":
            segment.write_text(text.replace("An image", "No image", 1))
        if damage == "manifest":
            segment.write_text(text)
            (archive / "2026-09.manifest.json").unlink()

        said = medai("audit", "archive", str(archive), "--before", "2026-11")

        assert said.code == 1
        assert "the archive is damaged" in said.err
        assert str(tmp_path) not in said.err

    @pytest.mark.usefixtures("served")
    def test_an_interrupted_run_is_done_again(self, medai: Medai, tmp_path: Path) -> None:
        archive = tmp_path / "archive"
        archive.mkdir()
        (archive / "2026-09.part").write_text("half")
        (archive / "2026-09.jsonl").write_text("never recorded")

        assert medai("audit", "archive", str(archive), "--before", "2026-11").code == 0

        assert len(list(archive.glob("*.manifest.json"))) == 2
        assert not list(archive.glob("*.part"))

    @pytest.mark.usefixtures("served")
    def test_the_present_month_and_what_is_no_month_are_refused(
        self, medai: Medai, tmp_path: Path
    ) -> None:
        for month in ("2999-01", "2026-13", "now"):
            said = medai("audit", "archive", str(tmp_path / "a"), "--before", month)

            assert said.code == 1
            assert "month" in said.err


class TestRotation:
    """The log's key is replaced."""

    def test_the_first_key_still_verifies_everything(
        self, medai: Medai, served: Hospital, tmp_path: Path
    ) -> None:
        first = served.vkey

        said = medai("audit", "rotate-key")

        assert said.code == 0, said.err
        assert said.out.strip() == served.vkey != first
        served.month(12)  # the service starts with the new key
        export = tmp_path / "export.jsonl"
        medai("audit", "export", str(export))
        anchored = ("log", export, "--anchors", served.anchors)
        assert verified(*anchored, "--vkey", first) == medai_verify.OK
        assert verified(*anchored, "--vkey", first, "--vkey", served.vkey) == medai_verify.OK
        assert verified(*anchored, "--vkey", served.vkey) == medai_verify.UNVERIFIABLE
        assert medai("audit", "verify").code == 0

    def test_its_anchor_lines_are_given_to_the_collector(
        self, medai: Medai, served: Hospital
    ) -> None:
        before = served.anchors.read_text().splitlines()

        said = medai("audit", "rotate-key")

        assert said.err.splitlines() == served.anchors.read_text().splitlines()[len(before) :]

    def test_while_a_writer_runs_or_was_killed_it_must_be_said_that_it_stopped(
        self, medai: Medai, hospital: Hospital
    ) -> None:
        hospital.month(9, stops=False)
        first = hospital.vkey

        refused = medai("audit", "rotate-key")
        unchanged = hospital.vkey
        done = medai("audit", "rotate-key", "--stopped")

        assert refused.code == 1
        assert "--stopped" in refused.err
        assert unchanged == first
        assert done.code == 0, done.err
        assert hospital.vkey == done.out.strip() != first

    def test_a_key_of_ones_own_is_taken_and_the_directory_left_alone(
        self, medai: Medai, served: Hospital, tmp_path: Path
    ) -> None:
        before = sorted(served.keys.iterdir())
        new = tmp_path / "next.pem"
        new.write_bytes(
            Ed25519PrivateKey.generate().private_bytes(
                Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()
            )
        )
        open_to_all = medai("audit", "rotate-key", "--new-key", str(new))
        new.chmod(0o600)

        said = medai("audit", "rotate-key", "--new-key", str(new))

        assert open_to_all.code == 1
        assert said.code == 0, said.err
        assert sorted(served.keys.iterdir()) == before
        shutil.copy(new, served.keys / "next.pem")
        assert said.out.strip() == served.vkey
        served.month(12)

    def test_interrupted_after_its_entry_it_is_finished_by_giving_it_again(
        self, medai: Medai, served: Hospital
    ) -> None:
        assert medai("audit", "rotate-key").code == 0
        new = load_keys(served.keys, generate=False)
        (served.keys / f"{new.kid}.pem").rename(served.keys / f"{new.kid}.pending")
        with pytest.raises(AuditUnavailable):
            served.month(12)
        entries = json.loads(medai("audit", "verify", "--json").out)["entries"]

        assert medai("audit", "rotate-key").code == 0

        assert load_keys(served.keys, generate=False).kid == new.kid
        assert json.loads(medai("audit", "verify", "--json").out)["entries"] == entries
        served.month(12)

    @pytest.mark.usefixtures("served")
    def test_an_archive_goes_on_across_it(self, medai: Medai, tmp_path: Path) -> None:
        archive = tmp_path / "archive"
        medai("audit", "archive", str(archive), "--before", "2026-10")
        medai("audit", "rotate-key")

        assert medai("audit", "archive", str(archive), "--before", "2026-11").code == 0


class TestErasure:
    """A patient is forgotten."""

    @pytest.mark.parametrize("by", ["id", "pseudonym"])
    def test_a_patient_is_forgotten_and_all_still_verifies(
        self, by: str, medai: Medai, served: Hospital, tmp_path: Path
    ) -> None:
        typed = {"id": " doe-4711-oakland ", "pseudonym": served.pseudonym}[by]

        said = medai("audit", "erase-patient", text=f"{typed}\n")

        assert said.code == 0, said.err
        assert "oakland" not in (said.out + said.err).casefold()
        export = tmp_path / "export.jsonl"
        medai("audit", "export", str(export))
        assert "oakland" not in export.read_text().casefold()
        assert served.pseudonym not in export.read_text()
        assert medai("audit", "verify").code == 0
        anchored = ("--anchors", served.anchors, "--vkey", served.vkey)
        assert verified("log", export, *anchored) == medai_verify.OK

    @pytest.mark.usefixtures("served")
    def test_a_patient_nobody_knows_is_told_and_not_repeated(self, medai: Medai) -> None:
        unknown = medai("audit", "erase-patient", text="ROE-1\n")
        nobody = medai("audit", "erase-patient", text=" \n")

        assert unknown.code == nobody.code == 1
        assert "ROE" not in unknown.err
        assert "no patient was given" in nobody.err
