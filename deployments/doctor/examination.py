"""The table of all checks, and the report they make together."""

from collections import Counter
from pathlib import Path

from configs.settings import Settings
from deployments.doctor import configuration, database, files, host, tracing
from deployments.doctor.finding import Check, Finding, Installation, State, refusals
from registry.errors import InvalidConfiguration

CHECKS = (
    Check("settings", configuration.settings),
    Check("production rules", configuration.production),
    Check("topology", configuration.topology),
    Check("Ray's switches", configuration.switches),
    Check("signing keys", files.signing_keys),
    Check("pseudonym key", files.pseudonym_key),
    Check("file modes", files.records),
    database.CHECK,
    Check("traces", tracing.collector),
    Check("last run", host.leftovers),
    Check("ports", host.wanted_ports),
    Check("HAProxy's own ports", host.exposed_haproxy),
    Check("Ray's dashboard", host.dashboard),
    Check("Ray on this machine", host.rays),
    Check("disk", host.disk),
    Check("memory", host.memory),
    Check("processors", host.processors),
)


def examine(topology: Path) -> list[Finding]:
    """Every check's findings, in the order of the table; changes nothing.

    Where the settings cannot be read, only what is wrong with them: everything else depends on
    them.
    """
    try:
        installation = Installation(Settings.load(), topology)
    except InvalidConfiguration as error:
        findings = refusals("settings", error)
        said = "nothing else was looked at: the settings say where everything is"
        return [*findings, Finding("other checks", State.WARN, said, "mend the settings first")]
    return [finding for check in CHECKS for finding in check.findings(installation)]


def tally(findings: list[Finding]) -> dict[State, int]:
    """How many findings there are of each state."""
    counted = Counter(finding.state for finding in findings)
    return {state: counted[state] for state in State}
