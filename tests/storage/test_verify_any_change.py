"""Any list of events is a whole log, and any single change to it is found."""

from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from hypothesis import given
from hypothesis import strategies as st

from registry.events import SYSTEM, AuditAction, AuditEvent
from storage.chain import Chain
from storage.entries import Draft, compose
from storage.findings import Findings
from storage.hashchain import Frontier, genesis_hash
from storage.verify_log import COLUMNS, LogWalk

texts = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=8)
# What these say is held against the log they are in: tests/storage/test_ledger.py, tests/audit.
ABOUT_THE_LOG = {AuditAction.CLOCK_STEP, AuditAction.LOG_RECOVERY}
events = st.lists(
    st.builds(
        AuditEvent,
        event_id=st.uuids(),
        action=st.sampled_from(AuditAction),
        description=texts,
        actor=st.just(SYSTEM),
        request_id=st.none() | texts,
        context=st.dictionaries(st.sampled_from(["a", "b"]), st.integers(-9, 9) | texts),
    ).filter(lambda event: event.action not in ABOUT_THE_LOG),
    min_size=1,
    max_size=5,
)


def log_of(listed: list[AuditEvent]) -> tuple[list[list[Any]], dict[str, Any]]:
    """The rows of a log, as the verifier reads them, and its state."""
    chain = Chain(genesis_hash("medaiflow/x"), Frontier(), epoch=1)
    genesis = AuditEvent(
        UUID(int=0), AuditAction.LOG_GENESIS, "", SYSTEM, context={"origin": "medaiflow/x"}
    )
    drafts = [Draft(event) for event in (genesis, *listed)]
    at = datetime(2026, 11, 24, tzinfo=UTC)
    rows = compose(chain, drafts, [[] for _ in drafts], at=at, software="1")
    shown = [
        [row[name] if name != "event_id" else row[name].hex for name in COLUMNS]
        for row in rows.entries
    ]
    state = {"size": chain.size, "tip_hash": chain.tip_hash, "frontier": chain.frontier_bytes()}
    return shown, state


def found_in(rows: list[list[Any]], state: dict[str, Any]) -> int:
    findings = Findings()
    walk = LogWalk("medaiflow/x", findings)
    walk.feed(rows)
    walk.finish(**state)
    return findings.count


@given(events, st.data())
def test_any_events_are_a_whole_log_and_any_single_change_is_found(
    listed: list[AuditEvent], data: st.DataObject
) -> None:
    rows, state = log_of(listed)
    untouched = found_in(rows, state)
    row = rows[data.draw(st.integers(0, len(rows) - 1))]
    place = data.draw(st.sampled_from([i for i, value in enumerate(row) if value]))
    row[place] = changed(row[place], data)

    touched = found_in(rows, state)

    assert untouched == 0
    assert touched > 0


def changed(value: Any, data: st.DataObject) -> Any:
    """`value` with one byte, or one unit, changed."""
    if isinstance(value, int):
        return value + data.draw(st.sampled_from([-1, 1]))
    if isinstance(value, bytes):
        place = data.draw(st.integers(0, len(value) - 1))
        flipped = value[place] ^ data.draw(st.integers(1, 255))
        return value[:place] + bytes([flipped]) + value[place + 1 :]
    place = data.draw(st.integers(0, len(value) - 1))
    other = data.draw(st.characters(codec="utf-8").filter(lambda c: c != value[place]))
    return value[:place] + other + value[place + 1 :]
