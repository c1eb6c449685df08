"""The periodic jobs as one table, and its copy into django-celery-beat's.

Staff pause and move jobs in the admin, so seeding adds what is missing and leaves the rest alone,
except for what only code may decide: task, queue and expiry. An interval nobody moved follows the
settings: `make demo` shortens them for itself, not for every run after it.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from django.conf import settings
from django.db import transaction

if TYPE_CHECKING:
    from django_celery_beat.models import IntervalSchedule, PeriodicTask


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

    def described(self, seconds: int) -> str:
        """Say what the job is for and how often it was seeded to run."""
        return f"{self.reason} (seeded: every {seconds} s)" if seconds else self.reason


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
        task="billing.sweep_webhooks",
        queue="webhooks",
        # Hourly, because a sweep that Stripe did not answer goes on; one begins each day.
        seconds=3_600,
        reason="once a day, fetch from Stripe's list the events whose webhooks never came",
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
        task="usage.report_ages",
        queue="reconciliation",
        seconds=3_600,
        reason="tell people of usage that grows old before Stripe has counted it",
    ),
    Job(
        task="usage.close_error_reports",
        queue="reconciliation",
        seconds=3_600,
        reason="close Stripe's error reports that are cleared up, and tell of those that are not",
    ),
    Job(
        task="billing.check_meters",
        queue="webhooks",
        utc_time="03:30",
        reason="ask Stripe whether its meters can still take what we send",
    ),
    Job(
        task="usage.check_invariants",
        queue="reconciliation",
        utc_time="04:30",
        reason="ask our own tables whether they contradict each other",
    ),
    Job(
        task="usage.check_leaks",
        queue="reconciliation",
        utc_time="05:00",
        reason="look for usage that will reach no invoice, or reach it wrongly",
    ),
    Job(
        task="reconciliation.reconcile_recent",
        queue="reconciliation",
        utc_time="02:30",
        reason="compare every cell with Stripe's summaries",
    ),
    Job(
        task="reconciliation.reconcile_doubtful",
        queue="reconciliation",
        seconds=3_600,
        reason="ask Stripe's summaries what became of submissions in doubt",
    ),
)


@transaction.atomic
def seed(jobs: Iterable[Job] = JOBS) -> None:
    """Write `jobs` into django-celery-beat's tables. A repetition changes nothing."""
    from django_celery_beat.models import PeriodicTask  # noqa: PLC0415 - needs loaded apps

    for job in jobs:
        fixed: dict[str, Any] = {
            "task": job.task,
            "queue": job.queue,
            "expire_seconds": job.expire_seconds,
            "description": job.described(job.seconds),
        }
        timing = _timing(job)
        known = PeriodicTask.objects.select_related("interval").filter(name=job.task).first()
        PeriodicTask.objects.update_or_create(
            name=job.task,
            defaults=fixed | timing if known and _is_unmoved(known, job) else fixed,
            create_defaults=fixed | timing,
        )


def _timing(job: Job) -> dict[str, Any]:
    from django_celery_beat.models import CrontabSchedule  # noqa: PLC0415 - needs loaded apps

    if job.seconds:
        return {"interval": _every(job.seconds), "crontab": None}
    hour, minute = job.utc_time.split(":")
    crontab, _ = CrontabSchedule.objects.get_or_create(
        hour=str(int(hour)), minute=str(int(minute)), timezone="UTC"
    )
    return {"crontab": crontab, "interval": None}


def _every(seconds: int) -> IntervalSchedule:
    from django_celery_beat.models import IntervalSchedule  # noqa: PLC0415 - needs loaded apps

    # Not get_or_create: nothing keeps staff from making the same interval twice.
    wanted = {"every": seconds, "period": IntervalSchedule.SECONDS}
    found = IntervalSchedule.objects.filter(**wanted).order_by("pk").first()
    return found or IntervalSchedule.objects.create(**wanted)


def _is_unmoved(row: PeriodicTask, job: Job) -> bool:
    """Tell whether a job still runs as often as its description says it was seeded to."""
    interval = row.interval
    return (
        interval is not None
        and interval.period == interval.SECONDS
        and row.description == job.described(interval.every)
    )


def seed_after_migrate(**_: Any) -> None:
    """Seed once the tables exist; runs with every `migrate`."""
    seed()
