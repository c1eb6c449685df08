"""Whether what a caller was told, and what the database holds, is what the oracle read."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from tests.hostile.oracle import Event, Reading, Request, Verdict, meaning, stored_meaning

ROUNDING = timedelta(microseconds=1)


class Dishonest(AssertionError):
    """An answer, or the database, is not what it must be."""


@dataclass(frozen=True)
class Answer:
    status: int
    headers: Mapping[str, str]
    body: bytes

    def told(self) -> Any:
        return json.loads(self.body)


@dataclass(frozen=True)
class Row:
    """A stored event; `data` as the database writes it."""

    type: str
    subject: str
    occurred_at: datetime
    received_at: datetime
    data: str


Rows = Mapping[str, Row]


def check(request: Request, reading: Reading, answer: Answer, rows: Rows, again: Answer) -> None:
    """Compare one request's answer, its rows, and the answer to its repetition, with its reading.

    Raises:
        Dishonest: with what differs.
    """
    _check_form(answer)
    _check_form(again)
    problem = answer.told() if answer.status >= 400 else {}
    if answer.status >= 400 and "errors" not in problem:
        _check_refusal(reading, answer, rows, again)
    elif answer.status not in {200, 204, 400}:
        raise Dishonest(f"{answer.status} for events")
    elif reading.events is not None:
        refused = _refused(problem)
        _check_events(reading.events, refused, rows)
        kept = [event for index, event in enumerate(reading.events) if index not in refused]
        _check_counts(answer, request, accepted=len(rows), duplicates=len(kept) - len(rows))
        if answer.status == 200:
            _check_outcomes(answer, kept)
        if _refused(again.told() if again.status == 400 else {}) != refused:
            raise Dishonest(f"the repetition refuses others: {again}")
        _check_counts(again, request, accepted=0, duplicates=len(kept))
    elif reading.is_json:
        raise Dishonest(f"had to be refused with {sorted(reading.refusals)}: {answer}")
    elif not _refused(problem) or len(rows) != problem["accepted"]:
        raise Dishonest(f"no JSON, and yet {answer}; stored: {sorted(rows)}")


def _check_refusal(reading: Reading, answer: Answer, rows: Rows, again: Answer) -> None:
    if answer.status not in reading.refusals:
        raise Dishonest(f"refused whole with {answer.status}: {answer.told()}")
    if rows:
        raise Dishonest(f"refused whole, and {sorted(rows)} are stored")
    if again.status != answer.status:
        raise Dishonest(f"then {again.status} instead of {answer.status}")


def _check_form(answer: Answer) -> None:
    if answer.status >= 500:
        raise Dishonest(f"{answer.status}: {answer.body[:500]!r}")
    if answer.status == 204:
        if answer.body:
            raise Dishonest(f"204 with {answer.body!r}")
        return
    wanted = "application/json" if answer.status == 200 else "application/problem+json"
    if answer.headers.get("content-type") != wanted:
        raise Dishonest(f"{answer.status} as {answer.headers.get('content-type')}")
    told = answer.told()
    if answer.status >= 400 and not (
        told["status"] == answer.status and told["title"] and isinstance(told["title"], str)
    ):
        raise Dishonest(f"no problem: {told}")


def _refused(problem: Mapping[str, Any]) -> set[int]:
    errors = problem.get("errors", [])
    indices = [error["index"] for error in errors]
    if indices != sorted(set(indices)):
        raise Dishonest(f"indices {indices}")
    for error in errors:
        if not isinstance(error["field"], str) or not error["reason"]:
            raise Dishonest(f"no reason: {error}")
    return set(indices)


def _check_events(events: list[Event], refused: set[int], rows: Rows) -> None:
    if not refused <= set(range(len(events))):
        raise Dishonest(f"{refused} of {len(events)} events")
    firsts: dict[str, Event] = {}
    for index, event in enumerate(events):
        if index in refused and event.verdict is Verdict.STORE:
            raise Dishonest(f"a good event is refused: {event}")
        if index not in refused and event.verdict is Verdict.REFUSE:
            raise Dishonest(f"a bad event is taken: {event}")
        if index not in refused:
            firsts.setdefault(event.event_id, event)
    if rows.keys() != firsts.keys():
        raise Dishonest(f"stored: {sorted(rows)}; to be stored: {sorted(firsts)}")
    for event_id, row in rows.items():
        event = firsts[event_id]
        at = event.time or row.received_at
        if (
            (row.type, row.subject) != (event.type, event.subject)
            or abs(row.occurred_at - at) > ROUNDING
            or stored_meaning(row.data) != meaning(event.data)
        ):
            raise Dishonest(f"stored as {row}: {event}")


def _check_counts(answer: Answer, request: Request, *, accepted: int, duplicates: int) -> None:
    wants = "return=representation" in (request.prefer or "")
    if answer.status == 204:
        if wants:
            raise Dishonest("204 where each outcome was asked for")
        return
    if answer.status == 200 and request.prefer is None:
        raise Dishonest("200 where nothing was asked for")
    told = answer.told()
    if (told["accepted"], told["duplicates"]) != (accepted, duplicates):
        raise Dishonest(f"accepted {accepted}, duplicates {duplicates}: {told}")


def _check_outcomes(answer: Answer, kept: list[Event]) -> None:
    known: set[str] = set()
    outcomes: list[dict[str, Any]] = []
    for index, event in enumerate(kept):
        # Of nobody we know: stored, and billed once somebody is.
        outcome = "duplicate" if event.event_id in known else "held"
        outcomes.append({"index": index, "outcome": outcome})
        known.add(event.event_id)
    if answer.told()["events"] != outcomes:
        raise Dishonest(f"{answer.told()['events']} instead of {outcomes}")
