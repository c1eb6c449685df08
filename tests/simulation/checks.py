"""What is asked after every step, and what must be true when everything has come to rest."""

from __future__ import annotations

from collections import Counter
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

from django.db import connection

from billing.models import Case, Customer, Meter, PeriodBoundary
from tests.simulation.ledger import ADDITIVE, HOUR, Cell
from tests.simulation.world import METERS, World
from usage import fence, invariants, queries
from usage.invariants.invariant import Violation
from usage.models import HeldUsage, IngestBatch, Submission, SubmissionState, UsageEvent

EVERY = 6
"""So many steps apart all invariants are asked, and the books; the judge is asked at each."""
BY_REAL_CLOCK = {"I18b"}
"""It allows fifteen minutes by the database's clock, which nobody moves. `at_rest` asks instead."""
FINAL = ("settled", "superseded", "written_off")
FLAGGED = ("unproven", "rejected", "expired")
"""States a submission may be left in, each with a case."""
WAITING = ("ready", "retry", "in_doubt", "sending")
REST_SPANS = (300, 2 * HOUR, 24 * HOUR, 37 * HOUR, 60, 2 * HOUR, *[37 * HOUR] * 10)
"""Back-offs end, doubts do, absence is proven, what stands in is sent, settled; and once more."""


def after_step(world: World, *, step: int) -> None:
    """Object to what no moment excuses: too much at Stripe, a breach of its rules, an event lost."""
    for cell in sorted(world.judge.look()):
        taken, most = world.judge.taken[cell], world.ledger.most[cell]
        assert taken <= most, f"over-billed: {cell} {taken} at Stripe of {most} ever reported"
    breaches = world.emulator.world.violations
    assert not breaches.counts, f"Stripe saw {dict(breaches.counts)}: {breaches.kept[:2]}"
    with connection.cursor() as cursor:
        # What a commit would check.
        cursor.execute("SET CONSTRAINTS ALL IMMEDIATE; SET CONSTRAINTS ALL DEFERRED")
        cursor.execute(
            "SELECT count(*), count(DISTINCT event_id) FROM usage_usageevent WHERE source_id = %s",
            [world.source_id],
        )
        counted = cursor.fetchone()
    expected = len(world.ledger.stored())
    assert counted == (expected, expected), f"{counted} stored, {expected} acknowledged"
    if step % EVERY == 0:
        whole(world)


def whole(world: World) -> None:
    """Ask all invariants and the books."""
    found = [each for each in invariants.violations() if each.invariant.id not in BY_REAL_CLOCK]
    assert not found, "\n".join(_told(each) for each in found)
    for meter in queries.books().meters:
        assert meter.is_conserved, f"the books of {meter} do not add up"
    stored = UsageEvent.objects.filter(source_id=world.source_id).values_list("event_id", flat=True)
    assert set(stored) == world.ledger.stored()


def _told(violation: Violation) -> str:
    return f"{violation.invariant.id} {violation.invariant.statement} {violation.sample[:3]}"


def run_to_rest(world: World) -> None:
    """End all trouble, let the schedule run until nothing moves, and settle the accounts."""
    world.stalled.clear()
    world.emulator.faults.clear()
    world.emulator.settings.change(settle_lag_seconds=0.0)
    for slug in METERS:
        world.switch_meter(slug, on=True)
    unchanged = 0
    before: Any = None
    for number, span in enumerate(REST_SPANS):
        world.tick(span)
        if number >= 1:
            world.move(1)
            world.reconcile_recent()
        after_step(world, step=1)
        standing = _standing(world)
        unchanged = unchanged + 1 if standing == before else 0
        before = standing
        if number >= 1 and (unchanged >= 3 or not standing[1]) and not _awaits_night(world):
            break
    world.move(1)
    world.reconcile_recent()
    world.flush()
    whole(world)
    at_rest(world)


def _awaits_night(world: World) -> bool:
    """Whether the night that compares every pair after a restore cannot have been yet."""
    loss = fence.loss()
    return loss is not None and world.now < loss.countable_from


def _standing(world: World) -> tuple[Any, bool]:
    rows = sorted(SubmissionState.objects.values_list("pk", "state", "attempt_count"))
    unflushed = IngestBatch.objects.filter(run=None).count()
    held = HeldUsage.objects.filter(released_at=None).count()
    still = (*FINAL, "rejected", "expired")
    moving = bool(unflushed) or any(state not in still for _, state, _ in rows)
    return (rows, unflushed, held), moving


def at_rest(world: World) -> None:
    """Object to a unit that is neither at Stripe nor in a named state (I2, I10)."""
    world.judge.look()
    assert not IngestBatch.objects.filter(run=None).exists(), "events were never flushed"
    flagged = _flagged(world)
    recorded, loose = world.ledger.recorded(), world.ledger.loose()
    for cell in sorted(recorded.keys() | world.judge.taken.keys() | flagged.keys()):
        units = flagged.get(cell, [])
        lost = sum((each for each in units if each > 0), Decimal(0))
        extra = -sum((each for each in units if each < 0), Decimal(0))
        taken = world.judge.taken[cell]
        if taken < recorded[cell] - lost:
            # What takes usage back may be all that Stripe has of an hour and a restore forgot. With
            # nothing of ours in that hour there is nothing to settle it by; a person is told.
            assert not _is_ours(cell), (
                f"lost unflagged: {cell} {taken} at Stripe of {recorded[cell]}, flagged {units}"
            )
            assert world.has_restored, f"lost without a restore: {cell} {taken} at Stripe"
            assert _is_told(cell), f"lost untold: {cell} {taken} at Stripe of {recorded[cell]}"
            world.counts["deficits told"] += 1
        upper = world.ledger.most[cell] if cell in loose else recorded[cell] + extra
        if taken > upper:
            # After a restore what Stripe has beyond us can only be told, never taken back alone.
            assert _is_told(cell), (
                f"over-billed at rest: {cell} {taken} at Stripe of {recorded[cell]},"
                f" flagged {units}"
            )
            world.counts["excesses told"] += 1
    _running_at_rest(world)


def _is_ours(cell: Cell) -> bool:
    subject, slug, hour = cell
    return Submission.objects.filter(
        customer__external_id=subject,
        meter__slug=slug,
        window_start=datetime.fromtimestamp(hour, UTC),
    ).exists()


def _is_told(cell: Cell) -> bool:
    subject, slug, hour = cell
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT count(*) FROM reconciliation_discrepancy found"
            " JOIN billing_customer customer ON customer.id = found.customer_id"
            " JOIN billing_meter meter ON meter.id = found.meter_id"
            " WHERE customer.external_id = %s AND meter.slug = %s AND found.resolved_at IS NULL"
            " AND extract(epoch FROM found.window_start) = %s",
            [subject, slug, hour],
        )
        return bool(cursor.fetchone()[0])


def _flagged(world: World) -> dict[Cell, list[Decimal]]:
    """Return the units that stand in a named state, each with its case; object to any without."""
    flagged: dict[Cell, list[Decimal]] = {}
    cases = set(Case.objects.filter(closed_at=None).values_list("kind", "reference"))
    kinds = {kind for kind, _ in cases}
    states: Counter[str] = Counter()
    rows = SubmissionState.objects.exclude(state__in=FINAL).select_related(
        "submission", "customer", "meter"
    )
    for row in rows:
        submission = row.submission
        states[row.state] += 1
        if row.state == "accepted":
            continue
        if row.state in FLAGGED:
            named = any(reference == submission.identifier for _, reference in cases)
            hour = f"{row.customer.external_id} / {row.meter.slug} / "
            hour += f"{submission.window_start:%Y-%m-%d %H:00} UTC"
            named = named or any(reference == hour for _, reference in cases)
            assert named, f"{submission.identifier} is {row.state} without a case: {row.reason}"
        else:
            is_waiting = row.state in WAITING and (
                row.meter.blocked
                or SubmissionState.objects.filter(
                    customer=row.customer,
                    meter=row.meter,
                    state="unproven",
                    submission__window_start=submission.window_start,
                ).exists()
            )
            assert is_waiting, (
                f"{submission.identifier} stands {row.state} for no reason: {row.reason!r},"
                f" attempts {row.attempt_count}, due {row.next_action_at}, now {world.now}"
            )
        if row.meter.slug in ADDITIVE:
            cell = (
                row.customer.external_id,
                row.meter.slug,
                int(submission.window_start.timestamp()),
            )
            flagged.setdefault(cell, []).append(submission.value)
    for held in HeldUsage.objects.filter(released_at=None).select_related("meter"):
        assert "held" in kinds or "late" in kinds, f"{held} is held without a case"
        states[f"held {held.reason}"] += 1
        if held.meter.slug in ADDITIVE:
            cell = (held.subject, held.meter.slug, int(held.window_start.timestamp()))
            flagged.setdefault(cell, []).append(held.quantity)
    for state, count in states.items():
        world.counts[f"at rest: {state}"] += count
    return flagged


def _running_at_rest(world: World) -> None:
    """Hold the last running value of each period to the largest its events name.

    Left out are customers tied to another one at Stripe meanwhile, and pairs with anything flagged.
    """
    meter = Meter.objects.get(slug="seats")
    for customer in Customer.objects.all():
        if customer.external_id in world.remapped:
            continue
        open_rows = SubmissionState.objects.filter(customer=customer, meter=meter).exclude(
            state__in=("settled", "superseded", "accepted")
        )
        held = HeldUsage.objects.filter(subject=customer.external_id, meter=meter, released_at=None)
        if open_rows.exists() or held.exists() or world.ledger.forgotten:
            continue
        boundaries = sorted(
            int(at.timestamp())
            for at in PeriodBoundary.objects.filter(customer=customer).values_list("at", flat=True)
        )
        expected: Counter[int] = Counter()
        last: dict[int, tuple[int, int, Decimal]] = {}
        for event_id, report in world.ledger.events.items():
            if report.subject == customer.external_id and event_id not in world.ledger.voided:
                assert report.occurred_at is not None
                period = _period(boundaries, report.occurred_at.timestamp())
                expected[period] = max(expected[period], Decimal(report.data.get("seats", 0)))
        for order, (stripe_id, timestamp, value) in enumerate(world.judge.running):
            if stripe_id == customer.stripe_customer_id:
                period = _period(boundaries, timestamp)
                before = last.get(period)
                if before is None or (timestamp, order) >= before[:2]:
                    last[period] = (timestamp, order, value)
        billed = {period: value for period, (_, _, value) in last.items() if value}
        assert billed == {period: value for period, value in expected.items() if value}, (
            f"running: {customer} {billed} at Stripe, expected {dict(expected)}"
        )
        world.counts["running periods checked"] += len(billed)


def _period(boundaries: list[int], instant: float) -> int:
    return max((at for at in boundaries if at <= instant), default=0)
