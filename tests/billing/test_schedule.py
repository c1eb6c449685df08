from dataclasses import replace

import pytest
from django.core.management import call_command
from django_celery_beat.models import IntervalSchedule, PeriodicTask

from billing_project.schedule import JOBS, Job, seed

pytestmark = [pytest.mark.integration, pytest.mark.django_db]


def test_migrating_seeds_every_job_and_leaves_what_staff_moved():
    PeriodicTask.objects.all().delete()
    call_command("migrate", verbosity=0)
    PeriodicTask.objects.filter(name=JOBS[0].task).update(enabled=False)

    call_command("migrate", verbosity=0)

    assert dict(PeriodicTask.objects.values_list("name", "enabled")) == {
        job.task: job != JOBS[0] for job in JOBS
    }


def every(seconds: int) -> Job:
    return replace(JOBS[0], seconds=seconds)


def interval() -> int:
    return PeriodicTask.objects.get(name=JOBS[0].task).interval.every


def test_an_interval_nobody_moved_follows_the_settings():
    for seconds in (60, 5, 30):
        seed([every(seconds)])
        assert interval() == seconds


def test_an_interval_staff_moved_stays():
    seed([every(60)])
    own = IntervalSchedule.objects.create(every=20, period=IntervalSchedule.SECONDS)
    PeriodicTask.objects.filter(name=JOBS[0].task).update(interval=own)

    for seconds in (60, 5, 30):
        seed([every(seconds)])
        assert interval() == 20


def test_an_interval_that_stands_twice_is_no_obstacle():
    for _ in range(2):
        IntervalSchedule.objects.create(every=7, period=IntervalSchedule.SECONDS)

    seed([every(7)])

    assert interval() == 7
