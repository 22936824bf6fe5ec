"""The commands for the audit log: verify, export, archive, its key, forgetting a patient."""

import os
import re
import sys
from functools import partial
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from uuid_utils.compat import uuid7

from configs.settings import Settings
from deployments import medai_verify
from deployments.commands import complete, console, opened, record, recording
from deployments.inference.pseudonym import Pseudonyms
from deployments.inference.recorder import SOFTWARE, utc_now
from registry.contract import Receipt
from registry.errors import AuditUnavailable, BadRequest, Conflict, MedAIError, Violation
from registry.events import CLI, AuditAction, AuditEvent, ContextValue, PatientErased
from storage.anchors import AnchorFile
from storage.archive import Archive, Manifest, Month
from storage.audit import AuditRepository
from storage.checkpoints import Checkpointer
from storage.database import Database
from storage.export import export_log
from storage.fhir import export_fhir
from storage.ledger import append_once
from storage.notes import VerifierKey
from storage.rotation import first_key, rotate, writer_runs
from storage.signing_keys import load_keys, pending_key, put_in_force, read_key

audit = typer.Typer(no_args_is_help=True, help="The audit log.")

_PSEUDONYM = re.compile(r"p\d+:[0-9a-f]{32}")


@audit.command("export")
def export(
    file: Annotated[Path, typer.Argument(help="Where to write it; must not exist.")],
    fhir: Annotated[
        bool, typer.Option("--fhir", help="FHIR AuditEvent resources instead (NDJSON).")
    ] = False,
    after: Annotated[int, typer.Option(min=0, help="Leave out the entries up to this number.")] = 0,
) -> None:
    """Write the log to a file that `medai-verify log FILE --vkey KEY` checks without this service.

    It holds what was recorded of every result: keep it as you keep the database.
    """
    settings = Settings.load()

    async def work() -> int:
        async with opened(settings) as database:
            pieces = (
                export_fhir(database, after=after)
                if fhir
                else export_log(database, after=after, software=SOFTWARE)
            )
            with open(file, "xb", opener=private) as stream:  # noqa: ASYNC230  # an opener; nothing else runs here
                async for piece in pieces:
                    stream.write(piece)
                return stream.tell()

    try:
        size = complete(work())
    except FileExistsError:
        raise BadRequest(f"{file.name} exists: name another file") from None
    except OSError as error:
        raise BadRequest(f"{file.name} cannot be written: {error.strerror}") from None
    console.print(f"wrote {size} bytes")


def private(path: str, flags: int) -> int:
    """Open a file that only its owner may read."""
    return os.open(path, flags, 0o600)


@audit.command("vkey")
def vkey() -> None:
    """Print the public key that verifies the log's checkpoints, as `--vkey` takes it."""
    settings = Settings.load()

    async def work() -> str:
        async with opened(settings) as database, database.reading() as session:
            return (await AuditRepository(session).head()).origin

    key = load_keys(settings.log_key_dir, generate=settings.auth.generate_keys).private
    print(VerifierKey.of(complete(work()), key))  # noqa: T201  # for a shell


@audit.command("rotate-key")
def rotate_key(
    new_key: Annotated[
        Path | None,
        typer.Option(
            help="The next key, Ed25519 in PEM form; else one is made in the key directory."
        ),
    ] = None,
    stopped: Annotated[
        bool, typer.Option("--stopped", help="The service was killed: no writer runs.")
    ] = False,
) -> None:
    """Replace the key that signs the log's checkpoints. The service must be stopped.

    The present key signs an entry that names the new one, so whoever has an earlier public key can
    go on verifying with it. Interrupted, the command can be given again. With --new-key, put that
    file into the place of the present key before the next start. The lines of the anchor file that
    it adds go to standard error, for the collector (SIEM) that has the others.
    """
    settings = Settings.load()
    keys = load_keys(settings.log_key_dir, generate=False)
    pending = new_key or pending_key(settings.log_key_dir, after=keys.kid)

    async def work() -> VerifierKey:
        async with opened(settings) as database:
            if not stopped and await writer_runs(database):
                raise Conflict(
                    "the service runs, or was killed",
                    (Violation("writer", advice="stop it; where it was killed, add --stopped"),),
                )
            signer = _signer(settings, database)
            new = read_key(pending)
            return await rotate(database, signer, new, partial(_record_rotated, database))

    public = complete(work())
    if new_key is None:
        put_in_force(pending)
    print(public)  # noqa: T201  # for a shell


@audit.command("archive")
def archive(
    directory: Annotated[Path, typer.Argument(help="Where the archive is, or begins.")],
    before: Annotated[
        str | None, typer.Option(help="Archive the months before this one, YYYY-MM; default: now.")
    ] = None,
) -> None:
    """Write the log's past months to files that `medai-verify log` checks without this service.

    Everything in the directory is verified first, from the log's first entry on, then each new
    month; only what verifies is recorded and kept. The rows stay in the database.
    """
    settings = Settings.load()
    present = Month.of(utc_now())
    limit = Month.parse(before) if before else present
    if limit > present:
        raise BadRequest(
            "a month that has not ended cannot be archived",
            (Violation("--before", str(limit), f"at most {present}"),),
        )
    files = Archive(directory)

    async def work() -> None:
        async with recording(settings) as database:
            keys = load_keys(settings.log_key_dir, generate=False)
            segments = _Segments(str(await first_key(database, keys.private)))
            files.check_files()
            for manifest in files.manifests:
                segments.check(files.file_of(manifest), manifest)
            months = await files.plan(database, limit)
            for month, last in months:
                manifest = await files.write(database, month, last, software=SOFTWARE)
                segments.check(files.file_of(manifest), manifest)
                await _record_archived(database, manifest)
                files.keep(manifest)
                console.print(f"archived {month}: entries {manifest.first} to {manifest.last}")
            if not months:
                console.print("nothing to archive")

    complete(work())


@audit.command("erase-patient")
def erase_patient() -> None:
    """Forget a patient: the id, or the pseudonym, is read from standard input.

    Results and log keep nothing that leads to the patient; they still verify. What was exported
    before holds no patient either; backups do, until they expire.
    """
    settings = Settings.load()
    typed = sys.stdin.readline().strip()
    pseudonym: str | None = typed
    if not _PSEUDONYM.fullmatch(typed):
        pseudonym = Pseudonyms.from_file(
            settings.pseudonym_key_file, version=settings.privacy.pseudonym_key_version
        ).of(typed)
    if pseudonym is None:
        raise BadRequest("no patient was given: write the id to standard input")
    event = AuditEvent(
        uuid7(),
        AuditAction.PATIENT_ERASED,
        "A patient was erased.",
        CLI,
        changes=(PatientErased(pseudonym),),
    )
    complete(record(settings, [event]))
    console.print("erased")


class _Segments:
    """Verifies the segments of an archive, each after the one before, as an auditor would."""

    def __init__(self, vkey: str) -> None:
        self._check = medai_verify.LogCheck([medai_verify.Key(vkey)])

    def check(self, file: Path, manifest: Manifest) -> None:
        """Raises `AuditUnavailable` where the segment does not verify."""
        check = self._check
        try:
            check.known = check.seq
            with file.open(encoding="utf-8", newline="\n") as lines:
                check.export(lines)
            check.expect_no_record()
        except (medai_verify.Unverifiable, OSError) as error:
            raise _unverified(
                manifest, str(error) if not isinstance(error, OSError) else ""
            ) from None
        stands = (check.origin, check.seq, check.tip.hex(), check.signed["checkpoint"])
        if check.findings:
            raise _unverified(manifest, medai_verify.shown(check.findings[0]))
        if check.doubts or stands != (
            manifest.origin,
            manifest.last,
            manifest.tip,
            manifest.last,
        ):
            raise _unverified(manifest, "it does not end with the head that was signed")


def _unverified(manifest: Manifest, why: str) -> AuditUnavailable:
    return AuditUnavailable(
        f"the segment {manifest.month} does not verify",
        (Violation("archive", why, advice="run `medai audit verify`"),),
    )


def _signer(settings: Settings, database: Database) -> Checkpointer:
    """A checkpointer with the present key, for a moment in which no writer runs."""
    failures = Console(stderr=True, highlight=False, soft_wrap=True)

    def report(line: str) -> None:
        sys.stderr.write(f"{line}\n")

    return Checkpointer(
        database,
        load_keys(settings.log_key_dir, generate=False).private,
        AnchorFile(settings.anchor_file),
        now=utc_now,
        report=report,
        alarm=lambda error: failures.print(f"medai: {error}"),
    )


async def _record_rotated(database: Database, context: dict[str, ContextValue]) -> Receipt:
    action = AuditAction.KEY_ROTATED
    return await _recorded(
        database, AuditEvent(uuid7(), action, "The log's key changed.", CLI, context=context)
    )


async def _record_archived(database: Database, manifest: Manifest) -> None:
    context: dict[str, ContextValue] = {
        "month": manifest.month,
        "first": manifest.first,
        "last": manifest.last,
        "sha256": manifest.sha256,
        "size_bytes": manifest.size_bytes,
    }
    action = AuditAction.AUDIT_ARCHIVED
    await _recorded(
        database, AuditEvent(uuid7(), action, "A month was archived.", CLI, context=context)
    )


async def _recorded(database: Database, event: AuditEvent) -> Receipt:
    [ended] = await append_once(database, [event], software_version=SOFTWARE, now=utc_now)
    if isinstance(ended, MedAIError):
        raise ended
    return ended
