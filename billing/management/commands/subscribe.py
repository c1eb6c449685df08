"""Put a customer on a plan."""

from __future__ import annotations

from argparse import ArgumentParser
from typing import Any

from django.core.management.base import BaseCommand, CommandError

from billing.models import Customer, Plan
from billing.subscriptions import SubscriptionPending, SubscriptionRefused, subscribe


class Command(BaseCommand):
    help = "Put a customer on a plan. Repeating it changes nothing."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("external_id", help="your own id of the customer")
        parser.add_argument("plan", help="slug of the plan")

    def handle(self, **options: Any) -> None:
        try:
            customer = Customer.objects.get(external_id=options["external_id"])
            plan = Plan.objects.get(slug=options["plan"])
            result = subscribe(customer=customer, plan=plan)
        except Customer.DoesNotExist as error:
            raise CommandError(f"No customer has the id {options['external_id']}.") from error
        except Plan.DoesNotExist as error:
            raise CommandError(f"No plan has the name {options['plan']}.") from error
        except (SubscriptionRefused, SubscriptionPending) as error:
            raise CommandError(str(error)) from error
        subscription = result.subscription
        self.stdout.write(
            f"{'Subscribed' if result.created else 'Is subscribed'}: {subscription},"
            f" {subscription.status} ({subscription.stripe_subscription_id})"
        )
        if result.setup_secret:
            self.stdout.write(f"Collect a card with setup intent secret {result.setup_secret}")
        if result.payment_secret:
            self.stdout.write(f"First payment's client secret {result.payment_secret}")
