"""`Meterkeeper`: what a program that reports usage holds."""

from __future__ import annotations

import asyncio
import atexit
import os
import ssl
import threading
import time as clock
import weakref
from collections.abc import Callable, Mapping
from datetime import datetime
from pathlib import Path
from types import TracebackType

from meterkeeper_client.events import event_line, instant
from meterkeeper_client.ids import Ids
from meterkeeper_client.memory import Memory
from meterkeeper_client.problems import Problem, Problems, log
from meterkeeper_client.sender import Sender, Stats, Store
from meterkeeper_client.transport import Transport

MOST_BATCH_EVENTS = 1_000
"""The server's limit."""


class Meterkeeper:
    """Reports usage in the background. Safe to use from any thread, coroutine and forked child.

    Making one does no I/O, except that the spool's directory is made. Its thread begins with the
    first `record()` or `flush()`.
    """

    def __init__(  # noqa: PLR0913 - settings, by name
        self,
        url: str,
        key: str,
        *,
        on_problem: Callable[[Problem], object] | None = None,
        spool: str | os.PathLike[str] | None = None,
        spool_bytes: int = 256 * 1024 * 1024,
        queue_events: int = 50_000,
        queue_bytes: int = 32 * 1024 * 1024,
        batch_events: int = 500,
        linger_seconds: float = 0.2,
        timeout_seconds: float = 10.0,
        exit_seconds: float = 5.0,
        compress: bool = False,
        ssl_context: ssl.SSLContext | None = None,
    ) -> None:
        """Take the server's address and an API key with the scope `ingest`.

        The README explains each setting.

        Raises:
            ValueError, OSError: a setting makes no sense, or the spool cannot be written.
        """
        if not 1 <= batch_events <= MOST_BATCH_EVENTS:
            raise ValueError(f"batch_events must be 1 to {MOST_BATCH_EVENTS}")
        for name, value in (
            ("spool_bytes", spool_bytes),
            ("queue_events", queue_events),
            ("queue_bytes", queue_bytes),
            ("timeout_seconds", timeout_seconds),
        ):
            if value <= 0:
                raise ValueError(f"{name} must be more than 0")

        def make_store(lock: threading.Lock) -> Store:
            if spool is None:
                return Memory(lock=lock, most_events=queue_events, most_bytes=queue_bytes)
            # It needs file locks, which not every system has.
            from meterkeeper_client.spool import Spool  # noqa: PLC0415

            return Spool(Path(spool), most_bytes=spool_bytes)

        def make_sender() -> Sender:
            return Sender(
                make_store,
                Transport(
                    url, key, timeout=timeout_seconds, compress=compress, context=ssl_context
                ),
                Problems(on_problem),
                batch_events=batch_events,
                linger_seconds=linger_seconds,
            )

        self._make_sender = make_sender
        self._exit_seconds = exit_seconds
        self._start_anew()
        _clients.add(self)
        # It also keeps the client from vanishing with events in it, until it is closed.
        atexit.register(self._close_at_exit)

    def _start_anew(self) -> None:
        self._sender = self._make_sender()
        self._ids = Ids()
        self._pid = os.getpid()

    def record(
        self,
        type: str,  # noqa: A002 - the attribute's name
        customer: str,
        data: Mapping[str, object],
        *,
        id: str | None = None,  # noqa: A002 - the attribute's name
        time: datetime | str | None = None,
    ) -> str:
        """Keep one use for sending, and return its id at once. Never blocks and never raises.

        `customer` is your id of the customer; `data` holds the values the meters read, and is read
        before this returns. `id` is made when you give none: give one when the same use may be
        recorded twice, such as by a job that is repeated, and then always the same `time` with it.
        Without `time` it is now.

        What could not be kept is counted in `stats()` and told to `on_problem` and to the log; the
        id is returned also then, and is empty only when `id` is no text.
        """
        event_id = ""
        try:
            if os.getpid() != self._pid:
                self._forked()
            nanoseconds = clock.time_ns()
            event_id = self._ids.make(nanoseconds // 1_000_000) if id is None else id
            try:
                line = event_line(type, customer, data, event_id, instant(time, nanoseconds))
            except Exception as error:  # noqa: BLE001 - arguments may do anything when they are read
                event_id = event_id if isinstance(event_id, str) else ""
                self._sender.put(event_id, b"", "invalid", _reason(error))
            else:
                self._sender.put(event_id, line)
        except Exception:  # noqa: BLE001 - a mistake here must not become the caller's
            log.exception("record() failed")
        return event_id

    def flush(self, timeout: float = 30.0) -> bool:
        """Wait until everything recorded so far is settled: stored, or refused by the server.

        Returns whether it is. With a spool this includes what dead processes left, so `flush(0)` at
        the start of a program begins to send that.
        """
        self._check_process()
        return self._sender.flush(timeout)

    def close(self, timeout: float = 5.0) -> bool:
        """Send what waits and end the thread; later events are dropped. Returns as `flush`.

        What is not sent in time is dropped and counted; with a spool it stays for the next process.
        """
        self._check_process()
        atexit.unregister(self._close_at_exit)
        return self._sender.close(timeout)

    def stats(self) -> Stats:
        """Return this process's counts so far."""
        self._check_process()
        return self._sender.stats()

    async def aflush(self, timeout: float = 30.0) -> bool:
        """Do as `flush`, without holding up the event loop."""
        return await asyncio.to_thread(self.flush, timeout)

    async def aclose(self, timeout: float = 5.0) -> bool:
        """Do as `close`, without holding up the event loop."""
        return await asyncio.to_thread(self.close, timeout)

    def __enter__(self) -> Meterkeeper:  # noqa: PYI034 - Self is younger than Python 3.10
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    async def __aenter__(self) -> Meterkeeper:  # noqa: PYI034 - likewise
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.aclose()

    def _check_process(self) -> None:
        if os.getpid() != self._pid:
            self._forked()

    def _forked(self) -> None:
        """Begin anew in a forked child: the parent sends what is the parent's."""
        inherited = self._sender
        self._start_anew()
        if inherited.is_closing:
            self._sender.close(0)
        inherited.abandon()

    def _close_at_exit(self) -> None:
        self._check_process()
        self._sender.close(self._exit_seconds)


def _reason(error: Exception) -> str:
    try:
        return f"{error.__class__.__name__}: {error}"
    except Exception:  # noqa: BLE001 - a caller's exception may not even have a text
        return error.__class__.__name__


_clients: weakref.WeakSet[Meterkeeper] = weakref.WeakSet()


def _start_children_anew() -> None:
    for client in list(_clients):
        try:
            client._check_process()  # noqa: SLF001 - of this module
        except Exception:  # noqa: BLE001, PERF203 - a fork must not fail for us
            log.exception("a forked client could not begin anew; its next use tries again")


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_start_children_anew)
