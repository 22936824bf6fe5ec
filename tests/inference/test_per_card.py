"""What is worked out of a card once: which card it was is never mistaken."""

from deployments.inference.per_card import KEPT, PerCard
from registry.card import Range


def texts_and_calls() -> tuple[PerCard[Range, str], list[Range]]:
    calls: list[Range] = []

    def text(part: Range) -> str:
        calls.append(part)
        return str(part)

    return PerCard(text), calls


def test_it_is_worked_out_once() -> None:
    text, calls = texts_and_calls()
    part = Range(at_least=1)

    assert [text(part), text(part)] == ["at least 1"] * 2
    assert calls == [part]


def test_each_part_has_its_own_however_many_come_and_go() -> None:
    text = PerCard(str)

    for side in range(3 * KEPT):
        assert text(Range(at_least=side)) == f"at least {side}"


def test_only_so_many_are_kept() -> None:
    text, calls = texts_and_calls()
    parts = [Range(at_least=side) for side in range(KEPT + 1)]
    for part in parts:
        text(part)

    assert text(parts[-1]) == f"at least {KEPT}"
    assert len(calls) == KEPT + 1
    assert text(parts[0]) == "at least 0"
    assert len(calls) == KEPT + 2
