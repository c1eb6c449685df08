"""Create the customers, then send the events in batches over a few connections at once."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeVar

from usage.replaying.connection import Answer, ApiConnection, ReplayFailed, Stopped
from usage.traffic import customer_id

CONNECTIONS = 4
BATCH_TYPE = "application/cloudevents-batch+json"
REFUSALS_TOLD = 5
SUCCESSES = frozenset({200, 201})
REFUSED = 400

Event = dict[str, Any]
Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class Target:
    """The API to send to, and the key to do it with."""

    api_url: str
    api_key: str


@dataclass(frozen=True, slots=True)
class Sent:
    """What the API made of the events. `requests` counts every call, repeated ones too."""

    accepted: int
    duplicates: int
    requests: int


def provide_customers(*, target: Target, customers: int, plan: str) -> None:
    """Create customers 1 to `customers` and subscribe each to `plan`. A repetition changes nothing.

    Raises:
        ReplayFailed: the API refuses one, or is not reached.
    """

    def provide(connection: ApiConnection, number: int) -> None:
        external_id = customer_id(number=number)
        customer = {
            "external_id": external_id,
            "email": f"{external_id}@example.com",
            "name": f"Demo customer {number:04d}",
        }
        path = "/api/v1/customers"
        _require(connection.post(path, _encoded(customer)), wish=f"create {external_id}")
        _require(
            connection.post(f"{path}/{external_id}/subscriptions", _encoded({"plan": plan})),
            wish=f"subscribe {external_id} to {plan}",
        )

    _over_connections(target=target, work=provide, items=range(1, customers + 1))


def send_events(
    *, target: Target, events: Sequence[Event], batch: int, on_sent: Callable[[int], None]
) -> Sent:
    """Send events in batches of at most `batch`, and return what became of them.

    `on_sent` is told, from several threads, how many more were answered for. A batch whose answer
    was lost is sent again with the same ids, so an event can be reported as a duplicate of itself.

    Raises:
        ReplayFailed: an event is refused, or the API is not reached.
    """

    def send(connection: ApiConnection, start: int) -> tuple[int, int]:
        part = events[start : start + batch]
        answer = connection.post("/api/v1/events", _encoded(part), content_type=BATCH_TYPE)
        if answer.status == REFUSED:
            raise ReplayFailed(_refusals(answer, part, start))
        _require(answer, wish="take usage")
        on_sent(len(part))
        return int(answer.body["accepted"]), int(answer.body["duplicates"])

    answers, requests = _over_connections(
        target=target, work=send, items=range(0, len(events), batch)
    )
    return Sent(
        accepted=sum(accepted for accepted, _ in answers),
        duplicates=sum(duplicates for _, duplicates in answers),
        requests=requests,
    )


def _over_connections(
    *, target: Target, work: Callable[[ApiConnection, int], Result], items: Iterable[int]
) -> tuple[list[Result], int]:
    """Do `work` for each item, on one connection per thread; return results and calls made.

    The first failure ends the others after the call they are in, and is raised.
    """
    stop = threading.Event()
    pending = iter(items)
    taking = threading.Lock()
    results: list[Result] = []

    def run(connection: ApiConnection) -> int:
        try:
            while not stop.is_set():
                with taking:
                    item = next(pending, None)
                if item is None:
                    break
                results.append(work(connection, item))
        except Stopped:
            pass
        except BaseException:
            stop.set()
            raise
        finally:
            connection.close()
        return connection.call_count

    connections = [
        ApiConnection(api_url=target.api_url, api_key=target.api_key, stop=stop)
        for _ in range(CONNECTIONS)
    ]
    with ThreadPoolExecutor(CONNECTIONS) as threads:
        try:
            runs = [threads.submit(run, connection) for connection in connections]
            calls = sum(finished.result() for finished in runs)
        finally:
            # Reached early by Ctrl-C: nobody starts another call.
            stop.set()
    return results, calls


def _encoded(body: Event | Sequence[Event]) -> bytes:
    return json.dumps(body, separators=(",", ":")).encode()


def _require(answer: Answer, *, wish: str) -> None:
    if answer.status not in SUCCESSES:
        raise ReplayFailed(f"The API refuses to {wish}: {answer.reason}")


def _refusals(answer: Answer, part: Sequence[Event], start: int) -> str:
    """Say which events of a batch were refused; rows count from 1, the header left out."""
    errors = answer.body.get("errors")
    if not isinstance(errors, list) or not errors:
        return f"The API refuses usage: {answer.reason}"
    told = [
        f"  call {start + error['index'] + 1} (event {part[error['index']]['id']}):"
        f" {error['field'] or 'it'} {error['reason']}"
        for error in errors[:REFUSALS_TOLD]
    ]
    if len(errors) > REFUSALS_TOLD:
        told.append(f"  and {len(errors) - REFUSALS_TOLD:,} more of the same batch")
    if any(error["field"] == "id" for error in errors):
        told.append(
            "  (Sent before at other times, which the state folder no longer knows? --shift-again"
            " sends the trace as new usage.)"
        )
    return "\n".join([f"The API refuses {len(errors):,} of a batch of {len(part):,} calls:", *told])
