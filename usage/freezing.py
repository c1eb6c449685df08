"""Freezing: what a cell amounts to becomes submissions whose every byte is decided."""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Sequence
from datetime import datetime
from decimal import Decimal

from django.conf import settings

from usage import wire as rendering
from usage.enums import Wire
from usage.folding import FoldedCell
from usage.lifecycle import State
from usage.models import FlushRun, Replacement, Submission, SubmissionState
from usage.quantities import split


def freeze(
    run: FlushRun,
    cells: Iterable[FoldedCell],
    *,
    now: datetime,
    replaces: Replacement | None = None,
) -> int:
    """Write the cells' submissions, payload and identifier included; return how many.

    `replaces` is the decision they stand in for, None for what the run itself folded.
    """
    submissions = [
        _submission(run, cell, part=part, value=value, now=now, replaces=replaces)
        for cell in cells
        for part, value in enumerate(split(cell.quantity))
    ]
    # What stands in for a doubt is told at once what Stripe thinks of it.
    store(submissions, wire="" if replaces is None else Wire.V1, now=now)
    return len(submissions)


def store(submissions: Sequence[Submission], *, wire: str, now: datetime) -> None:
    """Write submissions and that they are due. `wire` is the only one they may use; "" for any."""
    Submission.objects.bulk_create(submissions, batch_size=2_000)
    SubmissionState.objects.bulk_create(
        [
            SubmissionState(
                submission=submission,
                customer_id=submission.customer_id,
                meter_id=submission.meter_id,
                state=State.READY,
                wire=wire,
                next_action_at=now,
                changed_at=now,
            )
            for submission in submissions
        ],
        batch_size=2_000,
    )


def _submission(  # noqa: PLR0913 - the parts of a frozen row
    run: FlushRun,
    cell: FoldedCell,
    *,
    part: int,
    value: Decimal,
    now: datetime,
    replaces: Replacement | None,
) -> Submission:
    # Random, so that it says nothing of the customer; stored, so that every attempt repeats it.
    identifier = str(uuid.uuid4())
    timestamp = cell.latest.replace(microsecond=0)
    if cell.customer_id is None or cell.stripe_customer_id is None:
        raise ValueError(f"a cell of {cell.subject} cannot be sent: {cell.held_reason}")
    payload = rendering.render(
        identifier=identifier,
        event_name=cell.event_name,
        stripe_customer_id=cell.stripe_customer_id,
        value=value,
        timestamp=timestamp,
    )
    return Submission(
        identifier=identifier,
        run=run,
        customer_id=cell.customer_id,
        meter_id=cell.meter_id,
        window_start=cell.window_start,
        segment_start=cell.segment_start,
        part=part,
        event_count=cell.event_count if part == 0 else 0,
        value=value,
        timestamp=timestamp,
        stripe_customer_id=cell.stripe_customer_id,
        event_name=cell.event_name,
        payload=payload,
        payload_hash=rendering.fingerprint(payload),
        live_mode=settings.STRIPE_LIVE_MODE,
        replaces=replaces,
        created_at=now,
    )
