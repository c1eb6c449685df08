"""GET /api/v1/usage and /usage/top-customers: translate, ask once, tell it as JSON or CSV."""

from __future__ import annotations

import base64
import hashlib
import json
from datetime import UTC, datetime
from functools import cache
from typing import Annotated, Any, Literal, TypeVar
from zoneinfo import ZoneInfo, available_timezones

import msgspec
from django.http import HttpRequest, HttpResponse
from ninja import Query, Router, Schema
from pydantic import AfterValidator, BeforeValidator, Field

from billing.api import NoSuch, caller_of, storable
from billing.models import Meter
from usage.api.csv_answers import csv_answer, wants_csv
from usage.folding import MODEL_CHARACTERS
from usage.questions import Answer, Key, Question, Unanswerable, answer, top_customers
from usage.windows import Window

PER_PAGE = 1_000
PER_PAGE_MOST = 10_000
TOP = 10
TOP_MOST = 1_000
NAMES_MOST = 100
"""So many customers, meters or models may be named."""
TEXTS = frozenset({"customer", "meter", "model", "unit"})
"""Columns of CSV that are others' words."""
NOT_OF_THIS_QUESTION = "is not of this question: repeat all else as it was"

router = Router(tags=["usage"])


def _instant(text: Any) -> datetime:
    try:
        told: datetime = msgspec.convert(text, Annotated[datetime, msgspec.Meta(tz=True)])
        # Years near the calendar's ends overflow when they are brought to UTC.
        return told.astimezone(UTC)
    except (msgspec.ValidationError, OverflowError) as error:
        raise ValueError(
            "must be an RFC 3339 time with an offset, such as 2026-01-31T12:00:00Z (in an address,"
            " + is written %2B)"
        ) from error


def _zone(name: str) -> str:
    if name not in _zones():
        raise ValueError("must be the IANA name of a time zone, such as America/New_York")
    return name


@cache
def _zones() -> frozenset[str]:
    return frozenset(available_timezones())


Instant = Annotated[datetime, BeforeValidator(_instant)]
Word = Annotated[str, Field(max_length=200), AfterValidator(storable)]
Format = Annotated[
    Literal["json", "csv"] | None,
    Field(description="`csv` for CSV, as `Accept: text/csv` asks for it, too."),
]


class RangeIn(Schema):
    """What both questions ask for."""

    since: Instant = Field(alias="from", description="RFC 3339 with an offset; included.")
    until: Instant = Field(description="RFC 3339 with an offset; not included.")
    model: list[Word] = Field(
        [],
        max_length=NAMES_MOST,
        description="Only usage with this `data.model`; may be repeated. Empty: with none.",
    )
    format: Format = None


class UsageIn(RangeIn):
    window: Window = Field(
        Window.ALL,
        description="How long a window is. `minute` for at most 6 hours, `hour` for at most 400"
        " days. Weeks begin on Monday.",
    )
    time_zone: Annotated[str, AfterValidator(_zone)] = Field(
        "UTC", description="IANA name; where days begin, and the offset of the times told."
    )
    customer: list[Word] = Field(
        [],
        max_length=NAMES_MOST,
        description="Only this customer's, by external id, known to us or not; may be repeated.",
    )
    meter: list[Word] = Field(
        [], max_length=NAMES_MOST, description="Only this meter; may be repeated. Else all."
    )
    group_by: list[Literal["customer", "meter", "model"]] = Field(
        [],
        max_length=NAMES_MOST,
        description="What is told apart; may be repeated. Meters always are: their units do not"
        " add up.",
    )
    limit: int = Field(PER_PAGE, ge=1, le=PER_PAGE_MOST, description="Most rows of one answer.")
    cursor: str = Field(
        "", max_length=4_000, description="`next` of the answer before, with all else as it was."
    )


class TopIn(RangeIn):
    meter: Word = Field(description="The meter whose usage is compared.")
    limit: int = Field(TOP, ge=1, le=TOP_MOST, description="How many customers.")


class UsageRowOut(Schema):
    window_start: datetime = Field(description="Included; cut at `from`.")
    window_end: datetime = Field(description="Not included; cut at `until`.")
    customer: str | None = Field(
        None, description="External id; there when customers are told apart."
    )
    meter: str
    model: str | None = Field(
        None, description="`data.model`, its first 100 characters; there when models are told apart"
    )
    quantity: str = Field(
        description="Exact decimal number of `unit`s, less what was voided.", examples=["12.50"]
    )
    unit: str = Field(examples=["token"])
    event_count: int = Field(description="Events that gave the meter a value, less those voided.")


class TopOut(Schema):
    data: list[UsageRowOut]
    has_more: bool
    as_of: datetime = Field(description="Every event answered for by then is counted.")


class UsageOut(TopOut):
    next: str | None = Field(description="The `cursor` of the next page; null on the last one.")


Asked = TypeVar("Asked", bound=RangeIn)


@router.get(
    "/usage",
    response=UsageOut,
    exclude_none=True,
    summary="Ask for usage over time",
    openapi_extra={"responses": {200: {"content": {"text/csv": {"schema": {"type": "string"}}}}}},
)
def usage(request: HttpRequest, asked: Query[UsageIn]) -> HttpResponse:
    """Tell what was used, by window, meter and, when asked, customer and model, in that order.

    All stored usage counts at once, also of customers we do not know yet. A window without usage
    has no row. A max meter is told by its largest value, a unique meter by how many different ones
    there were (those of different customers are different), a latest meter by its last value.
    """
    _refuse_unknown(request, UsageIn)
    question = Question(
        since=asked.since,
        until=asked.until,
        window=asked.window,
        zone=ZoneInfo(asked.time_zone),
        meters=_meters(asked.meter),
        customers=_customers(request, asked.customer),
        models=_models(asked.model),
        by_customer="customer" in asked.group_by,
        by_model="model" in asked.group_by,
    )
    print_of = _print(asked)
    after = _read_cursor(asked.cursor, print_of) if asked.cursor else None
    told = answer(question, limit=asked.limit, after=after)
    cursor = _cursor(told.rows[-1].key, print_of) if told.has_more else None
    columns = _columns(by_customer=question.by_customer, by_model=question.by_model)
    if _wants_csv(request, asked):
        again = request.GET.copy()
        again["cursor"] = cursor or ""
        return _csv(
            told, columns, next_page=f"{request.path}?{again.urlencode()}" if cursor else ""
        )
    return _json(told, columns, next=cursor)


@router.get(
    "/usage/top-customers",
    response=TopOut,
    exclude_none=True,
    summary="Ask for the largest customers of a meter",
    openapi_extra={"responses": {200: {"content": {"text/csv": {"schema": {"type": "string"}}}}}},
)
def largest(request: HttpRequest, asked: Query[TopIn]) -> HttpResponse:
    """Tell who used most of a meter, the largest first, those who used as much by external id."""
    _refuse_unknown(request, TopIn)
    question = Question(
        since=asked.since,
        until=asked.until,
        meters=_meters([asked.meter]),
        customers=_customers(request, []),
        models=_models(asked.model),
        by_customer=True,
    )
    told = top_customers(question, limit=asked.limit)
    columns = _columns(by_customer=True, by_model=False)
    return _csv(told, columns) if _wants_csv(request, asked) else _json(told, columns)


# --- what is asked --------------------------------------------------------------------------------


def _refuse_unknown(request: HttpRequest, known: type[RangeIn]) -> None:
    """Refuse a parameter that is none: misspelt, it would widen the question in silence."""
    names = {field.alias or name for name, field in known.model_fields.items()}
    for name in request.GET:
        if name not in names:
            raise Unanswerable(name, f"is no parameter; these are: {', '.join(sorted(names))}")


def _meters(slugs: list[str]) -> tuple[Meter, ...]:
    """Return the meters named, or all.

    Raises:
        NoSuch: one is in no catalogue.
    """
    meters = {
        meter.slug: meter
        for meter in (Meter.objects.filter(slug__in=slugs) if slugs else Meter.objects.all())
    }
    for slug in slugs:
        if slug not in meters:
            raise NoSuch("meter", slug, field="meter")
    return tuple(meters.values())


def _customers(request: HttpRequest, named: list[str]) -> tuple[str, ...] | None:
    """Return whose usage is asked for, within what the key is for; None for everybody's.

    Raises:
        NotForCustomer: the key is not for one of those named.
    """
    caller = caller_of(request)
    for external_id in named:
        caller.check_for(external_id)
    if named:
        return tuple(sorted(set(named)))
    return None if caller.limits.customers is None else tuple(sorted(caller.limits.customers))


def _models(named: list[str]) -> tuple[str, ...] | None:
    return tuple(sorted({name[:MODEL_CHARACTERS] for name in named})) or None


# --- cursors --------------------------------------------------------------------------------------


def _print(asked: UsageIn) -> str:
    """Return what tells one question from another, whatever its page."""
    told = asked.model_dump_json(exclude={"limit", "cursor", "format"})
    return hashlib.blake2b(told.encode(), digest_size=8).hexdigest()


def _cursor(key: Key, print_of: str) -> str:
    text = json.dumps([print_of, key[0].isoformat(), *key[1:]])
    return base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")


def _read_cursor(cursor: str, print_of: str) -> Key:
    try:
        padded = cursor + "=" * (-len(cursor) % 4)
        told, start, customer, meter, model = msgspec.json.decode(
            base64.b64decode(padded, altchars=b"-_", validate=True),
            type=tuple[str, datetime, Word, Word, Word],
        )
    except (ValueError, msgspec.MsgspecError) as error:
        raise Unanswerable("cursor", NOT_OF_THIS_QUESTION) from error
    if told != print_of or "\0" in customer + meter + model:
        raise Unanswerable("cursor", NOT_OF_THIS_QUESTION)
    return (start, customer, meter, model)


# --- answers --------------------------------------------------------------------------------------


def _columns(*, by_customer: bool, by_model: bool) -> tuple[str, ...]:
    return (
        "window_start",
        "window_end",
        *(["customer"] if by_customer else []),
        "meter",
        *(["model"] if by_model else []),
        "quantity",
        "unit",
        "event_count",
    )


def _wants_csv(request: HttpRequest, asked: RangeIn) -> bool:
    if asked.format is not None:
        return asked.format == "csv"
    return wants_csv(request)


def _json(told: Answer, columns: tuple[str, ...], **members: Any) -> HttpResponse:
    body = {
        "data": [{name: getattr(row, name) for name in columns} for row in told.rows],
        "has_more": told.has_more,
        **members,
        "as_of": told.as_of,
    }
    response = HttpResponse(msgspec.json.encode(body), content_type="application/json")
    response["Vary"] = "Accept"
    return response


def _csv(told: Answer, columns: tuple[str, ...], *, next_page: str = "") -> HttpResponse:
    return csv_answer(
        columns,
        ({name: getattr(row, name) for name in columns} for row in told.rows),
        texts=TEXTS,
        name="usage.csv",
        next_page=next_page,
    )
