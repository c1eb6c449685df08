"""POST /api/v1/voids and /submissions/{identifier}/cancel: stored usage is taken back."""

from __future__ import annotations

from typing import Annotated, Any

from django.http import HttpRequest
from ninja import Router, Schema
from pydantic import AfterValidator, ConfigDict, Field

from billing.api import caller_of, storable
from billing.authentication import Caller
from billing.models import Source
from billing.problems import problem
from usage import cancelling, voiding
from usage.api.records import CancellationOut, cancellation_out
from usage.api.submissions import find_submission
from usage.clock import database_clock
from usage.models import Cancellation
from usage.voiding import EventKey

MOST = 1_000
REASON_MOST = 2_000

router = Router(tags=["corrections"])


def _printable(text: str) -> str:
    if not text.isprintable():
        raise ValueError("must not hold control characters")
    return text


def _said(text: str) -> str:
    if not text.strip():
        raise ValueError("must say why")
    return storable(text)


EventId = Annotated[str, Field(min_length=1, max_length=200), AfterValidator(_printable)]
Reason = Annotated[
    str,
    Field(max_length=REASON_MOST, description="Why; kept for ever beside the key's name."),
    AfterValidator(_said),
]


class VoidsIn(Schema):
    model_config = ConfigDict(extra="forbid")

    ids: Annotated[
        list[EventId], Field(min_length=1, max_length=MOST, description="Your ids of the events.")
    ]
    reason: Reason
    source: Annotated[
        str,
        Field(max_length=100, description="Whose events; without it the key's own source."),
        AfterValidator(storable),
    ] = ""


class VoidedOut(Schema):
    index: int
    id: str
    outcome: str = Field(description="`voided`, or `already_voided` by an earlier request.")
    meaning: str


class VoidsOut(Schema):
    voided: int
    already_voided: int
    meaning: str
    events: list[VoidedOut]


class CancelIn(Schema):
    model_config = ConfigDict(extra="forbid")

    reason: Reason


class CancelOut(Schema):
    already_cancelled: bool = Field(description="Whether it had been before; nothing changed then.")
    meaning: str
    cancellation: CancellationOut
    voided_events: int = Field(description="Events taken back by this request.")
    cancelled: list[str] = Field(
        description="Identifiers of all submissions that Stripe is asked to cancel for it."
    )
    negative_submissions: int = Field(
        description="Submissions that take the rest of its events back by a negative meter event."
    )


MEANINGS = {
    "voided": "Taken back, for every meter that read it; the next flush sends its negative.",
    "already_voided": "It had been taken back before; nothing changed.",
}


def author_of(caller: Caller) -> str:
    """Return how a correction names the key it was made with: prefix and source."""
    return f"{caller.key_prefix} ({caller.source})"


@router.post("/voids", response=VoidsOut, summary="Take events back")
def make_voids(request: HttpRequest, body: VoidsIn) -> Any:
    """Take events back by their ids: all of them or, with an error, none.

    Repeating it changes nothing and says so.
    """
    caller = caller_of(request)
    source_id: int | None = caller.source_id
    if body.source:
        source_id = Source.objects.filter(name=body.source).values_list("pk", flat=True).first()
    if source_id is None:
        return _not_voided(body, set(body.ids), f"is stored by no source {body.source!r}")
    try:
        answer = voiding.void(
            [EventKey(source_id, event_id) for event_id in body.ids],
            author=author_of(caller),
            reason=body.reason,
            now=database_clock(),
            customers=caller.limits.customers,
        )
    except voiding.UnknownEvents as refusal:
        unknown = {key.event_id for key in refusal.keys}
        return _not_voided(
            body, unknown, f"is stored by no source {body.source or caller.source!r}"
        )
    except voiding.VoidsAlready as refusal:
        voids = {key.event_id for key in refusal.keys}
        return _not_voided(body, voids, "is a void itself, which stays; report the usage again")
    voided = {key.event_id for key in answer.voided}
    outcomes = ["voided" if event_id in voided else "already_voided" for event_id in body.ids]
    return VoidsOut(
        voided=len(answer.voided),
        already_voided=len(answer.already),
        meaning=_told(len(answer.voided), len(answer.already)),
        events=[
            VoidedOut(index=index, id=event_id, outcome=outcome, meaning=MEANINGS[outcome])
            for index, (event_id, outcome) in enumerate(zip(body.ids, outcomes, strict=True))
        ],
    )


@router.post("/submissions/{identifier}/cancel", response=CancelOut, summary="Cancel a submission")
def cancel_submission(request: HttpRequest, identifier: str, body: CancelIn) -> Any:
    """Take all events of a submission back and have Stripe cancel it, within a day of its sending.

    Repeating it changes nothing and says so.
    """
    submission = find_submission(request, identifier)
    requested = None
    try:
        requested = cancelling.cancel_submission(
            submission,
            author=author_of(caller_of(request)),
            reason=body.reason,
            now=database_clock(),
        )
    except cancelling.CannotCancel as refusal:
        obstacle = str(refusal)
    found = Cancellation.objects.select_related("submission").filter(original=submission).first()
    if found is None:
        return problem(
            409, "Cannot be cancelled", obstacle, errors=[{"field": "", "reason": obstacle}]
        )
    return CancelOut(
        already_cancelled=requested is None,
        meaning="It had been cancelled before; nothing changed."
        if requested is None
        else "Its events are taken back, and the next delivery asks Stripe to cancel it.",
        cancellation=cancellation_out(
            found, original=submission.identifier, negative=found.submission.identifier
        ),
        voided_events=0 if requested is None else requested.event_count,
        cancelled=[] if requested is None else [each.identifier for each in requested.cancelled],
        negative_submissions=0 if requested is None else requested.negative_count,
    )


def _not_voided(body: VoidsIn, wrong: set[str], reason: str) -> Any:
    errors = [
        {"index": index, "field": "ids", "id": event_id, "reason": reason}
        for index, event_id in enumerate(body.ids)
        if event_id in wrong
    ]
    first = errors[0]
    return problem(
        422,
        "Nothing was voided",
        f"{len(errors):,} of {len(body.ids):,} ids cannot be voided, so none was. Id"
        f" {first['index']}: {first['id']!r} {reason}.",
        errors=errors,
    )


def _told(voided: int, already: int) -> str:
    if not voided:
        return "Nothing changed: all of them had been taken back before."
    told = f"Took {voided:,} event{'s' * (voided != 1)} back; the next flush sends their negative."
    return told + (f" {already:,} had been taken back before." if already else "")
