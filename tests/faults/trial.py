"""What one kind of fault did, counted over every time it was made to happen."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from tests.faults.client_ledger import Balance

AUDIT_S = 2.0  # within which a caller hears that the database is away
BACK_S = 10.0  # within which the first answer comes once it is back


@dataclass
class Trial:
    """One row of the table.

    Attributes:
        fault: What was done.
        where: To what, and on which database.
        times: How often.
        kills: How many processes were ended by SIGKILL.
        figures: What was measured, by name.
        failures: What was not as it must be.
    """

    fault: str
    where: str
    times: int = 0
    kills: int = 0
    acked: int = 0
    entries: int = 0
    lost: int = 0
    gaps: int = 0
    forks: int = 0
    duplicates: int = 0
    unaudited: int = 0
    figures: dict[str, float | int | str] = field(default_factory=dict)
    failures: list[str] = field(default_factory=list)

    def add(self, balance: Balance, *, before: Balance | None = None) -> None:
        """Count a balance; `before` is that of the same records at the last time."""
        self.acked += balance.acked - (before.acked if before else 0)
        self.entries += balance.entries - (before.entries if before else 0)
        for name in ("lost", "gaps", "forks", "duplicates", "unaudited"):
            setattr(self, name, getattr(self, name) + getattr(balance, name))
        self.failures += balance.problems
        if not balance.whole and not balance.problems:
            self.failures.append(f"the records are not whole: {balance}")

    def expect(self, holds: bool, otherwise: str) -> None:
        """Note a failure unless it holds."""
        if not holds:
            self.failures.append(otherwise)

    def measure(self, name: str, values: Sequence[float]) -> None:
        """Keep the largest of some measurements, with those of earlier times."""
        if values:
            worst = max(values)
            kept = self.figures.get(name)
            known = kept if isinstance(kept, (int, float)) else 0.0
            self.figures[name] = round(max(worst, known), 3)

    @property
    def passed(self) -> bool:
        """Whether all was as it must be."""
        return not self.failures

    def document(self) -> dict[str, Any]:
        """The row as JSON."""
        return asdict(self) | {"passed": self.passed}
