import pytest
from django.core.management import call_command
from django_celery_beat.models import PeriodicTask

from billing_project.schedule import JOBS

pytestmark = [pytest.mark.integration, pytest.mark.django_db]


def test_migrating_seeds_every_job_and_leaves_what_staff_moved():
    PeriodicTask.objects.all().delete()
    call_command("migrate", verbosity=0)
    PeriodicTask.objects.filter(name=JOBS[0].task).update(enabled=False)

    call_command("migrate", verbosity=0)

    assert dict(PeriodicTask.objects.values_list("name", "enabled")) == {
        job.task: job != JOBS[0] for job in JOBS
    }
