"""GET /api/v1/submissions, /held-usage and /books: what was made of usage and where it stands."""

from __future__ import annotations

from collections.abc import Collection
from datetime import UTC, datetime
from typing import Annotated, Any

from django.db import OperationalError
from django.http import HttpRequest
from ninja import Query, Router, Schema
from psycopg.errors import QueryCanceled
from pydantic import AfterValidator, AwareDatetime, Field

from billing.api import NoSuch, caller_of, storable
from billing.models import Customer, Meter
from billing.problems import problem
from usage import queries, submission_records
from usage.api.csv_answers import csv_answer, wants_csv
from usage.api.cursors import PER_PAGE, CursorText, Limit, page
from usage.api.records import (
    HeldOut,
    SubmissionOut,
    SubmissionRecordOut,
    held_out,
    record_out,
    submission_out,
)
from usage.enums import HeldReason
from usage.lifecycle import State
from usage.models import Submission
from usage.queries import MeterBooks
from usage.submission_records import Narrowing

BOOKS_SECONDS = 10
"""How long the books may take within a request; the command has all the time it needs."""

router = Router(tags=["records"])


def _utc(instant: datetime) -> datetime:
    try:
        return instant.astimezone(UTC)
    except OverflowError as error:
        raise ValueError("is too near the calendar's end") from error


Text = Annotated[str, AfterValidator(storable)]
Instant = Annotated[AwareDatetime, AfterValidator(_utc)]


class Filters(Schema):
    customer: Annotated[Text | None, Field(description="External id.")] = None
    meter: Annotated[Text | None, Field(description="A meter's slug.")] = None
    from_: Annotated[
        Instant | None,
        Field(alias="from", description="Hours that start at this instant or later."),
    ] = None
    until: Annotated[Instant | None, Field(description="Hours that start before it.")] = None
    run: Annotated[
        int | None, Field(ge=1, le=2**63 - 1, description="The flush run that folded it.")
    ] = None


class SubmissionFilters(Filters):
    state: Annotated[list[State], Field(description="May be given several times.")] = []
    identifier: Text = ""


class HeldFilters(Filters):
    reason: Annotated[list[HeldReason], Field(description="May be given several times.")] = []
    released: Annotated[
        bool | None,
        Field(description="`true`: what is held no more; `false`: what is; else both."),
    ] = None


class SubmissionsOut(Schema):
    data: list[SubmissionOut]
    next_cursor: str | None = Field(description="For `cursor`; null on the last page.")


class HeldUsageOut(Schema):
    data: list[HeldOut]
    next_cursor: str | None = Field(description="For `cursor`; null on the last page.")


class MeterBooksOut(Schema):
    meter: str
    unit: str
    event_count: int
    recorded: str = Field(description="Of all its events, less what was taken back.")
    voided: str = Field(description="What was taken back, a positive figure.")
    unflushed: str
    held: str
    credited: str = Field(
        description="What Stripe's totals were seen to hold of superseded submissions."
    )
    states: dict[State, str] = Field(
        description="Of submissions, by state. What is superseded stands elsewhere, too."
    )
    balanced: bool = Field(
        description="Whether recorded = unflushed + held + credited + every state but superseded."
    )


class BooksOut(Schema):
    customer: str
    event_count: int
    balanced: bool
    meters: list[MeterBooksOut]


COLUMNS = tuple(SubmissionOut.model_fields)
TEXTS = frozenset({"customer", "meter", "unit", "reason"})


@router.get("/submissions", response=SubmissionsOut, summary="List submissions")
def list_submissions(
    request: HttpRequest,
    filters: Query[SubmissionFilters],
    limit: Limit = PER_PAGE,
    cursor: CursorText = "",
) -> Any:
    """List submissions, newest first. `Accept: text/csv` gives a page as a file."""
    rows = submission_records.submissions(
        _narrowing(request, filters),
        states=filters.state,
        identifier=filters.identifier,
    )
    found = page(rows, of="submissions", cursor=cursor, limit=limit)
    data = [submission_out(row) for row in found.rows]
    if wants_csv(request):
        return csv_answer(
            COLUMNS,
            data,
            texts=TEXTS,
            name="submissions.csv",
            next_page=next_page(request, found.next_cursor),
        )
    return {"data": data, "next_cursor": found.next_cursor or None}


@router.get("/submissions/{identifier}", response=SubmissionRecordOut, summary="Show a submission")
def show_submission(request: HttpRequest, identifier: str) -> Any:
    """Show everything on file about one submission."""
    submission = find_submission(request, identifier)
    [record] = submission_records.records(Submission.objects.filter(pk=submission.pk))
    return record_out(record)


@router.get("/held-usage", response=HeldUsageOut, summary="List held usage")
def list_held_usage(
    request: HttpRequest,
    filters: Query[HeldFilters],
    limit: Limit = PER_PAGE,
    cursor: CursorText = "",
) -> Any:
    """List usage that waits, or waited, with a reason; newest first."""
    rows = submission_records.held_usage(
        _narrowing(request, filters), reasons=filters.reason, is_released=filters.released
    )
    found = page(rows, of="held", cursor=cursor, limit=limit)
    return {
        "data": [held_out(row) for row in found.rows],
        "next_cursor": found.next_cursor or None,
    }


@router.get("/books", response=BooksOut, summary="Show a customer's books")
def show_books(
    request: HttpRequest,
    customer: Annotated[Text, Query(min_length=1, description="External id.")],
) -> Any:
    """Show where every recorded unit of one customer stands, by our books; Stripe is not asked.

    Meters whose units do not add up (max, unique, latest) have no books.
    """
    caller_of(request).check_for(customer)
    try:
        books = queries.books(customer=customer, seconds=BOOKS_SECONDS)
    except OperationalError as error:
        if not isinstance(error.__cause__, QueryCanceled):
            raise
        return problem(
            503,
            "Not within a request",
            f"The books take longer than {BOOKS_SECONDS} seconds here; `manage.py books --customer"
            " …` takes the time it needs.",
        )
    if books.event_count == 0 and not Customer.objects.filter(external_id=customer).exists():
        raise NoSuch("customer", customer, field="customer")
    return {
        "customer": customer,
        "event_count": books.event_count,
        "balanced": books.is_conserved,
        "meters": [_meter_books(meter) for meter in books.meters],
    }


def find_submission(request: HttpRequest, identifier: str) -> Submission:
    """Return the submission of this identifier, if the key may know of it.

    Raises:
        NoSuch: there is none, or it is a customer's that the key is not for.
    """
    found = (
        Submission.objects.select_related("customer").filter(identifier=identifier).first()
        if "\0" not in identifier
        else None
    )
    if found is None or not caller_of(request).is_for(found.customer.external_id):
        raise NoSuch("submission", identifier)
    return found


def allowed_customers(request: HttpRequest, customer: str | None) -> Collection[str] | None:
    """Return the external ids a list is narrowed to: the one asked for, or the key's; else None.

    Raises:
        NotForCustomer: the key is not for the one asked for.
    """
    caller = caller_of(request)
    if customer is None:
        return caller.limits.customers
    caller.check_for(customer)
    return [customer]


def find_meter(slug: str | None) -> Meter | None:
    """Return the meter asked for; None when none was.

    Raises:
        NoSuch: there is none of this name.
    """
    if slug is None:
        return None
    meter = Meter.objects.filter(slug=slug).first()
    if meter is None:
        raise NoSuch("meter", slug, field="meter")
    return meter


def next_page(request: HttpRequest, cursor: str) -> str:
    """Return the address of the next page, relative to the host; "" on the last."""
    if not cursor:
        return ""
    query = request.GET.copy()
    query["cursor"] = cursor
    return f"{request.path}?{query.urlencode()}"


def _narrowing(request: HttpRequest, filters: Filters) -> Narrowing:
    return Narrowing(
        customers=allowed_customers(request, filters.customer),
        meter=find_meter(filters.meter),
        since=filters.from_,
        until=filters.until,
        run_id=filters.run,
    )


def _meter_books(meter: MeterBooks) -> MeterBooksOut:
    return MeterBooksOut(
        meter=meter.meter,
        unit=meter.unit_label,
        event_count=meter.event_count,
        recorded=f"{meter.recorded:f}",
        voided=f"{meter.voided:f}",
        unflushed=f"{meter.unflushed:f}",
        held=f"{meter.held:f}",
        credited=f"{meter.credited:f}",
        states={state: f"{value:f}" for state, value in meter.states.items()},
        balanced=meter.is_conserved,
    )
