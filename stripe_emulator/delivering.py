"""Making webhook deliveries over HTTP, in the background of the server."""

import asyncio
import http.client
import logging
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import urlsplit

from stripe_emulator.core.deliveries import Delivery
from stripe_emulator.core.emulator import Emulator

log = logging.getLogger(__name__)

LOOK_EVERY_SECONDS = 0.05
ANSWER_TIMEOUT_SECONDS = 20
"""Stripe does not publish its own."""
AT_ONCE = 8


class Deliverer:
    """Hand out what the emulator owes and tell it how that went."""

    def __init__(self, emulator: Emulator) -> None:
        self._emulator = emulator
        self._under_way: set[asyncio.Task[None]] = set()

    async def run(self) -> None:
        """Deliver until cancelled; the requests then under way are given up."""
        threads = ThreadPoolExecutor(AT_ONCE, thread_name_prefix="webhook")
        try:
            while True:
                for delivery in self._emulator.pop_deliveries():
                    task = asyncio.create_task(self._deliver(delivery, threads))
                    self._under_way.add(task)
                    task.add_done_callback(self._under_way.discard)
                await asyncio.sleep(LOOK_EVERY_SECONDS)
        finally:
            for task in self._under_way:
                task.cancel()
            threads.shutdown(wait=False, cancel_futures=True)

    async def _deliver(self, delivery: Delivery, threads: ThreadPoolExecutor) -> None:
        status = await asyncio.get_running_loop().run_in_executor(threads, post, delivery)
        self._emulator.report_delivery(delivery, status)


def post(delivery: Delivery) -> int:
    """Make one delivery and return the status, 0 when there was no answer.

    Redirects are not followed.
    """
    parts = urlsplit(delivery.url)
    kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
    connection = kind(parts.netloc, timeout=ANSWER_TIMEOUT_SECONDS)
    path = parts.path or "/"
    target = f"{path}?{parts.query}" if parts.query else path
    try:
        connection.request("POST", target, delivery.body, dict(delivery.headers))
        return connection.getresponse().status
    except (OSError, http.client.HTTPException) as error:
        log.info("delivery %s to %s failed: %s", delivery.event_id, delivery.url, error)
        return 0
    finally:
        connection.close()
