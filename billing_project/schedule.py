"""The periodic jobs as one table, and its copy into django-celery-beat's.

Staff pause and move jobs in the admin, so seeding adds what is missing and leaves the rest alone,
except for what only code may decide: task, queue and expiry.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from django.conf import settings
from django.db import transaction


@dataclass(frozen=True, slots=True)
class Job:
    """One periodic wake-up: every `seconds`, or daily at `utc_time` ("HH:MM")."""

    task: str
    queue: str
    reason: str
    seconds: int = 0
    utc_time: str = ""

    @property
    def expire_seconds(self) -> int:
        """A tick nobody took within two intervals is dropped: the next one does its work."""
        return 2 * self.seconds if self.seconds else 3_600


JOBS = (
    Job(
        task="usage.flush_due",
        queue="flush",
        seconds=settings.USAGE_FLUSH_SECONDS,
        reason="fold stored events into submissions",
    ),
    Job(
        task="usage.deliver_due",
        queue="delivery",
        seconds=settings.USAGE_DELIVERY_SECONDS,
        reason="send what is due to Stripe; also the sweep of overdue leases",
    ),
    Job(
        task="billing.process_webhooks",
        queue="webhooks",
        seconds=30,
        reason="handle stored webhooks whose wake-up was lost",
    ),
    Job(
        task="billing.finish_customers",
        queue="webhooks",
        seconds=60,
        reason="create at Stripe the customers an outage or a crash left without an id",
    ),
    Job(
        task="billing.finish_subscriptions",
        queue="webhooks",
        seconds=60,
        reason="create at Stripe the subscriptions an outage or a crash left without an id",
    ),
    Job(
        task="reconciliation.reconcile_recent",
        queue="reconciliation",
        utc_time="02:30",
        reason="compare every cell with Stripe's summaries",
    ),
)


@transaction.atomic
def seed() -> None:
    """Write `JOBS` into django-celery-beat's tables. A repetition changes nothing."""
    from django_celery_beat.models import (  # noqa: PLC0415 - needs loaded apps
        CrontabSchedule,
        IntervalSchedule,
        PeriodicTask,
    )

    for job in JOBS:
        fixed: dict[str, Any] = {
            "task": job.task,
            "queue": job.queue,
            "expire_seconds": job.expire_seconds,
            "description": job.reason,
        }
        if job.seconds:
            schedule, _ = IntervalSchedule.objects.get_or_create(
                every=job.seconds, period=IntervalSchedule.SECONDS
            )
            timing: dict[str, Any] = {"interval": schedule, "crontab": None}
        else:
            hour, minute = job.utc_time.split(":")
            crontab, _ = CrontabSchedule.objects.get_or_create(
                hour=str(int(hour)), minute=str(int(minute)), timezone="UTC"
            )
            timing = {"crontab": crontab, "interval": None}
        PeriodicTask.objects.update_or_create(
            name=job.task, defaults=fixed, create_defaults=fixed | timing
        )


def seed_after_migrate(**_: Any) -> None:
    """Seed once the tables exist; runs with every `migrate`."""
    seed()
