"""The load of the benchmark: raw requests over a few connections, cheap to send."""

import asyncio
import json
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stripe_emulator.version import API_VERSION

CUSTOMERS = 50
CONNECTIONS = 8
PER_STREAM_REQUEST = 100
PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
HOURS = 24
_JSON = "application/json"
_FORM = "application/x-www-form-urlencoded"


@dataclass(frozen=True, slots=True)
class Target:
    """A running emulator, with a meter and customers to send usage for."""

    port: int
    process_id: int
    customers: list[str]

    def resident_bytes(self) -> int:
        fields = Path(f"/proc/{self.process_id}/statm").read_text().split()
        return int(fields[1]) * PAGE_BYTES

    def cpu_seconds(self) -> float:
        fields = Path(f"/proc/{self.process_id}/stat").read_text().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


class Connection:
    """One keep-alive connection that sends whole requests and reads whole answers."""

    def __init__(self, port: int) -> None:
        self._port = port

    async def open(self) -> None:
        self._reader, self._writer = await asyncio.open_connection("127.0.0.1", self._port)

    async def send(self, request: bytes) -> bytes:
        """Return the body of a 200; anything else ends the run."""
        self._writer.write(request)
        head = await self._reader.readuntil(b"\r\n\r\n")
        lines = head.lower().split(b"\r\n")
        length = next(int(line[15:]) for line in lines if line.startswith(b"content-length:"))
        body = await self._reader.readexactly(length)
        if not head.startswith(b"HTTP/1.1 200"):
            raise RuntimeError(f"the emulator answered {head[:15]!r}: {body[:300]!r}")
        return body

    async def close(self) -> None:
        self._writer.close()
        await self._writer.wait_closed()


def http(path: str, token: str, body: bytes, *, kind: str = _JSON, key: str = "") -> bytes:
    """Return a POST, ready to write."""
    idempotency = f"Idempotency-Key: {key}\r\n" if key else ""
    head = (
        f"POST {path} HTTP/1.1\r\nHost: emulator\r\nAuthorization: Bearer {token}\r\n"
        f"Stripe-Version: {API_VERSION}\r\nContent-Type: {kind}\r\n{idempotency}"
        f"Content-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


def v1_requests(target: Target, run: str, count: int) -> Iterator[tuple[bytes, int]]:
    """Yield single events, each with a key of its own as the SDK sends them."""
    now = int(time.time())
    for index in range(count):
        customer = target.customers[index % CUSTOMERS]
        at = now - 3600 * (index % HOURS)
        body = (
            f"event_name=bench&identifier={run}-{index}&timestamp={at}"
            f"&payload[value]={index % 1000}&payload[stripe_customer_id]={customer}"
        )
        yield (
            http(
                "/v1/billing/meter_events",
                "sk_test_bench",
                body.encode(),
                kind=_FORM,
                key=f"{run}-{index}",
            ),
            1,
        )


def stream_requests(
    target: Target, token: str, run: str, events: int
) -> Iterator[tuple[bytes, int]]:
    """Yield requests of a hundred events."""
    now = int(time.time())
    for start in range(0, events, PER_STREAM_REQUEST):
        batch = [
            {
                "event_name": "bench",
                "identifier": f"{run}-{index}",
                "payload": {
                    "stripe_customer_id": target.customers[index % CUSTOMERS],
                    "value": str(index % 1000),
                },
                "timestamp": time.strftime(
                    "%Y-%m-%dT%H:%M:%SZ", time.gmtime(now - 3600 * (index % HOURS))
                ),
            }
            for index in range(start, min(start + PER_STREAM_REQUEST, events))
        ]
        body = json.dumps({"events": batch}).encode()
        path = "/v2/billing/meter_event_stream"
        yield http(path, token, body), len(batch)


async def drive(port: int, requests: list[tuple[bytes, int]]) -> float:
    """Send all requests over a few connections and return the seconds that took."""
    queue = iter(requests)

    async def worker(connection: Connection) -> None:
        for request, _ in queue:
            await connection.send(request)

    connections = [Connection(port) for _ in range(CONNECTIONS)]
    for connection in connections:
        await connection.open()
    started = time.perf_counter()
    await asyncio.gather(*(worker(connection) for connection in connections))
    seconds = time.perf_counter() - started
    for connection in connections:
        await connection.close()
    return seconds


async def session_token(port: int) -> str:
    connection = Connection(port)
    await connection.open()
    path = "/v2/billing/meter_event_session"
    body = await connection.send(http(path, "sk_test_bench", b"{}"))
    await connection.close()
    return str(json.loads(body)["authentication_token"])


async def prepared(port: int, process_id: int) -> Target:
    """Make the meter and the customers."""
    connection = Connection(port)
    await connection.open()

    async def post(path: str, body: bytes) -> Any:
        return json.loads(await connection.send(http(path, "sk_test_bench", body, kind=_FORM)))

    meter = b"display_name=Bench&event_name=bench&default_aggregation[formula]=sum"
    await post("/v1/billing/meters", meter)
    customers = [(await post("/v1/customers", b"name=Bench"))["id"] for _ in range(CUSTOMERS)]
    await connection.close()
    return Target(port, process_id, customers)
