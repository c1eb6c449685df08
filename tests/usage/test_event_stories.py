"""GET /api/v1/events/{id}: where an event went, from its report to its invoices."""

from __future__ import annotations

import random
from datetime import datetime, timedelta
from decimal import Decimal
from urllib.parse import quote

import pytest
import time_machine

from billing.authentication import Limits, issue
from billing.enums import Aggregation, Scope
from billing.models import Customer, Meter, PeriodBoundary, Source
from tests.factories.usage import move
from tests.usage.conftest import make_meter, report
from usage import cancelling, flush, holding, lateness, recutting, settlement, voiding
from usage.enums import ReplacementKind
from usage.ingestion import accept
from usage.life_story import life_story
from usage.lifecycle import State
from usage.models import HeldUsage, Submission, UsageEvent
from usage.replacing import replace
from usage.voiding import EventKey

pytestmark = [pytest.mark.integration, pytest.mark.django_db]

HOUR = timedelta(hours=1)
MINUTE = timedelta(minutes=1)
DAY = timedelta(days=1)


def key_of(source: str = "gateway", scope: Scope = Scope.READ, **limits) -> str:
    return issue(source, [scope], limits=Limits(**limits))[1]


@pytest.fixture
def ask(client, source, now):
    def ask(event_id="e-1", *, key=None, status=200, **query):
        path = f"/api/v1/events/{quote(event_id, safe='')}"
        with time_machine.travel(now, tick=False):
            answer = client.get(path, query, headers={"Authorization": f"Bearer {key or key_of()}"})
        assert answer.status_code == status, answer.content
        return answer.json()

    return ask


def chapter(story, meter="input_tokens"):
    [found] = [each for each in story["meters"] if each["meter"] == meter]
    return found


def states(found):
    return [each["state"] for each in found["submissions"]]


def stamp(instant: datetime) -> str:
    return instant.isoformat().replace("+00:00", "Z")


def test_an_event_that_waits_is_told_with_what_it_will_count_for(ask, store, acme, now):
    store(report(at=now - HOUR, input_tokens=7, cached_tokens=2), at=now)

    story = ask()

    assert {name: story[name] for name in ("id", "source", "type", "subject", "data")} == {
        "id": "e-1",
        "source": "gateway",
        "type": "llm.call",
        "subject": "acme",
        "data": {"input_tokens": 7, "cached_tokens": 2},
    }
    assert (story["time"], story["received_at"]) == (stamp(now - HOUR), stamp(now))
    assert story["batch"]["event_count"] == 1
    assert (story["run"], story["void"], story["takes_back"], story["conflicts"]) == (
        None,
        None,
        None,
        [],
    )
    assert story["meaning"] == "Stored, and waits for the next flush, which folds it."
    assert [
        (each["meter"], each["quantity"], each["given"], each["unit"], each["submissions"])
        for each in story["meters"]
    ] == [
        ("cached_tokens", "2", "2", "token", []),
        ("input_tokens", "7", "7", "token", []),
        ("llm_calls", "1", None, "call", []),
    ]
    assert chapter(story)["meaning"] == "It waits for the next flush."
    assert chapter(story)["invoice"] == {
        "id": None,
        "status": "none yet",
        "reason": "No subscription of the customer prices this meter.",
    }


def test_an_event_is_followed_to_the_total_that_settles_it(ask, world, source, meters, now):
    accept(source_id=source.pk, reports=[report(at=now - HOUR)], now=now)
    flush.flush_batches(now=now)
    world.deliver(seconds=1)
    submission = Submission.objects.get(meter=meters.input)
    settled_at = world.now + HOUR
    settlement.settle(
        customer_id=submission.customer_id,
        meter_id=meters.input.pk,
        observed={submission.window_start: Decimal(10)},
        observed_at=settled_at,
    )

    story = ask()

    found = chapter(story)
    [told] = found["submissions"]
    assert (told["identifier"], told["value"], told["state"], told["settled"]) == (
        submission.identifier,
        "10",
        "settled",
        True,
    )
    assert told["settled_by"] == {
        "observed_at": stamp(settled_at),
        "hour": stamp(submission.window_start),
        "expected": "10",
        "observed": "10",
    }
    [attempt] = told["attempts"]
    assert (attempt["number"], attempt["wire"], attempt["outcome"], attempt["http_status"]) == (
        1,
        "v1",
        "accepted",
        None,
    )
    assert attempt["meaning"] == "Stripe took it."
    assert found["meaning"] == "Stripe's total of the hour equals ours, so it is counted."
    assert story["run"]["id"] == submission.run_id
    other = chapter(story, "llm_calls")["submissions"][0]
    assert (other["state"], other["settled"], other["settled_by"]) == ("accepted", False, None)
    assert story["meaning"] == (
        f"Folded by run {submission.run_id}. Of 3 meters: accepted for 1; nothing to send for 1;"
        " settled for 1."
    )


def test_another_events_cell_run_and_customer_are_not_told(ask, store, acme, now):
    Customer.objects.create(external_id="globex", stripe_customer_id="cus_globex")
    store(
        report(at=now - HOUR, input_tokens=1),
        report("e-2", at=now - 2 * HOUR, input_tokens=2),
        report("e-3", at=now - HOUR, subject="globex", input_tokens=4),
    )
    flush.flush_batches(now=now)
    store(report("e-4", at=now - HOUR, input_tokens=8))
    flush.flush_batches(now=now)

    values = {
        event_id: [each["value"] for each in chapter(ask(event_id))["submissions"]]
        for event_id in ("e-1", "e-2", "e-3", "e-4")
    }

    assert values == {"e-1": ["1"], "e-2": ["2"], "e-3": ["4"], "e-4": ["8"]}


@pytest.mark.parametrize("after", [False, True])
def test_an_hour_cut_at_a_boundary_is_told_by_side(ask, store, acme, now, after):
    cut = now.replace(minute=10, second=0)
    PeriodBoundary.objects.create(customer=acme, at=cut, recut_at=cut)
    end = now + 30 * DAY
    PeriodBoundary.objects.create(customer=acme, at=end, recut_at=cut)
    store(
        report("before", at=cut - MINUTE, input_tokens=1),
        report("after", at=cut, input_tokens=2),
    )
    flush.flush_batches(now=now)

    story = ask("after" if after else "before")

    found = chapter(story)
    assert [each["value"] for each in found["submissions"]] == ["2" if after else "1"]
    assert story["period"] == (
        {"start": stamp(cut), "end": stamp(end)} if after else {"start": None, "end": stamp(cut)}
    )
    hour = cut.replace(minute=0)
    assert (found["hour"], found["segment_start"]) == (
        stamp(hour),
        stamp(cut if after else hour),
    )


@pytest.mark.parametrize("after", [False, True])
def test_a_cell_that_came_to_nothing_is_not_taken_for_its_neighbour(ask, store, acme, now, after):
    cut = now.replace(minute=10, second=0)
    PeriodBoundary.objects.create(customer=acme, at=cut, recut_at=cut, created_at=cut - DAY)
    store(
        report("before", at=cut - MINUTE, input_tokens=0 if not after else 3),
        report("after", at=cut, input_tokens=0 if after else 3),
    )
    flush.flush_batches(now=now)

    found = chapter(ask("after" if after else "before"))

    assert found["submissions"] == []
    assert found["meaning"] == "Its hour came to nothing in that run, so there was nothing to send."


@pytest.mark.parametrize("after", [False, True])
def test_a_boundary_learned_later_is_followed_to_the_right_piece(ask, store, acme, now, after):
    cut = now.replace(minute=10, second=0)
    store(
        report("before", at=cut - MINUTE, input_tokens=1),
        report("after", at=cut, input_tokens=2),
    )
    flush.flush_batches(now=now)
    # The earlier piece is too late by then, the later one is sent.
    PeriodBoundary.objects.create(customer=acme, at=cut, closed_at=now)
    recutting.recut(clock=lambda: now, seconds=60)

    found = chapter(ask("after" if after else "before"))

    whole = found["submissions"][0]
    assert (whole["value"], whole["state"], whole["superseded"]["kind"]) == (
        "3",
        "superseded",
        "refold",
    )
    if after:
        assert states(found) == ["superseded", "ready"]
        assert found["submissions"][1]["value"] == "2"
        assert whole["superseded"]["stand_ins"] == [found["submissions"][1]["identifier"]]
        assert found["held"] == []
    else:
        assert states(found) == ["superseded"]
        assert [(row["value"], row["reason"]) for row in found["held"]] == [("1", "late")]
        assert found["meaning"] == (
            "Held. The invoice of its period is final, so a person decides about it."
        )


def test_replacements_are_followed_to_the_last(ask, store, acme, meters, now):
    store(report(at=now - HOUR))
    flush.flush_batches(now=now)
    made = Submission.objects.get(meter=meters.input)
    for kind in (ReplacementKind.DOUBT, ReplacementKind.DOUBT):
        move(made, State.SENDING, at=now)
        move(made, State.IN_DOUBT, at=now)
        move(made, State.UNPROVEN, at=now)
        decision = replace([made], kind=kind, credit=Decimal(4), reason="absent", now=now)
        made = Submission.objects.get(replaces=decision)

    found = chapter(ask())

    assert [(each["value"], each["state"]) for each in found["submissions"]] == [
        ("10", "superseded"),
        ("6", "superseded"),
        ("2", "ready"),
    ]
    first, second, last = found["submissions"]
    assert first["superseded"]["stand_ins"] == [second["identifier"]]
    assert (first["superseded"]["credited"], first["superseded"]["reason"]) == ("4", "absent")
    assert last["replaces"] == (
        "Stripe's total proved that it did not arrive, wholly or in part, so what is missing is"
        " sent anew."
    )
    assert found["meaning"] == "It is due to be sent to Stripe and was not tried yet."


def test_late_usage_stays_with_its_own_run(ask, store, acme, now):
    end = now - 5 * HOUR
    for number in (1, 2):
        store(report(f"e-{number}", at=end - MINUTE, input_tokens=number))
        flush.flush_batches(now=now)
    PeriodBoundary.objects.create(customer=acme, at=end, closed_at=now, recut_at=end)
    lateness.hold_late(now=now)

    held = {n: chapter(ask(f"e-{n}"))["held"] for n in (1, 2)}

    assert {n: [row["value"] for row in rows] for n, rows in held.items()} == {1: ["1"], 2: ["2"]}


def test_held_usage_is_told_while_it_waits_and_once_it_is_released(ask, store, meters, now):
    store(report(at=now - HOUR))
    flush.flush_batches(now=now)

    waiting = chapter(ask())
    Customer.objects.create(external_id="acme", stripe_customer_id="cus_acme")
    holding.release(now=now + MINUTE)
    released = chapter(ask())

    assert (waiting["held"][0]["reason"], waiting["held"][0]["released_at"]) == (
        "unknown_customer",
        None,
    )
    assert waiting["meaning"] == (
        "Held. No customer has this external id; it is sent once one has."
    )
    assert released["held"][0]["released_at"] == stamp(now + MINUTE)
    assert states(released) == ["ready"]
    assert released["meaning"] == "It is due to be sent to Stripe and was not tried yet."


def test_an_event_taken_back_names_author_reason_and_both_sides(ask, store, source, acme, now):
    store(report(at=now - HOUR))
    flush.flush_batches(now=now)
    voiding.void(
        [EventKey(source.pk, "e-1")], author="ada", reason="counted twice", now=now + MINUTE
    )

    story = ask()

    assert story["meaning"] == "Taken back by ada: counted twice"
    assert (story["void"]["author"], story["void"]["reason"], story["void"]["run"]) == (
        "ada",
        "counted twice",
        None,
    )
    assert states(chapter(story)) == ["ready"]
    flush.flush_batches(now=now)
    assert ask()["void"]["run"] is not None
    original = UsageEvent.objects.get(voids=None)
    negative = ask(f"void:{original.pk}", source="meterkeeper:corrections")
    assert negative["takes_back"]["event"] == "e-1"
    assert negative["void"] is None
    assert chapter(negative)["quantity"] == "-10"
    assert [each["value"] for each in chapter(negative)["submissions"]] == ["-10"]


def test_a_cancelled_submission_names_both_sides(ask, world, source, meters, now):
    accept(source_id=source.pk, reports=[report(at=now - HOUR)], now=now)
    flush.flush_batches(now=now)
    world.deliver(seconds=1)
    original = Submission.objects.get(meter=meters.input)
    cancelling.cancel_submission(original, author="ada", reason="a test run", now=world.now)

    told = chapter(ask())["submissions"][0]

    negative = Submission.objects.get(meter=meters.input, value=-10)
    assert told["cancellation"] == {
        "author": "ada",
        "reason": "a test run",
        "created_at": stamp(world.now),
        "original": original.identifier,
        "negative": negative.identifier,
        "meaning": told["cancellation"]["meaning"],
    }


def test_conflicts_are_listed(ask, store, acme, now):
    store(report(at=now))
    store(report(at=now, input_tokens=11), at=now + MINUTE)

    [conflict] = ask()["conflicts"]

    assert conflict["received_at"] == stamp(now + MINUTE)
    assert conflict["payload"]["data"] == {"input_tokens": 11}


def test_a_running_value_is_told_by_the_submission_that_told_it(ask, store, acme, meters, now):
    seats = make_meter("seats", "seats", required=False)
    Meter.objects.filter(pk=seats.pk).update(aggregation=Aggregation.MAX)
    names = make_meter("people", "person", required=False)
    Meter.objects.filter(pk=names.pk).update(aggregation=Aggregation.UNIQUE)
    for number, value in enumerate((5, 3, 9)):
        store(
            report(f"e-{number}", at=now - HOUR, input_tokens=0, seats=value, person=f"p-{number}")
        )
        flush.flush_batches(now=now)

    told = {n: chapter(ask(f"e-{n}"), "seats") for n in range(3)}

    assert {n: each["quantity"] for n, each in told.items()} == {0: "5", 1: "3", 2: "9"}
    # The second changed nothing, so the next one that told the value stands for it.
    assert {n: [row["value"] for row in each["submissions"]] for n, each in told.items()} == {
        0: ["5", "9"],
        1: ["9"],
        2: ["9"],
    }
    person = chapter(ask("e-1"), "people")
    assert (person["quantity"], person["given"]) == (None, "p-1")
    assert next(row["value"] for row in person["submissions"]) == "2"


def test_a_running_value_of_nobody_is_told_by_hour(ask, store, meters, now):
    seats = make_meter("seats", "seats", required=False)
    Meter.objects.filter(pk=seats.pk).update(aggregation=Aggregation.MAX)
    store(
        report("a", at=now, input_tokens=0, seats=5),
        report("b", at=now - HOUR, input_tokens=0, seats=3),
    )
    flush.flush_batches(now=now)

    found = chapter(ask("b"), "seats")

    hour = (now - HOUR).replace(minute=0, second=0)
    assert [(row["hour"], row["reason"]) for row in found["held"]] == [
        (stamp(hour), "unknown_customer")
    ]


def test_quantities_are_exact_in_the_smallest_unit(ask, store, acme, now):
    Meter.objects.filter(slug="input_tokens").update(scale=6)
    store(report(at=now, input_tokens="123456789.000001"))

    found = chapter(ask())

    assert (found["quantity"], found["unit"], found["given"]) == (
        "123456789000001",
        "0.000001 token",
        "123456789.000001",
    )


IDS = [
    "a/b",
    "/a//b/",
    "a?b#c%25 d+e&f",
    "…\N{SNOWMAN}ß",
    "..a",
    "x" * 200,
    "submissions",
    "{id}",
    "a;b=c,d",
    "'\"\\",
]


@pytest.mark.parametrize("event_id", IDS)
def test_an_id_may_hold_any_printable_character(ask, store, acme, now, event_id):
    store(report(event_id, at=now))

    assert ask(event_id)["id"] == event_id


def test_what_is_not_there_is_a_404(ask, store, acme, now):
    store(report(at=now))
    Source.objects.create(name="other")

    for event_id, query in (("e-2", {}), ("e-1\0", {}), ("e-1", {"source": "nowhere"})):
        problem = ask(event_id, status=404, **query)
        assert problem["title"] == "Not found"
    # The key's own source is meant when none is named.
    assert ask(key=key_of("other"), status=404)["detail"] == (
        "There is no event of source 'other' with the id 'e-1'."
    )
    assert ask(key=key_of("other"), source="gateway")["id"] == "e-1"
    ask(source="a\0", status=422)


def test_a_limited_key_learns_nothing_of_another_customer(ask, store, acme, now):
    store(report(at=now), report("theirs", at=now, subject="globex"))
    store(report(at=now, subject="globex"), at=now)
    key = key_of(customers=frozenset({"acme"}))

    assert ask(key=key)["conflicts"] == []
    assert len(ask()["conflicts"]) == 1
    there = ask("theirs", key=key, status=404)
    nowhere = ask("nothing", key=key, status=404)
    assert there["detail"].replace("theirs", "nothing") == nowhere["detail"]


@pytest.mark.parametrize("scope", [Scope.INGEST, Scope.MANAGE])
def test_a_key_without_read_is_refused(ask, store, acme, now, scope):
    store(report(at=now))

    ask(key=key_of(scope=scope), status=403)


def test_a_story_costs_the_same_queries_however_much_there_is(
    ask, store, acme, now, django_assert_max_num_queries
):
    store(report(at=now - HOUR), *(report(f"o-{n}", at=now - HOUR) for n in range(20)))
    flush.flush_batches(now=now)
    for number in range(5):
        store(report(f"p-{number}", at=now - HOUR))
        flush.flush_batches(now=now)
    key = key_of()

    with django_assert_max_num_queries(20):
        ask(key=key)


def test_posting_events_is_what_it_was(client, meters):
    answer = client.get("/api/v1/events")

    assert (answer.status_code, answer["Allow"]) == (405, "POST")


# --- every event, against every row ---------------------------------------------------------------


@pytest.mark.parametrize("seed", [1, 5, 9])
def test_stories_add_up_to_every_submission_and_held_row(store, source, acme, meters, now, seed):
    """Random events, voids and boundaries learned early, late and when all is too late.

    Whatever was folded or stands for it is exactly what the stories that name it count for.
    """
    draw = random.Random(seed)  # noqa: S311 - events, not secrets
    globex = Customer.objects.create(external_id="globex", stripe_customer_id="cus_globex")
    hours = [now.replace(minute=0, second=0) - number * HOUR for number in range(4)]

    def learn() -> None:
        at = draw.choice(hours) + draw.randrange(60) * MINUTE
        PeriodBoundary.objects.get_or_create(
            customer=draw.choice([acme, globex]),
            at=at,
            defaults={"closed_at": now if draw.random() < 0.3 and at <= now else None},
        )

    for run in range(4):
        learn()
        store(
            *(
                report(
                    f"e-{run}-{number}",
                    at=draw.choice(hours) + draw.randrange(3_600) * timedelta(seconds=1),
                    subject=draw.choice(["acme", "globex", "initech"]),
                    input_tokens=draw.choice([0, draw.randrange(1, 1_000)]),
                )
                for number in range(14)
            ),
            at=now + HOUR,
        )
        if run:
            known = UsageEvent.objects.filter(voids=None).values_list("event_id", flat=True)
            voiding.void(
                [EventKey(source.pk, event_id) for event_id in draw.sample(sorted(known), 5)],
                author="ada",
                reason="by mistake",
                now=now,
            )
        flush.flush_batches(now=now + run * MINUTE)
        learn()
        recutting.recut(clock=lambda: now + HOUR, seconds=60)
        if run == 1:
            lateness.hold_late(now=now + HOUR)
        if run == 2:
            Customer.objects.create(external_id="initech", stripe_customer_id="cus_initech")
            while holding.release(now=now + run * MINUTE + MINUTE):
                pass
    counted: dict[object, Decimal] = {}

    for event in UsageEvent.objects.select_related("source"):
        story = life_story(
            source=event.source.name, event_id=event.event_id, customers=None, now=now
        )
        for told in story.chapters:
            for row in [*(each.submission for each in told.submissions), *told.held]:
                counted[row] = counted.get(row, Decimal(0)) + told.reading.quantity

    every = {
        **{row: row.value for row in Submission.objects.all()},
        **{row: row.quantity for row in HeldUsage.objects.all()},
    }
    assert counted == every
    # What makes the seeds worth telling.
    assert {row.reason for row in HeldUsage.objects.all()} == {"late", "unknown_customer"}
    assert Submission.objects.filter(replaces__kind="refold").exists()
