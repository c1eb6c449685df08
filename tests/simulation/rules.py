"""The steps a simulation is made of. Hypothesis draws them to shrink, a seed to go far.

A step is a rule's name and whole numbers or words, so that a list of them is all a replay needs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from billing.models import Customer
from tests.simulation.ledger import HOUR
from tests.simulation.world import (
    KNOWN,
    MOMENTS,
    SUBJECTS,
    UNKNOWN,
    World,
    accepted_submissions,
    event,
    interruptible_work,
)
from tests.support.interruptions import Moment
from usage.enums import Wire

DAY = 24 * HOUR
FAULTS = (
    "answer_lost",
    "answer_lost",
    "reset_mid_body",
    "500_after",
    "500_before",
    "503",
    "429",
    "409",
    "drop_before",
    "reset_mid_body",
    "session_expired",
    "reject_in_stream",
)
WORK = ("flush", "deliver", "deliver", "deliver", "doubtful", "recent", "webhooks")
OTHERS = ("flush", "deliver", "doubtful", "wake", "report", "void")
AGES = (0, 0, 60, HOUR, HOUR, 2 * HOUR, 3 * HOUR, 26 * HOUR, 6 * DAY, 34 * DAY - HOUR)
SPANS = (1, 30, 61, 600, 600, HOUR, HOUR, 5 * HOUR, 12 * HOUR, 22 * HOUR, 25 * HOUR, 37 * HOUR, 4 * DAY, 40 * DAY)  # fmt: skip
"""Both sides of every limit: lease, half hour, hour, 23 h, 24 h, 36 h, 34.5 days."""
PAUSES = (0, 61, 600, HOUR, 3 * HOUR)
"""Before a pass, so that what was put off is due again."""
LAGS = (0, 60, HOUR, 20 * HOUR, 35 * HOUR)


@dataclass(frozen=True)
class Rule:
    """What happens, what it draws (a range of whole numbers, or words), and how often it comes."""

    act: Callable[..., None]
    weight: int
    draws: Mapping[str, range | tuple[Any, ...]]


RULES: dict[str, Rule] = {}


def rule(weight: int, **draws: range | tuple[Any, ...]) -> Callable[..., Callable[..., None]]:
    def noted(act: Callable[..., None]) -> Callable[..., None]:
        RULES[act.__name__] = Rule(act, weight, draws)
        return act

    return noted


@rule(
    18,
    subject=(*KNOWN, *KNOWN, UNKNOWN),
    count=range(1, 6),
    age=AGES,
    apart=(1, 600, HOUR),
    tokens=range(1, 10),
    seats=range(4),
    dies=("", "", "", *MOMENTS),
)
def ingest(world: World, *, subject: str, count: int, age: int, apart: int, tokens: int, seats: int, dies: str) -> None:  # fmt: skip
    reports = [
        event(
            f"e{world.counts['reported'] + number}",
            subject,
            at=world.now - timedelta(seconds=age + apart * number),
            tokens=tokens + number,
            seats=seats and seats + number,
        )
        for number in range(count)
    ]
    world.counts["reported"] += count
    if dies:
        world.meddler.kill(0, Moment(dies))
        world.survive(lambda: world.report(*reports))
    # Its caller heard nothing and asks again, or it is the first time.
    world.report(*reports)


@rule(3, which=range(40), count=range(1, 4))
def duplicate(world: World, *, which: int, count: int) -> None:
    known = list(world.ledger.events.values())
    if known:
        world.report(*(known[(which + number) % len(known)] for number in range(count)))


@rule(1, which=range(40))
def conflict(world: World, *, which: int) -> None:
    known = list(world.ledger.events.values())
    if known:
        world.conflict(known[which % len(known)])


@rule(3)
def create_customer(world: World) -> None:
    world.create_customer(UNKNOWN)


@rule(6)
def flush(world: World) -> None:
    world.survive(world.flush)


@rule(
    26,
    flushes=(True, True, False),
    pause=PAUSES,
    fault=("", *FAULTS),
    path=("/v*/billing/meter_event*", "/v*/billing/meter_event*", "*"),
    count=range(1, 7),
    skip=range(3),
    stream=(False, False, True),
)
def deliver(world: World, *, flushes: bool, pause: int, fault: str, path: str, count: int, skip: int, stream: bool) -> None:  # fmt: skip
    world.move(pause)
    if flushes:
        world.survive(world.flush)
    world.use_stream(on=stream)
    with world.breaking(fault, count=count, skip=skip, path=path):
        world.survive(world.deliver)
    world.move(5)


@rule(14, work=WORK, pause=PAUSES, position=range(14), moment=MOMENTS, stream=(False, True))
def crash(world: World, *, work: str, pause: int, position: int, moment: str, stream: bool) -> None:
    world.move(pause)
    world.use_stream(on=stream)
    world.meddler.kill(position, Moment(moment))
    world.survive(interruptible_work(world)[work])


@rule(8, work=WORK, other=OTHERS, position=range(14), fault=("", "answer_lost", "drop_before"))
def interleave(world: World, *, work: str, other: str, position: int, fault: str) -> None:
    """Two workers at once: `other` has its turn between two steps of `work`."""
    known = sorted(world.ledger.events)
    others: dict[str, Callable[[], object]] = {
        **interruptible_work(world),
        "wake": world.wake,
        "report": lambda: ingest(
            world, subject="acme", count=2, age=60, apart=1, tokens=3, seats=0, dies=""
        ),
        "void": lambda: world.void(known[position % len(known)]) if known else None,
    }
    world.meddler.interleave(position, others[other])
    with world.breaking(fault, count=2):
        world.survive(interruptible_work(world)[work])
    world.counts["interleavings"] += 1


@rule(6, wire=("", "v1", "stream"), over=("v1", "stream"), called=(False, True), fault=("", "answer_lost"))  # fmt: skip
def stall(world: World, *, wire: str, over: str, called: bool, fault: str) -> None:
    with world.breaking(fault, count=1):
        world.stall(stored_wire=wire, wire=Wire(wire or over), is_called=called)


@rule(6)
def wake(world: World) -> None:
    world.wake()


@rule(10, seconds=SPANS)
def wait(world: World, *, seconds: int) -> None:
    world.move(seconds)


@rule(4, fault=("", "webhook_duplicate", "webhook_shuffle", "webhook_drop", "webhook_forge"))
def webhooks(world: World, *, fault: str) -> None:
    world.move(11)
    with world.breaking(fault, count=2):
        world.take_webhooks()
    world.survive(world.handle_webhooks)


@rule(
    10,
    kind=("doubtful", "doubtful", "recent"),
    pause=(1, HOUR, 13 * HOUR, 37 * HOUR),
    fault=("", "", "", "503", "drop_before"),
)
def reconcile(world: World, *, kind: str, pause: int, fault: str) -> None:
    world.move(pause)
    with world.breaking(fault, count=1):
        world.survive(interruptible_work(world)[kind])
    world.move(1)


@rule(2, seconds=LAGS)
def lag(world: World, *, seconds: int) -> None:
    world.emulator.settings.change(settle_lag_seconds=float(seconds))


@rule(1, subject=SUBJECTS)
def remap(world: World, *, subject: str) -> None:
    world.remap(subject)


@rule(2, slug=("tokens", "calls", "seats"), on=(True, True, True, False))
def switch_meter(world: World, *, slug: str, on: bool) -> None:
    world.switch_meter(slug, on=on)


@rule(3, which=range(40))
def void(world: World, *, which: int) -> None:
    known = sorted(world.ledger.stored())
    if known:
        world.void(known[which % len(known)])


@rule(3, which=range(40))
def cancel(world: World, *, which: int) -> None:
    taken = list(accepted_submissions())
    if taken:
        world.cancel(taken[which % len(taken)])


@rule(2, subject=SUBJECTS, hours=range(-60, 61, 5), seconds=(0, 1, 1_799, 3_599))
def learn_boundary(world: World, *, subject: str, hours: int, seconds: int) -> None:
    hour = world.now.replace(minute=0, second=0, microsecond=0)
    world.learn_boundary(subject, hour + timedelta(hours=hours, seconds=seconds))


@rule(1, subject=SUBJECTS)
def finalize(world: World, *, subject: str) -> None:
    if Customer.objects.filter(external_id=subject).exists():
        world.finalize(subject)


@rule(2)
def take_snapshot(world: World) -> None:
    world.take_snapshot()


@rule(1, seconds=(0, 600, 20 * HOUR, 40 * HOUR))
def restore(world: World, *, seconds: int) -> None:
    world.restore(waits_seconds=seconds)
