"""`python -m tests.client.recorder URL SPOOL BOOK COUNT`: a program that records, to be killed.

Each id goes into the file BOOK once its `record()` has returned, and not before. It records until
BOOK holds COUNT ids, then waits until all is sent.
"""

from __future__ import annotations

import os
import sys
import time

from meterkeeper_client import Meterkeeper

from tests.client.conftest import KEY, USE

PACE_SECONDS = 0.0005


def main(url: str, spool: str, book: str, count: str) -> int:
    """Return 0 when everything is settled."""
    client = Meterkeeper(url, KEY, spool=spool, linger_seconds=0.01)
    client.flush(0)
    file = os.open(book, os.O_RDWR | os.O_CREAT | os.O_APPEND)
    written = os.pread(file, 1 << 24, 0).count(b"\n")
    for _ in range(int(count) - written):
        event_id = client.record("llm.call", "acme", USE)
        os.write(file, f"{event_id}\n".encode())
        time.sleep(PACE_SECONDS)
    return 0 if client.close(30) else 1


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
