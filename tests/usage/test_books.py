"""The books: every recorded unit stands in exactly one place, at any moment (I2, I3, I8)."""

from __future__ import annotations

import itertools
import json
import threading
from datetime import timedelta
from decimal import Decimal
from functools import partial
from io import StringIO

import pytest
from django.core.management import CommandError, call_command
from django.db import connections
from django.utils import timezone

from billing.models import Customer, MeterVersion
from tests.factories.usage import (
    arrive_from_elsewhere,
    make_meter,
    make_submission,
    move,
)
from tests.reconciliation.conftest import customer_at_stripe, meter_at_stripe
from tests.usage.conftest import report
from usage import delivery, flush, holding, statements
from usage.enums import ReplacementKind
from usage.lifecycle import State
from usage.models import FlushRun, Submission, SubmissionState
from usage.queries import Books, books
from usage.replacing import replace
from usage.settlement import settle

pytestmark = pytest.mark.integration


def figures(found: Books) -> dict[str, dict[str, int]]:
    """What is not zero, by meter."""
    return {
        meter.meter: {
            name: int(value)
            for name, value in {
                "recorded": meter.recorded,
                "unflushed": meter.unflushed,
                "held": meter.held,
                "credited": meter.credited,
                **meter.states,
            }.items()
            if value
        }
        for meter in found.meters
    }


def printed(*arguments: str) -> tuple[str, int]:
    """What the command wrote and its exit status."""
    out = StringIO()
    try:
        call_command("books", *arguments, stdout=out)
    except SystemExit as stop:
        return out.getvalue(), int(stop.code or 0)
    return out.getvalue(), 0


def test_usage_moves_through_the_books_without_changing_the_sum(store, acme, meters, now):
    store(report("a", at=now, input_tokens=10, cached_tokens=3), report("b", at=now))
    assert figures(books()) == {
        "cached_tokens": {"recorded": 3, "unflushed": 3},
        "input_tokens": {"recorded": 20, "unflushed": 20},
        "llm_calls": {"recorded": 2, "unflushed": 2},
    }

    flush.flush_batches(now=now)
    store(report("c", at=now, input_tokens=5))

    found = books()
    assert figures(found) == {
        "cached_tokens": {"recorded": 3, "ready": 3},
        "input_tokens": {"recorded": 25, "unflushed": 5, "ready": 20},
        "llm_calls": {"recorded": 3, "unflushed": 1, "ready": 2},
    }
    assert found.event_count == 3
    assert found.is_conserved
    assert [meter.event_count for meter in found.meters] == [3, 3, 3]


def test_no_meter_and_no_event_make_empty_books(db):
    assert books() == Books(meters=(), event_count=0)


@pytest.mark.parametrize("state", list(State))
def test_every_state_has_a_figure(acme, meters, now, state):
    make_submission(customer=acme, meter=meters.input, at=now, value=7, state=state)

    found = {meter.meter: meter for meter in books().meters}["input_tokens"]

    assert {name: value for name, value in found.states.items() if value} == {state: 7}
    assert set(found.states) == set(State)


def test_usage_of_an_unknown_customer_is_held_until_it_is_known(store, meters, acme, now):
    store(
        report("a", at=now, subject="who", input_tokens=10),
        report("b", at=now, subject="acme", input_tokens=1),
    )
    flush.flush_batches(now=now)
    assert figures(books())["input_tokens"] == {"recorded": 11, "held": 10, "ready": 1}
    assert figures(books(customer="who"))["input_tokens"] == {"recorded": 10, "held": 10}

    Customer.objects.create(external_id="who", stripe_customer_id="cus_who")
    holding.release(now=now)

    assert figures(books())["input_tokens"] == {"recorded": 11, "ready": 11}
    assert figures(books(customer="who"))["input_tokens"] == {"recorded": 10, "ready": 10}


def test_usage_of_several_hours_is_held_hour_by_hour(store, meters, now):
    for hours in range(3):
        store(report(f"e{hours}", at=now - timedelta(hours=hours), subject="who"))
    flush.flush_batches(now=now)

    assert figures(books())["input_tokens"] == {"recorded": 30, "held": 30}


def test_one_customer_has_books_of_its_own(store, acme, meters, now):
    Customer.objects.create(external_id="globex", stripe_customer_id="cus_globex")
    store(report("a", at=now), report("b", at=now, subject="globex", input_tokens=4))
    flush.flush_batches(now=now)
    store(report("c", at=now, subject="globex", input_tokens=2))

    found = books(customer="globex")

    assert found.event_count == 2
    assert figures(found) == {
        "cached_tokens": {},
        "input_tokens": {"recorded": 6, "unflushed": 2, "ready": 4},
        "llm_calls": {"recorded": 2, "unflushed": 1, "ready": 1},
    }


def test_fractions_are_counted_in_the_smallest_unit(store, acme, now):
    make_meter("seconds", value_property="seconds", scale=3, unit="second", stripe_meter_id="m")
    store(
        report("a", at=now, seconds="0.125", input_tokens=1),
        report("b", at=now, seconds="1.1", input_tokens=1),
    )

    seconds = {meter.meter: meter for meter in books().meters}["seconds"]

    assert (seconds.recorded, seconds.unit_label) == (Decimal(1225), "0.001 second")
    flush.flush_batches(now=now)
    assert books().is_conserved


def test_a_later_definition_changes_no_history(store, acme, meters, now):
    store(report("a", at=now, input_tokens=10, output_tokens=90))
    flush.flush_batches(now=now)
    version = MeterVersion.objects.get(meter=meters.input)
    version.effective_until = now + timedelta(hours=1)
    version.save()
    MeterVersion.objects.create(
        meter=meters.input,
        event_type="llm.call",
        value_property="output_tokens",
        measures=["output"],
        effective_from=now + timedelta(hours=1),
    )
    later = now + timedelta(hours=2)
    store(report("b", at=later, input_tokens=1, output_tokens=5), at=later)

    assert figures(books())["input_tokens"] == {"recorded": 15, "unflushed": 5, "ready": 10}
    flush.flush_batches(now=later)
    assert figures(books())["input_tokens"] == {"recorded": 15, "ready": 15}


def test_a_meter_added_later_claims_only_what_was_not_flushed(store, acme, meters, now):
    store(report("a", at=now, input_tokens=10, output_tokens=90))
    flush.flush_batches(now=now)
    make_meter("output_tokens", value_property="output_tokens", stripe_meter_id="mtr_output")
    store(report("b", at=now, input_tokens=1, output_tokens=5))

    assert figures(books())["output_tokens"] == {"recorded": 5, "unflushed": 5}
    flush.flush_batches(now=now)
    assert figures(books())["output_tokens"] == {"recorded": 5, "ready": 5}


def test_what_is_superseded_counts_where_it_went(store, acme, meters, now):
    """I3, I4: it is credited in part, and the rest is ready to be sent anew."""
    store(report("a", at=now, input_tokens=10))
    flush.flush_batches(now=now)
    submission = Submission.objects.get(meter=meters.input)
    for state in (State.SENDING, State.IN_DOUBT, State.UNPROVEN):
        move(submission, state, at=now)
    replace([submission], kind=ReplacementKind.DOUBT, credit=Decimal(4), reason="?", now=now)

    text, status = printed("--no-stripe")

    assert figures(books())["input_tokens"] == figures(books(customer="acme"))["input_tokens"]
    assert figures(books())["input_tokens"] == {
        "recorded": 10,
        "credited": 4,
        "ready": 6,
        "superseded": 10,
    }
    assert figures(books(customer="globex"))["input_tokens"] == {}
    assert status == 0
    heading, _, _, row, _ = text.splitlines()[:5]
    assert heading.split() == [
        *("meter", "unit", "recorded", "unflushed", "held", "credited"),
        *("ready", "accepted", "settled", "superseded"),
    ]
    assert row.split() == ["input_tokens", "token", "10", "0", "0", "4", "6", "0", "0", "10"]


def test_a_lost_unit_breaks_the_equation(store, acme, meters, now):
    store(report("a", at=now, input_tokens=10))
    flush.flush_batches(now=now)
    make_submission(customer=acme, meter=meters.calls, at=now, value=1)

    found = {meter.meter: meter for meter in books().meters}
    text, status = printed("--no-stripe")

    assert {slug: meter.is_conserved for slug, meter in found.items()} == {
        "cached_tokens": True,
        "input_tokens": True,
        "llm_calls": False,
    }
    assert status == 1
    assert "BROKEN: llm_calls recorded 1 call, but 2 are accounted for" in text


# --- the command ---------------------------------------------------------------------------------


@pytest.fixture
def traffic(source, emulator, now):
    """Two events of a customer known at Stripe, flushed and delivered at `now`."""
    emulator.clock.freeze(now.timestamp())
    customer = customer_at_stripe("acme")
    meter = meter_at_stripe("input_tokens")

    def traffic() -> None:
        from usage.ingestion import accept  # noqa: PLC0415

        accept(
            source_id=source.pk,
            reports=[
                report("a", at=now - timedelta(days=1), input_tokens=1_500_000),
                report("b", at=now, input_tokens=27),
            ],
            now=now,
        )
        flush.flush_batches(now=now)
        delivery.deliver_due(clock=lambda: now)

    return customer, meter, traffic


def test_the_command_shows_stripe_beside_our_books(traffic, now):
    customer, meter, flow = traffic
    flow()

    document, status = printed("--json")

    assert status == 0
    assert json.loads(document) == {
        "meters": [
            {
                "meter": "input_tokens",
                "unit": "token",
                "events": 2,
                "recorded": "1500027",
                "unflushed": "0",
                "held": "0",
                "credited": "0",
                "states": {s.value: "1500027" if s == "accepted" else "0" for s in State},
                "stripe": "1500027",
                "balanced": True,
            }
        ],
        "events": 2,
        "balanced": True,
        "at_rest": False,
    }
    assert printed("--at-rest")[1] == 1

    for submission in SubmissionState.objects.select_related("submission"):
        settle(
            customer_id=customer.pk,
            meter_id=meter.pk,
            observed={submission.submission.window_start: submission.submission.value},
            observed_at=now + timedelta(hours=1),
        )
    text, status = printed("--at-rest")

    assert status == 0
    assert "Balanced and at rest: every unit of 2 events is settled" in text
    heading, _, row = text.splitlines()[:3]
    assert heading.split("  ")[-1].strip() == "at Stripe"
    assert row.split() == [
        "input_tokens",
        "token",
        *("1,500,027", "0", "0", "0", "1,500,027", "1,500,027"),
    ]
    assert printed("--at-rest", "--customer", "acme")[1] == 0


def test_usage_at_stripe_that_nobody_recorded_is_over_billing(traffic, now):
    customer, meter, flow = traffic
    flow()
    arrive_from_elsewhere(customer=customer, meter=meter, at=now, value=1)

    text, status = printed()

    assert status == 1
    assert "OVER-BILLED: Stripe has 1,500,028 token of input_tokens, we recorded 1,500,027" in text


def test_usage_that_flows_while_stripe_is_read_is_not_over_billing(traffic, monkeypatch):
    _, _, flow = traffic
    read = statements._stripe_totals

    def read_slowly(customer):
        flow()
        return read(customer)

    monkeypatch.setattr(statements, "_stripe_totals", read_slowly)

    assert statements.statement().is_balanced


def test_a_stripe_that_cannot_be_read_is_said_so(traffic, emulator):
    traffic[2]()
    emulator.faults.switch_on("503", path="*event_summaries*")

    with pytest.raises(CommandError, match="--no-stripe prints our own books"):
        printed()

    assert printed("--no-stripe")[1] == 0


def test_questions_without_an_answer_are_refused(db):
    with pytest.raises(CommandError, match="leave out --no-stripe"):
        printed("--at-rest", "--no-stripe")
    with pytest.raises(CommandError, match="external id 'nobody'"):
        printed("--customer", "nobody", "--no-stripe")


# --- in mid-flight -------------------------------------------------------------------------------


class Flow:
    """Steps repeated by threads until the block ends; a step that fails, fails the test."""

    def __init__(self) -> None:
        self._stop = threading.Event()
        self._threads: list[threading.Thread] = []
        self._failures: list[Exception] = []

    def repeat(self, step) -> None:
        self._threads.append(threading.Thread(target=self._run, args=(step,)))

    def _run(self, step) -> None:
        try:
            for count in itertools.takewhile(lambda _: not self._stop.is_set(), itertools.count()):
                step(count)
        except Exception as error:  # noqa: BLE001 - told to the test's own thread
            self._failures.append(error)
        finally:
            connections.close_all()

    def __enter__(self) -> None:
        for thread in self._threads:
            thread.start()

    def __exit__(self, *_) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()
        assert self._failures == []


def flush_all(_: int) -> None:
    flush.flush_batches(now=timezone.now(), event_limit=20)
    holding.release(now=timezone.now(), limit=3)


def send_and_settle(_: int) -> None:
    for row in SubmissionState.objects.filter(state=State.READY).select_related("submission")[:5]:
        for state in (State.SENDING, State.ACCEPTED, State.SETTLED):
            move(row.submission, state, at=timezone.now())


@pytest.mark.postgres
@pytest.mark.django_db(transaction=True)
def test_the_books_balance_while_usage_flows(transactional_db, store, acme, meters):
    Customer.objects.create(external_id="globex", stripe_customer_id="cus_globex")

    def ingest(writer: str, count: int) -> None:
        store(
            *(
                report(
                    f"{writer}-{count}-{i}",
                    at=timezone.now() - timedelta(minutes=37 * i),
                    subject=("acme", "globex", "stranger")[(count + i) % 3],
                    input_tokens=count + i,
                    cached_tokens=i,
                )
                for i in range(7)
            ),
            at=timezone.now(),
        )

    flow = Flow()
    for step in (partial(ingest, "a"), partial(ingest, "b"), flush_all, flush_all, send_and_settle):
        flow.repeat(step)
    looks = []
    with flow:
        for look in range(40):
            looks.append(books(customer=(None, "acme", "stranger")[look % 3]))
            if look == 20:
                Customer.objects.create(external_id="stranger", stripe_customer_id="cus_stranger")

    assert [figures(look) for look in looks if not look.is_conserved] == []
    places = {name for look in looks for meter in figures(look).values() for name in meter}
    assert {"recorded", "unflushed", "held", "ready", "settled"} <= places
    assert FlushRun.objects.count() > 1
    assert books().is_conserved
