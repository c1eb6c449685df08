"""Create a customer here and at Stripe."""

from __future__ import annotations

from argparse import ArgumentParser
from typing import Any

from django.core.management.base import BaseCommand, CommandError

from billing.customers import CustomerConflict, CustomerRefused, create_customer


class Command(BaseCommand):
    help = "Create a customer here and at Stripe. Repeating it with the same data changes nothing."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("external_id", help="your own id of the customer")
        parser.add_argument("--email", default="")
        parser.add_argument("--name", default="")

    def handle(self, **options: Any) -> None:
        try:
            customer, created = create_customer(
                external_id=options["external_id"], email=options["email"], name=options["name"]
            )
        except (CustomerConflict, CustomerRefused) as refusal:
            raise CommandError(str(refusal)) from refusal
        at_stripe = customer.stripe_customer_id or "not at Stripe yet; a sweep goes on asking"
        self.stdout.write(f"{'Created' if created else 'Exists'}: {customer} ({at_stripe})")
