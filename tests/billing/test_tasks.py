import pytest
from django.conf import settings

from billing import tasks
from billing.enums import WebhookState
from billing.models import Customer, Plan, Subscription, WebhookEvent
from billing_project.celery import app
from billing_project.schedule import JOBS
from tests.factories.billing import make_customer, make_webhook_event

pytestmark = [pytest.mark.integration, pytest.mark.django_db]


def test_webhooks_are_handled_by_the_projects_routes(emulator):
    make_webhook_event(type="charge.succeeded")

    tasks.process_webhooks()

    assert WebhookEvent.objects.get().state == WebhookState.IGNORED


def test_customers_and_subscriptions_left_behind_are_finished(catalogue, emulator):
    customer = make_customer("acme")
    Subscription.objects.create(customer=customer, plan=Plan.objects.get(slug="tokens-payg"))

    tasks.finish_customers()
    tasks.finish_subscriptions()

    assert Customer.objects.get().stripe_customer_id is not None
    assert Subscription.objects.get().status == "active"


def test_every_job_of_ours_is_a_task_and_goes_to_the_queue_the_schedule_names():
    ours = {job.task: job.queue for job in JOBS if job.task.startswith("billing.")}

    assert len(ours) == 5
    for name, queue in ours.items():
        assert name in app.tasks
        assert app.amqp.router.route({}, name)["queue"].name == queue


def test_a_pass_ends_before_the_soft_limit():
    longest = (
        max(tasks.WEBHOOK_PASS_SECONDS, tasks.EVENT_SWEEP_SECONDS, 15)
        + settings.STRIPE_CALL_DEADLINE_SECONDS
    )

    assert longest < settings.CELERY_TASK_SOFT_TIME_LIMIT
