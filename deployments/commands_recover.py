"""`medai audit recover`: going on after a restore where the newer database is lost for ever.

Two administrators decide, each by a password: one who asks and another who approves. What is lost
is shown to them first. The service may stand by read-only meanwhile; it opens by itself.
"""

import json
import sys
from typing import Annotated

import typer
from rich.console import Console

from configs.settings import Settings
from deployments.commands import complete, console, opened
from deployments.commands_identity import asked_password, identified
from deployments.inference.recorder import SOFTWARE, utc_now
from registry.errors import AuditUnavailable, Forbidden, Violation
from storage.anchors import AnchorFile
from storage.recovery import Decision, Gap, assess
from storage.recovery import recover as give_up
from storage.signing_keys import load_keys
from storage.verify import verify


def recover(
    reason: Annotated[
        str,
        typer.Option(
            help="Why the newer database cannot come back: one line, 10 to 200 characters, nothing"
            " of a patient. It is in the log for ever."
        ),
    ],
    user: Annotated[str, typer.Option("--as", help="The administrator who asks for it.")],
    approver: Annotated[
        str, typer.Option("--approve-as", help="Another administrator, who approves.")
    ],
    password_stdin: Annotated[
        bool,
        typer.Option(
            "--password-stdin",
            help="Read both passwords from standard input, a line each, that of --as first.",
        ),
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask whether to go on.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Answer as JSON.")] = False,
) -> None:
    """Go on with a log whose newest entries are lost for ever, after an old backup was restored.

    Only where the database is an older copy of the log that was anchored. The entries that are
    missing are given up in an entry of their own, `log.recovery`; every verification names the gap
    from then on. Where the newer database may still come back, restore that instead. The line that
    is added to the anchor file also goes to standard error, for the collector (SIEM).
    """
    if user.strip().lower() == approver.strip().lower():
        raise Forbidden("two different administrators must give lost entries up")
    settings = Settings.load()
    key = load_keys(settings.log_key_dir, generate=False).private
    anchors = AnchorFile(settings.anchor_file)

    async def look() -> Gap:
        async with opened(settings) as database:
            gap = await assess(database, anchors, key)
            found = await verify(database, anchors)
        if not found.intact:
            raise AuditUnavailable(
                "what the database holds does not verify, and is not recovered",
                (Violation("findings", str(found.problem_count), "0", "run `medai audit verify`"),),
            )
        return gap

    async def act(gap: Gap, passwords: tuple[str | None, str | None]) -> tuple[int, Decision]:
        async with opened(settings) as database:
            asks = await identified(settings, database, user, passwords[0])
            approves = await identified(settings, database, approver, passwords[1])
            decision = Decision(reason, asks.actor, asks.name, approves.name)
            seq = await give_up(
                database,
                anchors,
                key,
                gap,
                decision,
                software_version=SOFTWARE,
                now=utc_now,
                report=_report,
            )
            return seq, decision

    gap = complete(look())
    _show(gap)
    if not yes:
        typer.confirm("give these entries up for ever?", abort=True, err=True)
    passwords = (
        asked_password(user, from_stdin=password_stdin),
        asked_password(approver, from_stdin=password_stdin),
    )
    seq, decision = complete(act(gap, passwords))
    if as_json:
        print(json.dumps(_document(gap, seq, decision)))  # noqa: T201  # a program reads it
    else:
        console.print(
            f"the log goes on after entry {gap.first - 1}; entry {seq} says that entries"
            f" {gap.first}-{gap.lost_size} are lost"
        )


def _report(line: str) -> None:
    sys.stderr.write(f"{line}\n")


def _show(gap: Gap) -> None:
    """What is lost, to the people who decide."""
    said = Console(stderr=True, highlight=False, soft_wrap=True)
    said.print(f"log         {gap.head.origin}")
    said.print(f"last anchor {gap.lost_size} entries, signed {gap.signed_at or 'at no known time'}")
    said.print(f"database    ends at entry {gap.first - 1}; its last entry is of {gap.last}")
    said.print(
        f"lost        entries {gap.first}-{gap.lost_size}, and all that was recorded after them",
        style="yellow",
    )
    if gap.begun is not None:
        one, other = gap.begun.accepted_by
        said.print(
            f"entry {gap.begun.seq} gives them up already, by {one} and {other} on"
            f" {gap.begun.recorded_at}, and was not anchored: this finishes it"
        )


def _document(gap: Gap, seq: int, decision: Decision) -> dict[str, object]:
    accepted_by = [decision.requested_by, decision.approved_by]
    return {
        "seq": seq,
        "first_lost": gap.first,
        "last_lost": gap.lost_size,
        "anchored_at": gap.signed_at or None,
        "accepted_by": list(gap.begun.accepted_by) if gap.begun is not None else accepted_by,
    }
