"""What a check says. A check that breaks has found something, too: it says `fail`."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from configs.settings import Settings
from registry.errors import MedAIError


class State(StrEnum):
    """How bad it is."""

    OK = "ok"
    WARN = "warn"  # it serves, but not as it should
    FAIL = "fail"  # it does not serve, or not safely


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the report.

    Attributes:
        check: What was looked at.
        state: How it stands.
        found: What was measured, and the limit where there is one. Never a secret or a patient's.
        advice: The one step that mends it, an imperative; "" where nothing is to be done.
    """

    check: str
    state: State
    found: str
    advice: str = ""


@dataclass(frozen=True, slots=True)
class Installation:
    """What is examined: the settings in force, and the topology file."""

    settings: Settings
    topology: Path


@dataclass(frozen=True, slots=True)
class Check:
    """One thing to look at.

    Attributes:
        name: As the report names it.
        look: Gives the findings. What it raises becomes a finding with the state `fail`.
    """

    name: str
    look: Callable[[Installation], Iterable[Finding]]

    def findings(self, installation: Installation) -> list[Finding]:
        """What the check says, whatever happens in it."""
        try:
            return list(self.look(installation))
        except MedAIError as error:
            return refusals(self.name, error)
        except OSError as error:
            reason = error.strerror or type(error).__name__
            return [Finding(self.name, State.FAIL, reason, "mend it, or run this as its owner")]
        except Exception as error:  # noqa: BLE001  # its text may hold a path, a URL or a secret
            found = f"the check itself broke: {type(error).__name__}"
            return [Finding(self.name, State.FAIL, found, "please report this as a defect")]


def refusals(check: str, error: MedAIError, state: State = State.FAIL) -> list[Finding]:
    """An error of ours: one finding for each broken rule."""
    detail = error.detail or error.title
    if not error.violations:
        return [Finding(check, state, detail)]
    findings = []
    for one in error.violations:
        measured = f" is {one.measured}" if one.measured else ""
        limit = f", allowed is {one.limit}" if one.limit else ""
        findings.append(Finding(check, state, f"{detail}: {one.rule}{measured}{limit}", one.advice))
    return findings


def graded(measured: float, *, warn: float, fail: float) -> State:
    """How a quantity stands of which more is worse."""
    if measured >= fail:
        return State.FAIL
    return State.WARN if measured >= warn else State.OK
