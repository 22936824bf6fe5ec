"""`medai models shadow`: a challenger beside the version that answers, and how it compares."""

from collections.abc import Awaitable, Callable
from typing import Annotated

import typer
from rich.table import Table

from configs.settings import Settings
from deployments.commands import append, complete, console, opened, recording
from deployments.commands_identity import operator
from deployments.inference.model_life import By
from deployments.inference.shadow_life import DEFAULT_SHARE, ShadowLife, ShadowReport
from registry.events import AuditEvent


def shadow(
    name: Annotated[str, typer.Argument(help="The model's name.")],
    version: Annotated[
        str | None, typer.Argument(help="The challenger's version; left out: see --report, --off.")
    ] = None,
    share: Annotated[
        float, typer.Option(help="Of the active version's calls that it scores too, up to 1.")
    ] = DEFAULT_SHARE,
    off: Annotated[bool, typer.Option("--off", help="Compare no longer.")] = False,
    report: Annotated[bool, typer.Option("--report", help="Show the newest comparison.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Show it as JSON.")] = False,
) -> None:
    """Have an approved version score what the active one answers, unheard, and compare them."""
    if (version is not None) + off + report != 1:
        raise typer.BadParameter("give one of VERSION, --off and --report")
    if version is not None:
        found = complete(_act(lambda life, by: life.start(name, version, share, by)))
    elif off:
        found = complete(_act(lambda life, by: life.end(name, by)))
    else:
        found = complete(_act(lambda life, _: life.report(name), records=False))
    if as_json:
        print(found.model_dump_json(indent=2))  # noqa: T201  # for programs
    elif version is not None:
        console.print(
            f"{name} {found.challenger} scores {found.share:.0%} of what {found.answering} "
            f"answers, unheard; see: medai models shadow {name} --report"
        )
    else:
        _show(found)


def _show(found: ShadowReport) -> None:
    until = "now" if found.ended_at is None else f"{found.ended_at:%Y-%m-%d %H:%M} UTC"
    console.print(
        f"{found.name}: {found.challenger} in the shadow of {found.answering}, "
        f"{found.share:.0%} of the calls, {found.started_at:%Y-%m-%d %H:%M} UTC to {until}"
    )
    console.print(
        f"compared {found.compared}, dropped {found.dropped}, failed {found.failed} images"
    )
    if found.agreement is not None:
        rate = found.agreement
        console.print(
            f"agreed in {rate.rate:.1%} (95 % interval {rate.low:.1%} to {rate.high:.1%})"
        )
    if found.latency_ms is not None:
        console.print(f"latency p50 {found.latency_ms.p50:.1f}, p95 {found.latency_ms.p95:.1f} ms")
    for one in found.replicas:
        console.print(f"replica {one.replica}: {one.state} {one.reason or ''}".rstrip())
    if found.decisions:
        table = Table("answered", "challenger", "images")
        for pair in found.decisions:
            table.add_row(pair.answered, pair.challenger, str(pair.count))
        console.print(table)


async def _act(
    act: Callable[[ShadowLife, By], Awaitable[ShadowReport]], *, records: bool = True
) -> ShadowReport:
    """Do one act against the settings' database, as the operator."""
    settings = Settings.load()
    async with recording(settings) if records else opened(settings) as database:

        async def record(event: AuditEvent) -> None:
            await append(database, event)

        return await act(ShadowLife(database, record), operator())
