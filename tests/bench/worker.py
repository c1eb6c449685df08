"""`python -m tests.bench.worker`: a delivery worker without Celery, told when to begin.

It makes a pass that finds nothing, so that it is connected and has asked Stripe all it asks at a
start, says `ready`, begins at the first line it is sent, delivers until nothing
is due, says what it did in JSON, and stays until its input ends, so that its CPU time can be read.
"""

from __future__ import annotations

import json
import sys
import time
from collections import Counter

import django

django.setup()

from billing.gateway import meter_events  # noqa: E402 - models need Django set up
from usage import delivery  # noqa: E402
from usage.clock import database_clock  # noqa: E402
from usage.lifecycle import SENDABLE  # noqa: E402
from usage.models import SubmissionState  # noqa: E402

PASS_SECONDS = 15
IDLE_SECONDS = 0.01
"""Between passes when what is due is in the other worker's hands."""
GIVE_UP_SECONDS = 900


def main() -> int:
    """Do what the module says."""
    delivery.deliver_due(clock=database_clock, seconds=PASS_SECONDS)
    meter_events.probe()
    _say("ready")
    sys.stdin.readline()
    counts = _deliver()
    _say(json.dumps(counts))
    sys.stdin.read()
    return 0


def _deliver() -> Counter[str]:
    counts: Counter[str] = Counter()
    ends = time.monotonic() + GIVE_UP_SECONDS
    while _is_anything_due() and time.monotonic() < ends:
        done = delivery.deliver_due(clock=database_clock, seconds=PASS_SECONDS).counts
        if not done:
            time.sleep(IDLE_SECONDS)
        counts += done
    return counts


def _is_anything_due() -> bool:
    due = SubmissionState.objects.filter(state__in=SENDABLE, next_action_at__lte=database_clock())
    return due.exists()


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
