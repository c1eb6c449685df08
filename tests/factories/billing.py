"""Rows of billing. Nothing is at Stripe unless its id is given."""

from billing.models import Customer, Plan, WebhookEvent


def make_customer(external_id="acme", **fields):
    return Customer.objects.create(external_id=external_id, **fields)


def make_plan(slug="a-plan", **fields):
    return Plan.objects.create(slug=slug, name=slug, **fields)


def make_webhook_event(event_id="evt_1", **fields):
    defaults = {
        "kind": "snapshot",
        "type": "invoice.paid",
        "object_id": "in_1",
        "live_mode": False,
        "body": "{}",
    }
    return WebhookEvent.objects.create(stripe_event_id=event_id, **defaults | fields)
