"""The background thread: takes batches from a store, sends them until answered, settles them.

All state of one process is here; a forked child gets a new `Sender`.
"""

from __future__ import annotations

import json
import random
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from meterkeeper_client.problems import Problem, Problems, log
from meterkeeper_client.transport import Answer, Fate, Transport

FIRST_BACK_OFF_SECONDS = 0.5
MOST_BACK_OFF_SECONDS = 30.0
DENIED_SECONDS = 30.0
FLUSHING_SECONDS = 0.5
"""The longest pause while somebody waits for a flush, unless the server asked for a longer one."""
TICK_SECONDS = 1.0
PATIENCE_SECONDS = 0.5
MOST_BATCH_BYTES = 512 * 1024
LEAST_BATCH_BYTES = 16 * 1024
UNREADABLE_TRIES = 3
MOST_ASIDE = 1_000
NEVER = 1 << 62


class Store(Protocol):
    """Where events wait: `Memory` or `Spool`."""

    kept: int
    settled: int
    recovered: int
    torn: int

    @property
    def backlog(self) -> int: ...
    @property
    def waiting(self) -> int: ...
    @property
    def disk_bytes(self) -> int: ...
    def put(self, line: bytes, /) -> tuple[str, str]: ...
    def peek(self, most: int, most_bytes: int, /) -> list[bytes]: ...
    def done(self, count: int, /) -> None: ...
    def tend(self) -> list[tuple[str, str]]: ...
    def close(self) -> int: ...
    def abandon(self) -> None: ...


@dataclass(frozen=True)
class Stats:
    """Counts of this process. `recorded + recovered == stored + refused + dropped + queued`.

    `stored` counts what the server said is durable; how much of it was there before, it does not
    say. `torn` are lines that dead processes left unfinished: their `record()` had not returned.
    """

    recorded: int
    recovered: int
    stored: int
    refused: int
    dropped: int
    queued: int
    retries: int
    torn: int
    spooled_bytes: int


class Sender:
    """One store, one thread, one connection."""

    def __init__(
        self,
        make_store: Callable[[threading.Lock], Store],
        transport: Transport,
        problems: Problems,
        *,
        batch_events: int,
        linger_seconds: float,
    ) -> None:
        self._lock = threading.Lock()
        self._changed = threading.Condition(self._lock)
        self._store = make_store(self._lock)
        self._transport = transport
        self._problems = problems
        self._batch_events = self._most_events = batch_events
        self._most_bytes = MOST_BATCH_BYTES
        self._linger_seconds = linger_seconds
        # Of our own: the program may have seeded the shared one, and counts on what follows.
        self._random = random.Random()  # noqa: S311 - spreads load, keeps no secret
        self._wake = threading.Event()
        self._wake_at = NEVER
        self._thread: threading.Thread | None = None
        self._aside: deque[tuple[str, bytes, str, str]] = deque()
        self._holder = 0
        self._flushers = 0
        self.is_closing = False
        self._is_stopping = False
        self._is_finished = False
        self._lost_aside = 0
        self._recorded = self._stored = self._refused = self._dropped = self._retries = 0

    def put(self, event_id: str, line: bytes, kind: str = "", detail: str = "") -> None:
        """Keep an event for sending, or count it as dropped when `kind` names a problem."""
        if self._lock.acquire(blocking=False) or (
            self._holder != threading.get_ident() and self._lock.acquire(timeout=PATIENCE_SECONDS)
        ):
            self._holder = threading.get_ident()
            try:
                self._take(event_id, line, kind, detail)
            finally:
                self._holder = 0
                self._lock.release()
        elif len(self._aside) < MOST_ASIDE:
            # A signal handler or a finalizer interrupted this very function, or the disk stalls.
            # The sender takes it from here.
            self._aside.append((event_id, line, kind, detail))
        else:
            self._lost_aside += 1
        if self._is_stopping or self._thread is None:
            self._problems.tell()  # nobody else will

    def _take(self, event_id: str, line: bytes, kind: str, detail: str) -> None:
        self._recorded += 1
        if not kind:
            if self.is_closing:
                kind, detail = "closed", "the client is closed; new events are dropped"
            else:
                kind, detail = self._store.put(line)
        if kind:
            self._dropped += 1
            self._problems.note(kind, detail, event_id)
        if self._thread is None:
            self._start()
        elif self._store.kept - self._store.settled >= self._wake_at:
            self._wake_at = NEVER
            self._wake.set()

    def _start(self) -> None:
        if not self._is_stopping:
            thread = threading.Thread(target=self._run, name="meterkeeper-client", daemon=True)
            try:
                thread.start()
            except RuntimeError as error:
                # Out of threads, or the interpreter is ending; the next event tries again.
                self._problems.note("internal", f"the sender cannot start: {error}")
            else:
                self._thread = thread

    def _take_aside(self) -> None:
        while self._aside:
            self._take(*self._aside.popleft())

    def flush(self, timeout: float) -> bool:
        """Wait until all that was kept before is settled; return whether it is."""
        if threading.current_thread() is self._thread:
            return False
        with self._changed:
            self._take_aside()
            target = self._store.kept
            if self._thread is None and not self._is_settled(target):
                self._start()
            if self._thread is None:
                return self._is_settled(target)
            self._flushers += 1
            self._wake.set()
            try:
                self._changed.wait_for(
                    lambda: self._is_finished or self._is_settled(target), timeout
                )
            finally:
                self._flushers -= 1
            return self._is_settled(target)

    def _is_settled(self, target: int) -> bool:
        return self._store.settled >= target and self._store.backlog == 0

    def close(self, timeout: float) -> bool:
        """Take nothing more, send what waits, end the thread; return whether all is settled."""
        deadline = time.monotonic() + timeout
        with self._lock:
            self._take_aside()
            self.is_closing = True
            if self._thread is None and not self._store.waiting:
                self._is_stopping = True
                self._finish()
                return True
        is_settled = self.flush(timeout)
        with self._lock:
            self._is_stopping = True
            self._wake.set()
        if self._thread is not None and threading.current_thread() is not self._thread:
            self._thread.join(max(0.0, deadline - time.monotonic()) + FLUSHING_SECONDS)
        return is_settled

    def abandon(self) -> None:
        """Let go of what a forked child inherited, and send none of it."""
        self._transport.close()
        self._store.abandon()

    def stats(self) -> Stats:
        """Return the counts, all of one moment."""
        with self._lock:
            self._take_aside()
            return Stats(
                recorded=self._recorded + self._lost_aside,
                recovered=self._store.recovered,
                stored=self._stored,
                refused=self._refused,
                dropped=self._dropped + self._lost_aside,
                queued=self._store.waiting,
                retries=self._retries,
                torn=self._store.torn,
                spooled_bytes=self._store.disk_bytes,
            )

    # --- the thread ------------------------------------------------------------------------------

    def _run(self) -> None:
        while not self._is_stopping:
            try:
                self._pass()
            except Exception as error:  # noqa: BLE001, PERF203 - usage waits behind this loop
                log.exception("the sender failed and goes on")
                with self._lock:
                    self._problems.note("internal", f"{error.__class__.__name__}: {error}")
                self._wake.clear()
                self._wake.wait(TICK_SECONDS)
        with self._lock:
            self._finish()
        self._problems.tell()
        self._transport.close()

    def _finish(self) -> None:
        if self._is_finished:
            return
        self._is_finished = True
        lost = self._store.close()
        self._dropped += lost
        if lost:
            self._problems.note("closed", f"{lost} events were not sent before the end")
        self._changed.notify_all()

    def _pass(self) -> None:
        """Send one batch, or wait for one."""
        self._tend()
        lines = self._store.peek(self._most_events, self._most_bytes)
        if not lines:
            with self._changed:
                self._changed.notify_all()
            self._wait_for(1, TICK_SECONDS)
        elif len(lines) < self._most_events and self._wait_for(
            self._batch_events, self._linger_seconds
        ):
            self._deliver(self._store.peek(self._most_events, self._most_bytes))
        else:
            self._deliver(lines)

    def _wait_for(self, waiting: int, seconds: float) -> bool:
        """Wait until so many events wait, or somebody is in a hurry; return whether it waited."""
        with self._lock:
            is_hurried = self._is_stopping or (self._flushers > 0 and waiting > 1)
            if is_hurried or self._store.kept - self._store.settled >= waiting:
                return False
            self._wake.clear()
            self._wake_at = waiting
        self._wake.wait(seconds)
        self._wake_at = NEVER
        return True

    def _tend(self) -> None:
        with self._lock:
            self._take_aside()
        troubles = self._store.tend()
        with self._lock:
            for kind, detail in troubles:
                self._problems.note(kind, detail)
        self._problems.tell()

    def _deliver(self, lines: list[bytes]) -> None:
        """Send a batch, the same bytes each time, until it is settled or must be cut smaller."""
        body = b"[" + b",".join(lines) + b"]"
        failures = unreadable = 0
        while not self._is_stopping:
            answer = self._transport.post(body, len(lines))
            if answer.fate is Fate.STORED:
                self._settle(lines, answer)
                return
            if answer.fate is Fate.UNREADABLE:
                if len(lines) > 1:
                    self._cut_smaller(len(lines), len(body), answer)
                    return
                unreadable += 1
                if unreadable == UNREADABLE_TRIES:
                    self._settle(lines, answer)
                    return
            failures += 1
            self._wait_to_retry(answer, failures)

    def _cut_smaller(self, count: int, size: int, answer: Answer) -> None:
        if answer.is_too_large:
            self._most_bytes = max(LEAST_BATCH_BYTES, size // 2)
        self._most_events = max(1, count // 2)

    def _settle(self, lines: list[bytes], answer: Answer) -> None:
        """Let go of a batch that is stored, or of one event that can never be."""
        if answer.fate is Fate.STORED:
            refused = [(lines[refusal.index], refusal.detail) for refusal in answer.refusals]
        else:
            refused = [(line, answer.detail) for line in lines]
        # Before it counts as settled, so that whoever waits for a flush has been told by then.
        for line, detail in refused:
            self._problems.refused(Problem("refused", detail, id_of(line)))
        with self._changed:
            self._store.done(len(lines))
            self._stored += len(lines) - len(refused)
            self._refused += len(refused)
            self._most_events = min(self._batch_events, self._most_events * 2)
            self._changed.notify_all()

    def _wait_to_retry(self, answer: Answer, failures: int) -> None:
        """Wait a random part of a span that doubles, and first as long as the server asks for."""
        ceiling = min(MOST_BACK_OFF_SECONDS, FIRST_BACK_OFF_SECONDS * 2 ** min(failures - 1, 10))
        seconds = self._random.uniform(0, ceiling)
        kind = "busy" if answer.is_answered else "unreachable"
        if answer.fate is Fate.DENIED:
            kind = "denied"
            seconds += DENIED_SECONDS
        if answer.retry_after is not None:
            seconds += answer.retry_after
        with self._lock:
            self._retries += 1
            self._problems.note(kind, answer.detail)
        self._problems.tell()
        began = time.monotonic()
        while not self._is_stopping:
            is_hurried = self._flushers > 0 and answer.retry_after is None
            span = min(seconds, FLUSHING_SECONDS) if is_hurried else seconds
            left = began + span - time.monotonic()
            if left <= 0:
                return
            self._wake.clear()
            self._wake.wait(min(left, TICK_SECONDS))
            self._tend()


def id_of(line: bytes) -> str:
    """Return the id in an event's line; empty when the line is no event."""
    try:
        return str(json.loads(line)["id"])
    except (ValueError, TypeError, KeyError):
        return ""
