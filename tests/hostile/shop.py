"""The catalogue the oracle knows, keys for it, and what the database holds of a source."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from django.db import connection
from django.utils import timezone

from billing.authentication import issue
from billing.enums import Aggregation, Scope
from billing.models import Meter, MeterVersion
from tests.hostile import judge, oracle
from tests.hostile.callers import Caller, RefusedByServer
from tests.hostile.judge import Answer, Row
from tests.hostile.oracle import Request

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_numbers = itertools.count()


def make_catalogue() -> None:
    """Make the meters of `oracle.CATALOGUE`, and one that counts for each type."""
    for event_type, rules in oracle.CATALOGUE.items():
        _make_meter(event_type, "", required=False, decimals=0)
        for value_property, required, decimals in rules:
            _make_meter(event_type, value_property, required=required, decimals=decimals)


def _make_meter(
    event_type: str, value_property: str, *, required: bool, decimals: int | None
) -> None:
    slug = f"{event_type}_{value_property}".replace(".", "_")
    aggregation = Aggregation.SUM if value_property else Aggregation.COUNT
    meter = Meter.objects.create(
        slug=slug,
        display_name=slug,
        event_name=f"mk_{slug}",
        aggregation=Aggregation.UNIQUE if decimals is None else aggregation,
        unit="unit",
        scale=decimals or 0,
    )
    MeterVersion.objects.create(
        meter=meter,
        event_type=event_type,
        value_property=value_property,
        required=required,
        measures=[slug],
        effective_from=EPOCH,
    )


@dataclass(frozen=True)
class Till:
    """A source nobody else uses, so that what it holds is one request's."""

    source_id: int
    key: str
    reader: str

    def rows(self) -> dict[str, Row]:
        with connection.cursor() as cursor:
            cursor.execute(
                "SELECT event_id, type, subject, occurred_at, received_at, data::text"
                " FROM usage_usageevent WHERE source_id = %s",
                [self.source_id],
            )
            found = cursor.fetchall()
        rows = {event_id: Row(*others) for event_id, *others in found}
        assert len(rows) == len(found)
        return rows

    def ids(self) -> set[str]:
        with connection.cursor() as cursor:
            cursor.execute(
                "SELECT event_id FROM usage_usageevent WHERE source_id = %s", [self.source_id]
            )
            return {event_id for (event_id,) in cursor.fetchall()}


def empty() -> None:
    """Throw away all events, where nobody else's are."""
    with connection.cursor() as cursor:
        cursor.execute("TRUNCATE usage_usageevent, usage_ingestbatch, usage_eventconflict CASCADE")


def open_till() -> Till:
    """Issue keys to a new source."""
    name = f"hostile {next(_numbers)} {timezone.now():%H%M%S}"
    key, plain = issue(name, [Scope.INGEST])
    _, reader = issue(name, [Scope.READ, Scope.MANAGE])
    return Till(key.source_id, plain, reader)


def examine(caller: Caller, request: Request) -> Answer | None:
    """Send a request twice and have it judged; return the first answer.

    None stands for the web server's own, which refused what is no HTTP.

    Raises:
        judge.Dishonest: something is not as it must be.
    """
    till = open_till()
    reading = oracle.read(request, now=timezone.now())
    try:
        answer = caller.send(request, key=till.key, reader=till.reader)
    except RefusedByServer as error:
        if till.rows():
            raise judge.Dishonest("refused by the server, and stored") from error
        return None
    rows = till.rows()
    again = caller.send(request, key=till.key, reader=till.reader)
    judge.check(request, reading, answer, rows, again)
    if till.rows() != rows:
        raise judge.Dishonest(f"the repetition changed {rows} to {till.rows()}")
    late = timezone.now() + timedelta(seconds=1)
    if any(row.received_at > late for row in rows.values()):
        raise judge.Dishonest(f"received in the future: {rows}")
    return answer
