"""The judge's books of a story: of each meter's usage, how much is on invoices, and why the rest is not."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from decimal import Decimal
from typing import Any

from tests.emulator.histories.expecting import Subscriber
from tests.emulator.histories.fates import Fate, fate
from tests.emulator.histories.story import ONE, Meter, Send, Story, Void, spoken

BILLED = "billed"
REASONS = {
    Fate.BILLED: BILLED,
    Fate.DRAFTED: BILLED,
    Fate.RUNNING: "running",
    Fate.FREE: "trial",
    Fate.LATE: "late",
    Fate.LOST: "canceled",
    Fate.AFTER: "no subscription",
}


def expected(told: Story, who: int) -> dict[str, Counter[str]]:
    """Return usage in 10^-12 by meter and what became of it.

    Only of meters whose usage can be added up and which one item alone bills: what two items do with an event is two
    fates, of which the books tell one. The books do not follow a settling lag, and they take the names of metered items
    on a classic first invoice for their bills.
    """
    life = Subscriber(told, who)
    found: dict[str, Counter[str]] = {}
    if told.lag or life.begun.classic:
        return {}
    for meter in told.meters:
        items = [i for i, price in enumerate(life.begun.prices) if price.meter == meter]
        if len(items) == 1 and meter.formula != "last":
            found[meter.name] = _usage(life, items[0], meter, told.end)
    return found


def _usage(life: Subscriber, item: int, meter: Meter, now: int) -> Counter[str]:
    usage: Counter[str] = Counter()
    taken_back = {step.name for _, step in life.steps if isinstance(step, Void)}
    for place, step in life.steps:
        if not isinstance(step, Send) or step.meter != meter:
            continue
        became = fate(life, item, place, step, now)
        if step.name in taken_back and became is not Fate.BILLED:
            continue
        usage[_reason(life, became, step, now)] += ONE if meter.formula == "count" else step.value
    return usage


def _reason(life: Subscriber, became: Fate, sent: Send, now: int) -> str:
    if became is Fate.BEFORE:
        if sent.timestamp < life.begun.start or life.trial_end is not None:
            return "no subscription"
        return "not invoiced" if life.ends_at > now else "canceled"
    return REASONS[became]


def differ(told: Story, who: int, books: dict[str, Any], meters: dict[str, str]) -> list[str]:
    """Return a sentence for each meter of which the emulator's books say something else; `meters` are the ids by name."""
    seen: dict[str, Counter[str]] = {meter_id: Counter() for meter_id in meters.values()}
    for line in books["billed"]:
        seen[line["meter"]][BILLED] += _whole(line["usage"])
    for line in books["unbilled"]:
        seen[line["meter"]][line["reason"]] += _whole(line["usage"])
    return [
        f"the books of {name}: expected {_spoken(usage)}, got {_spoken(seen[meters[name]])}"
        for name, usage in expected(told, who).items()
        if _spoken(usage) != _spoken(seen[meters[name]])
    ]


def _whole(text: str) -> int:
    return int(Decimal(text) * ONE)


def _spoken(usage: Mapping[str, int]) -> dict[str, str]:
    return {reason: spoken(value) for reason, value in sorted(usage.items()) if value}
