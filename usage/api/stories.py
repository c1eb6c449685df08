"""GET /api/v1/events/{id}: one event's life story, told from its report to its invoices."""

from __future__ import annotations

from collections import Counter
from datetime import datetime
from typing import Annotated, Any

from django.http import HttpRequest
from django.utils import timezone
from ninja import Query, Router, Schema
from pydantic import AfterValidator, Field

from billing.api import NoSuch, caller_of, storable
from usage.api.records import (
    HeldOut,
    InvoiceOut,
    PeriodOut,
    SubmissionRecordOut,
    held_out,
    invoice_out,
    period_out,
    record_out,
    unit_of,
)
from usage.life_story import Chapter, LifeStory, life_story
from usage.lifecycle import State
from usage.models import EventConflict, FlushRun, Void

router = Router(tags=["records"])


class BatchOut(Schema):
    id: int
    received_at: datetime
    event_count: int


class RunOut(Schema):
    id: int
    started_at: datetime
    batch_count: int
    event_count: int


class ConflictOut(Schema):
    received_at: datetime
    payload: dict[str, Any] = Field(description="What was reported and refused.")
    meaning: str


class VoidOut(Schema):
    author: str
    reason: str
    created_at: datetime
    event: str = Field(description="Id of the event that was taken back.")
    source: str = Field(description="Source of the event that was taken back.")
    run: int | None = Field(description="The flush run that folded the void; null before it.")
    meaning: str


class ChapterOut(Schema):
    meter: str
    unit: str = Field(description="What one of `quantity` is.")
    quantity: str | None = Field(
        description="What it counts for, in the meter's smallest unit, negative for a void; null"
        " for a meter that counts different names."
    )
    given: str | None = Field(description="The value as it was reported; null for a count.")
    hour: datetime
    segment_start: datetime
    meaning: str
    submissions: list[SubmissionRecordOut] = Field(
        description="Those it is or was in, oldest first; a later one may stand for an earlier."
    )
    held: list[HeldOut]
    invoice: InvoiceOut


class EventStoryOut(Schema):
    id: str
    source: str
    type: str
    subject: str
    time: datetime
    received_at: datetime
    data: dict[str, Any]
    meaning: str
    batch: BatchOut
    run: RunOut | None = Field(description="The flush run that folded it; null before it.")
    period: PeriodOut
    meters: list[ChapterOut]
    void: VoidOut | None = Field(description="Who took it back; null when nobody did.")
    takes_back: VoidOut | None = Field(description="For a void: what it takes back.")
    conflicts: list[ConflictOut]


# Last, and with slashes: an event's id may hold any character that can be printed.
@router.get("/events/{path:event_id}", response=EventStoryOut, summary="Tell an event's story")
def show_event(
    request: HttpRequest,
    event_id: str,
    source: Annotated[
        str,
        Query(description="Whose event it is; without it the key's own source."),
        AfterValidator(storable),
    ] = "",
) -> EventStoryOut:
    """Tell what was reported, where each unit of it went, and how far that came."""
    caller = caller_of(request)
    asked = source or caller.source
    story = (
        life_story(
            source=asked,
            event_id=event_id,
            customers=caller.limits.customers,
            now=timezone.now(),
        )
        if "\0" not in event_id
        else None
    )
    if story is None:
        raise NoSuch(f"event of source {asked!r} with the id", event_id)
    return _told(story)


def _told(story: LifeStory) -> EventStoryOut:
    event = story.event
    run = event.batch.run
    return EventStoryOut(
        id=event.event_id,
        source=event.source.name,
        type=event.type,
        subject=event.subject,
        time=event.occurred_at,
        received_at=event.received_at,
        data=event.data,
        meaning=_meaning(story),
        batch=BatchOut(
            id=event.batch_id,
            received_at=event.batch.received_at,
            event_count=event.batch.event_count,
        ),
        run=None if run is None else _run(run),
        period=period_out(story.period),
        meters=[_chapter(chapter, run) for chapter in story.chapters],
        void=None if story.void is None else _void(story.void, run_id=story.void_run_id),
        takes_back=None
        if story.takes_back is None
        else _void(story.takes_back, run_id=event.batch.run_id),
        conflicts=[_conflict(conflict) for conflict in story.conflicts],
    )


def _run(run: FlushRun) -> RunOut:
    return RunOut(
        id=run.pk,
        started_at=run.started_at,
        batch_count=run.batch_count,
        event_count=run.event_count,
    )


def _chapter(chapter: Chapter, run: FlushRun | None) -> ChapterOut:
    quantity = chapter.reading.quantity
    return ChapterOut(
        meter=chapter.reading.meter.slug,
        unit=unit_of(chapter.reading.meter),
        quantity=None if quantity is None else f"{quantity:f}",
        given=chapter.reading.given,
        hour=chapter.hour,
        segment_start=chapter.segment_start,
        meaning=_standing(chapter, run),
        submissions=[record_out(record) for record in chapter.submissions],
        held=[held_out(row) for row in chapter.held],
        invoice=invoice_out(chapter.billed_on),
    )


def _void(void: Void, *, run_id: int | None) -> VoidOut:
    folded = (
        "the next flush folds what takes it back"
        if run_id is None
        else f"run {run_id} folded what takes it back"
    )
    return VoidOut(
        author=void.author,
        reason=void.reason,
        created_at=void.created_at,
        event=void.event_id,
        source=void.source.name,
        run=run_id,
        meaning=f"Taken back by {void.author}, for every meter that read it; {folded}.",
    )


def _conflict(conflict: EventConflict) -> ConflictOut:
    return ConflictOut(
        received_at=conflict.received_at,
        payload=conflict.payload,
        meaning="The same id came with another payload, which was refused; the first one counts.",
    )


def _meaning(story: LifeStory) -> str:
    """Say in one sentence how far the event has come."""
    event = story.event
    if story.void is not None:
        return f"Taken back by {story.void.author}: {story.void.reason}"
    if event.batch.run is None:
        return "Stored, and waits for the next flush, which folds it."
    if not story.chapters:
        return "Stored and folded; no meter read it, so it is not billed."
    places = Counter(_place(chapter) for chapter in story.chapters)
    told = "; ".join(f"{place} for {count:,}" for place, count in sorted(places.items()))
    return f"Folded by run {event.batch.run_id}. Of {len(story.chapters):,} meters: {told}."


def _place(chapter: Chapter) -> str:
    """Return the word for where the event stands as a meter's usage."""
    if any(row.released_at is None for row in chapter.held):
        return "held"
    states = [record.state for record in chapter.submissions if record.state != State.SUPERSEDED]
    if not states:
        return "nothing to send" if not chapter.submissions else "replaced"
    if all(state == State.SETTLED for state in states):
        return "settled"
    return min(state for state in states if state != State.SETTLED).label


def _standing(chapter: Chapter, run: FlushRun | None) -> str:
    """Say in one sentence where the event stands as a meter's usage."""
    waiting = [row for row in chapter.held if row.released_at is None]
    if waiting:
        return f"Held. {held_out(waiting[-1]).meaning}"
    if chapter.submissions:
        last = record_out(chapter.submissions[-1])
        return last.meaning if last.superseded is None else last.superseded.meaning
    if run is None:
        return "It waits for the next flush."
    if chapter.held:
        return "It was held, and came to nothing that must be sent."
    if chapter.reading.quantity is None or chapter.reading.meter.aggregation not in {
        "sum",
        "count",
    }:
        return "The period's value was the same with it, so there was nothing to tell Stripe."
    return "Its hour came to nothing in that run, so there was nothing to send."
