"""Nothing is sent into a period whose invoice is final: late usage is held, with its amount (F31)."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta
from decimal import Decimal

import pytest
from django.db import connection

from billing import periods
from billing.models import Case, Customer, Meter, PeriodBoundary
from tests.factories.usage import make_submission, move, states
from tests.usage.conftest import report
from usage import flush, holding, lateness
from usage.folding import FoldMismatch
from usage.lifecycle import State
from usage.models import HeldUsage, Replacement, Submission, SubmissionState

pytestmark = [pytest.mark.integration, pytest.mark.django_db]

MINUTE = timedelta(minutes=1)
HOUR = timedelta(hours=1)


@pytest.fixture
def end(now: datetime) -> datetime:
    """A period's end in the middle of an hour, and of a minute."""
    return now - timedelta(hours=5)


@pytest.fixture
def boundary(acme: Customer, end: datetime) -> Callable[..., PeriodBoundary]:
    def boundary(at: datetime = end, **fields) -> PeriodBoundary:
        return PeriodBoundary.objects.create(customer=acme, at=at, **{"recut_at": at} | fields)

    return boundary


def sendable(now: datetime) -> set[int]:
    with connection.cursor() as cursor:
        cursor.execute(
            f"SELECT id FROM usage_submission submission WHERE {lateness.MAY_BE_SENT}",  # noqa: S608 - ours
            {"now": now},
        )
        return {submission_id for (submission_id,) in cursor.fetchall()}


@pytest.mark.parametrize(
    ("minutes", "facts", "expected"),
    [
        # In the first half hour a draft is certain, unless we have seen it final.
        (-1, {}, True),
        (0, {}, True),
        (29, {}, True),
        (30, {}, False),
        (29, {"closed_at": 10}, False),
        # Later it takes Stripe's word, for as long as that holds.
        (35, {"open_until": 36}, True),
        (36, {"open_until": 36}, False),
        (35, {"open_until": 60, "closed_at": 34}, False),
        (40 * 24 * 60, {}, False),
    ],
)
def test_usage_from_before_a_period_end_is_sent_only_while_its_invoice_takes_it(
    acme, meters, boundary, end, minutes, facts, expected
):
    boundary(**{name: end + at * MINUTE for name, at in facts.items()})
    before = make_submission(customer=acme, meter=meters.input, at=end - MINUTE)
    after = make_submission(customer=acme, meter=meters.input, at=end)
    other = Customer.objects.create(external_id="globex", stripe_customer_id="cus_globex")
    elsewhere = make_submission(customer=other, meter=meters.input, at=end - MINUTE)

    allowed = sendable(end + minutes * MINUTE)

    assert allowed == {after.pk, elsewhere.pk} | ({before.pk} if expected else set())


def test_usage_across_a_boundary_waits_until_it_is_cut_there(acme, meters, boundary, end):
    across = make_submission(customer=acme, meter=meters.input, at=end + MINUTE)
    row = boundary(recut_at=None)
    assert sendable(end + 2 * MINUTE) == set()

    PeriodBoundary.objects.filter(pk=row.pk).update(recut_at=end)

    assert sendable(end + 2 * MINUTE) == {across.pk}


def test_late_usage_that_stripe_cannot_have_is_held_with_its_amount(acme, meters, boundary, end):
    """I4: what is superseded is what is held in its place."""
    boundary(closed_at=end + HOUR)
    ready = make_submission(customer=acme, meter=meters.input, at=end - MINUTE, value=7)
    refused = make_submission(
        customer=acme, meter=meters.input, at=end - 2 * MINUTE, value=5, state=State.RETRY
    )
    earlier = make_submission(customer=acme, meter=meters.calls, at=end - 3 * HOUR, value=2)
    after = make_submission(customer=acme, meter=meters.input, at=end)
    now = end + 2 * HOUR

    assert lateness.hold_late(now=now) == lateness.Late(held_count=3)

    assert states(ready, refused, earlier, after) == ["superseded"] * 3 + ["ready"]
    assert sorted(Replacement.objects.values_list("kind", "window_start", "superseded")) == [
        ("late", earlier.window_start, 2),
        ("late", ready.window_start, 12),
    ]
    [decision] = Replacement.objects.filter(meter=meters.input)
    assert [
        (row.run, row.subject, row.quantity, row.event_count, row.reason)
        for row in HeldUsage.objects.filter(replaces=decision).order_by("id")
    ] == [(ready.run, "acme", 7, 1, "late"), (refused.run, "acme", 5, 1, "late")]
    assert SubmissionState.objects.get(pk=refused.pk).replaced_by == decision
    assert lateness.hold_late(now=now) == lateness.Late()


@pytest.mark.parametrize("state", [State.SENDING, State.ACCEPTED, State.SETTLED, State.REJECTED])
def test_what_is_or_was_under_way_is_left_to_its_end(acme, meters, boundary, end, state):
    boundary(closed_at=end + HOUR)
    made = make_submission(customer=acme, meter=meters.input, at=end - MINUTE, state=state)

    assert lateness.hold_late(now=end + 2 * HOUR) == lateness.Late()

    assert states(made) == [state]


def test_a_doubt_is_not_repeated_into_a_final_invoice(acme, meters, boundary, end):
    """Sent again it could be counted now, on no invoice; the summary tells whether it was."""
    boundary(closed_at=end + HOUR)
    doubtful = make_submission(
        customer=acme, meter=meters.input, at=end - MINUTE, state=State.IN_DOUBT
    )
    refused_since = make_submission(
        customer=acme, meter=meters.calls, at=end - MINUTE, state=State.IN_DOUBT
    )
    move(refused_since, State.SENDING, at=end)
    move(refused_since, State.RETRY, at=end)

    assert lateness.hold_late(now=end + 2 * HOUR) == lateness.Late(unproven_count=2)

    assert states(doubtful, refused_since) == ["unproven"] * 2
    assert sorted(Case.objects.values_list("kind", "reference", "quantity")) == sorted(
        ("unproven", each.identifier, 10) for each in (doubtful, refused_since)
    )
    assert not HeldUsage.objects.exists()


def test_nothing_is_late_as_long_as_no_invoice_is_known_to_be_final(acme, meters, boundary, end):
    boundary()
    made = make_submission(customer=acme, meter=meters.input, at=end - MINUTE)

    assert lateness.hold_late(now=end + 9 * HOUR) == lateness.Late()

    assert states(made) == ["ready"]


@pytest.mark.parametrize(("seconds", "expected"), [(-1, True), (0, False), (1, False)])
def test_the_second_of_the_period_end_decides(acme, boundary, end, seconds, expected):
    boundary(closed_at=end + HOUR)
    boundary(end + 300 * HOUR, closed_at=end + 301 * HOUR)

    late = periods.is_final(
        customer_id=acme.pk, timestamp=end + timedelta(seconds=seconds), now=end + 2 * HOUR
    )

    assert late is expected


def test_a_flush_holds_what_comes_after_the_final_invoice(store, acme, meters, boundary, end, now):
    boundary(closed_at=end + HOUR)
    store(
        report("a", at=end - MINUTE, input_tokens=3),
        report("b", at=end - timedelta(microseconds=1), input_tokens=4),
        report("c", at=end, input_tokens=50),
    )

    flush.flush_batches(now=now)

    held = HeldUsage.objects.get(meter=meters.input)
    assert (held.reason, held.quantity, held.replaces) == ("late", 7, None)
    sent = Submission.objects.get(meter=meters.input)
    assert (sent.value, sent.segment_start, sent.timestamp) == (50, end, end)
    # A person decides: it is not released by itself, whatever else is.
    assert holding.release(now=now) == 0


def test_late_usage_has_one_case_for_each_customer_meter_and_period(
    store, acme, meters, boundary, end, now
):
    earlier = end - timedelta(days=3)
    boundary(closed_at=end + HOUR)
    boundary(earlier, closed_at=earlier + HOUR)
    made = make_submission(customer=acme, meter=meters.input, at=end - 2 * HOUR, value=9)
    lateness.hold_late(now=now - HOUR)
    store(
        report("a", at=end - MINUTE, input_tokens=3), report("b", at=earlier - HOUR, input_tokens=4)
    )
    flush.flush_batches(now=now)
    for _ in range(2):
        holding.report()
        lateness.report()

    cases = {
        case.reference: (case.quantity, case.deadline_at)
        for case in Case.objects.filter(kind="late", closed_at=None)
    }
    assert cases == {
        f"input_tokens of customer {acme.pk} until {end:%Y-%m-%d %H:%M:%S}Z": (
            Decimal(12),
            now + timedelta(hours=71),
        ),
        f"input_tokens of customer {acme.pk} until {earlier:%Y-%m-%d %H:%M:%S}Z": (
            Decimal(4),
            now + timedelta(hours=72),
        ),
        f"llm_calls of customer {acme.pk} until {end:%Y-%m-%d %H:%M:%S}Z": (
            Decimal(1),
            now + timedelta(hours=72),
        ),
        f"llm_calls of customer {acme.pk} until {earlier:%Y-%m-%d %H:%M:%S}Z": (
            Decimal(1),
            now + timedelta(hours=72),
        ),
    }
    assert Case.objects.count() == 4
    assert states(made) == ["superseded"]

    HeldUsage.objects.filter(meter=meters.input).update(released_at=now)
    lateness.report()
    assert set(Case.objects.filter(closed_at=None).values_list("reference", flat=True)) == {
        reference for reference in cases if reference.startswith("llm_calls")
    }


# --- release --------------------------------------------------------------------------------------


def test_a_release_holds_anew_what_became_late_meanwhile(store, meters, end, now):
    """The hour is folded as a whole: by a boundary its rows were never cut at."""
    store(
        report("a", at=end - MINUTE, subject="globex", input_tokens=3),
        report("b", at=end, subject="globex", input_tokens=40),
    )
    flush.flush_batches(now=end + MINUTE)
    assert HeldUsage.objects.get(meter=meters.input).quantity == 43
    globex = Customer.objects.create(external_id="globex", stripe_customer_id="cus_globex")
    PeriodBoundary.objects.create(customer=globex, at=end, closed_at=end + HOUR)

    assert [holding.release(now=now) for _ in range(2)] == [2, 0]

    held = HeldUsage.objects.get(meter=meters.input, released_at=None)
    assert (held.reason, held.quantity, held.replaces) == ("late", 3, None)
    sent = Submission.objects.get(meter=meters.input)
    assert (sent.value, sent.segment_start, sent.run) == (40, end, held.run)


def test_a_release_takes_all_of_an_hour_or_nothing(store, meters, end, now):
    """Rows of one hour, cut at a boundary, are folded again together; a limit does not part them."""
    globex = Customer.objects.create(external_id="globex")
    PeriodBoundary.objects.create(customer=globex, at=end)
    store(
        report("a", at=end - MINUTE, subject="globex", input_tokens=3),
        report("b", at=end, subject="globex", input_tokens=40),
    )
    flush.flush_batches(now=end + MINUTE)
    assert HeldUsage.objects.filter(meter=meters.input).count() == 2
    Customer.objects.update(stripe_customer_id="cus_globex")

    assert [holding.release(now=now, limit=1) for _ in range(3)] == [2, 2, 0]

    assert sorted(
        Submission.objects.filter(meter=meters.input).values_list("value", flat=True)
    ) == [
        3,
        40,
    ]


def test_a_release_that_does_not_amount_to_what_was_held_is_refused(store, meters, end, now):
    store(report("a", at=end, subject="globex", input_tokens=40))
    flush.flush_batches(now=end + MINUTE)
    Customer.objects.create(external_id="globex", stripe_customer_id="cus_globex")
    HeldUsage.objects.filter(meter=meters.input).update(quantity=41)

    with pytest.raises(FoldMismatch, match="folded again, to -1 of what it was"):
        holding.release(now=now)

    assert HeldUsage.objects.filter(released_at=None).count() == 2
    assert not Submission.objects.exists()


# --- asking ---------------------------------------------------------------------------------------


def asked(world) -> int:
    return sum(arrival.path == "/v1/invoices" for arrival in world.emulator.arrivals)


@pytest.mark.parametrize(
    ("state", "expected"),
    [
        (State.READY, 1),
        (State.RETRY, 1),
        (State.IN_DOUBT, 1),
        (State.SENDING, 0),
        (State.ACCEPTED, 0),
        (State.UNPROVEN, 0),
    ],
)
def test_stripe_is_asked_only_about_periods_that_unsent_usage_waits_for(world, state, expected):
    acme, meter = Customer.objects.get(), Meter.objects.get(slug="input_tokens")
    end = world.now - 40 * MINUTE
    PeriodBoundary.objects.create(customer=acme, at=end)
    make_submission(customer=acme, meter=meter, at=end)
    lateness.ask(now=world.now, seconds=60)
    assert asked(world) == 0

    make_submission(customer=acme, meter=meter, at=end - MINUTE, state=state, attempted_at=end)
    found = [lateness.ask(now=world.now, seconds=60).open_count for _ in range(2)]

    assert (asked(world), found) == (expected, [expected, 0])


def test_stripe_is_not_asked_in_the_first_half_hour_nor_again_too_soon(world):
    acme, meter = Customer.objects.get(), Meter.objects.get(slug="input_tokens")
    end = world.now - 29 * MINUTE
    PeriodBoundary.objects.create(customer=acme, at=end)
    make_submission(customer=acme, meter=meter, at=end - MINUTE)

    calls = []
    for minutes in (0, 1, 49, 1):
        world.advance(minutes=minutes)
        lateness.ask(now=world.now, seconds=60)
        calls.append(asked(world))

    assert calls == [0, 1, 1, 2]
