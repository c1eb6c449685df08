"""Submissions in any state, each brought there by legal moves, since the database allows no other."""

from __future__ import annotations

import json
import uuid
from datetime import UTC, datetime, timedelta
from decimal import Decimal

from billing.enums import Aggregation
from billing.gateway import meter_events
from billing.models import Customer, Meter, MeterVersion
from usage import wire
from usage.enums import Outcome, Wire
from usage.lifecycle import State
from usage.models import Attempt, FlushRun, Submission, SubmissionState

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

ROUTES = {
    State.READY: (),
    State.SENDING: (State.SENDING,),
    State.RETRY: (State.SENDING, State.RETRY),
    State.IN_DOUBT: (State.SENDING, State.IN_DOUBT),
    State.ACCEPTED: (State.SENDING, State.ACCEPTED),
    State.SETTLED: (State.SENDING, State.ACCEPTED, State.SETTLED),
    State.UNPROVEN: (State.SENDING, State.IN_DOUBT, State.UNPROVEN),
    State.REJECTED: (State.SENDING, State.REJECTED),
    State.SUPERSEDED: (State.SUPERSEDED,),
    State.EXPIRED: (State.EXPIRED,),
    State.WRITTEN_OFF: (State.EXPIRED, State.WRITTEN_OFF),
}
OUTCOMES = {
    State.ACCEPTED: Outcome.ACCEPTED,
    State.RETRY: Outcome.NOT_ACCEPTED,
    State.REJECTED: Outcome.REJECTED,
    State.IN_DOUBT: Outcome.UNKNOWN,
}


def make_meter(slug="input_tokens", *, value_property="input_tokens", scale=0, **fields) -> Meter:
    """A meter fed by `llm.call` since ever; without a value property it counts."""
    meter = Meter.objects.create(
        slug=slug,
        display_name=slug,
        event_name=fields.pop("event_name", f"mk_{slug}"),
        aggregation=Aggregation.SUM if value_property else Aggregation.COUNT,
        unit=fields.pop("unit", "token"),
        scale=scale,
        **fields,
    )
    MeterVersion.objects.create(
        meter=meter,
        event_type="llm.call",
        value_property=value_property,
        required=False,
        measures=[slug],
        effective_from=EPOCH,
    )
    return meter


def make_submission(
    *,
    customer: Customer,
    meter: Meter,
    at: datetime,
    value: int = 10,
    state: State = State.READY,
    attempted_at: datetime | None = None,
    run: FlushRun | None = None,
) -> Submission:
    """A submission timestamped `at`; its attempt, if it had one, began and ended `attempted_at`."""
    hour = at.replace(minute=0, second=0, microsecond=0)
    run = run or FlushRun.objects.create(batch_count=0, event_count=1, meter_versions=[])
    identifier = f"mk_{uuid.uuid4().hex}"
    payload = wire.render(
        identifier=identifier,
        event_name=meter.event_name,
        stripe_customer_id=customer.stripe_customer_id or "",
        value=Decimal(value),
        timestamp=at,
    )
    submission = Submission.objects.create(
        identifier=identifier,
        run=run,
        customer=customer,
        meter=meter,
        window_start=hour,
        segment_start=hour,
        event_count=1,
        value=value,
        timestamp=at.replace(microsecond=0),
        stripe_customer_id=customer.stripe_customer_id or "",
        event_name=meter.event_name,
        payload=payload,
        payload_hash=wire.fingerprint(payload),
        live_mode=False,
        created_at=at,
    )
    SubmissionState.objects.create(
        submission=submission, customer=customer, meter=meter, next_action_at=at, changed_at=at
    )
    for step in ROUTES[state]:
        move(submission, step, at=attempted_at or at + timedelta(minutes=1))
    return submission


def move(submission: Submission, state: State, *, at: datetime) -> None:
    """Bring a submission to its next state, as delivery would, attempt included."""
    standing = SubmissionState.objects.get(pk=submission.pk)
    standing.state = state
    standing.changed_at = at
    if state == State.SENDING:
        standing.attempt_count += 1
        standing.wire = standing.wire or Wire.V1
        Attempt.objects.create(
            submission=submission,
            number=standing.attempt_count,
            wire=standing.wire,
            started_at=at,
        )
    elif state in OUTCOMES:
        Attempt.objects.filter(submission=submission, number=standing.attempt_count).update(
            finished_at=at, outcome=OUTCOMES[state]
        )
    if state == State.IN_DOUBT:
        standing.doubt_since = standing.doubt_since or at
    elif state == State.ACCEPTED:
        standing.doubt_since = None
        standing.next_action_at = at + timedelta(hours=36)
    elif state in {State.SETTLED, State.UNPROVEN, State.REJECTED}:
        standing.next_action_at = None
    standing.save()


def arrive(*submissions: Submission) -> None:
    """Let the emulator take the submissions, whatever we know of it."""
    for submission in submissions:
        meter_events.send(
            json.loads(submission.payload),
            check=lambda: None,
            idempotency_key=meter_events.new_idempotency_key(),
        )


def arrive_from_elsewhere(*, customer: Customer, meter: Meter, at: datetime, value: int) -> None:
    """Let somebody else report usage at Stripe for our customer."""
    meter_events.send(
        {
            "event_name": meter.event_name,
            "identifier": f"foreign_{uuid.uuid4().hex}",
            "payload": {"stripe_customer_id": customer.stripe_customer_id, "value": str(value)},
            "timestamp": int(at.timestamp()),
        },
        check=lambda: None,
        idempotency_key=meter_events.new_idempotency_key(),
    )


def states(*submissions: Submission) -> list[str]:
    """Where the submissions stand now, in order."""
    rows = dict(SubmissionState.objects.values_list("submission_id", "state"))
    return [rows[submission.pk] for submission in submissions]
