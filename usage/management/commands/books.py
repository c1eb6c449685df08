"""Prints the books: per meter, what was recorded and where every unit of it stands."""

from __future__ import annotations

import json
from argparse import ArgumentParser
from collections.abc import Iterator, Sequence
from decimal import Decimal
from typing import Any

from django.core.management.base import BaseCommand, CommandError

from billing.gateway.errors import GatewayError
from billing.models import Customer
from usage.lifecycle import State
from usage.statements import Statement, statement

ALWAYS_SHOWN = frozenset({State.ACCEPTED, State.SETTLED})
"""States every table shows; the others only when some meter has units in them."""


class Command(BaseCommand):
    help = (
        "Print, per meter: recorded = unflushed + held + credited + every state of a submission but"
        " superseded; and Stripe's own total beside it. Exits with 1 when an equation does not"
        " hold."
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("--customer", metavar="EXTERNAL_ID", help="only this customer's usage")
        parser.add_argument("--json", action="store_true", help="for programs; numbers are strings")
        parser.add_argument(
            "--at-rest",
            action="store_true",
            help="also ask that everything recorded is settled and equal to Stripe's total",
        )
        parser.add_argument("--no-stripe", action="store_true", help="our own books only")

    def handle(self, **options: Any) -> None:
        if options["at_rest"] and options["no_stripe"]:
            raise CommandError("--at-rest compares with Stripe: leave out --no-stripe.")
        customer = options["customer"]
        try:
            found = statement(customer=customer, with_stripe=not options["no_stripe"])
        except GatewayError as error:
            raise CommandError(
                f"Stripe could not be read: {error}. --no-stripe prints our own books."
            ) from error
        if (
            customer is not None
            and found.books.event_count == 0
            and not Customer.objects.filter(external_id=customer).exists()
        ):
            raise CommandError(f"No customer and no usage has the external id {customer!r}.")
        if options["json"]:
            self.stdout.write(json.dumps(_as_json(found)))
        else:
            self.stdout.write("\n".join(_as_text(found)))
        if not found.is_balanced or (options["at_rest"] and not found.is_at_rest):
            raise SystemExit(1)


def _as_json(found: Statement) -> dict[str, Any]:
    return {
        "meters": [
            {
                "meter": meter.meter,
                "unit": meter.unit_label,
                "events": meter.event_count,
                "recorded": f"{meter.recorded:f}",
                "unflushed": f"{meter.unflushed:f}",
                "held": f"{meter.held:f}",
                "credited": f"{meter.credited:f}",
                "states": {state.value: f"{meter.states[state]:f}" for state in State},
                "stripe": None if total is None else f"{total:f}",
                "balanced": found.is_meter_balanced(meter),
            }
            for meter in found.books.meters
            for total in [found.stripe_total(meter)]
        ],
        "events": found.books.event_count,
        "balanced": found.is_balanced,
        "at_rest": found.is_at_rest,
    }


def _as_text(found: Statement) -> Iterator[str]:
    if found.books.meters:
        yield from _aligned(list(_rows(found)))
        yield ""
    yield _verdict(found)


def _rows(found: Statement) -> Iterator[list[str]]:
    """Yield a heading and one line a meter, as cells: recorded = all between it and Stripe's."""
    meters = found.books.meters
    states = [
        state
        for state in State
        if state in ALWAYS_SHOWN or any(meter.states[state] for meter in meters)
    ]
    has_credit = any(meter.credited for meter in meters)
    heading = ["meter", "unit", "recorded", "unflushed", "held"]
    yield [
        *heading,
        *(["credited"] if has_credit else []),
        *(state.label for state in states),
        *([] if found.stripe is None else ["at Stripe"]),
    ]
    for meter in meters:
        total = found.stripe_total(meter)
        yield [
            meter.meter,
            meter.unit_label,
            _number(meter.recorded),
            _number(meter.unflushed),
            _number(meter.held),
            *([_number(meter.credited)] if has_credit else []),
            *(_number(meter.states[state]) for state in states),
            *([] if total is None else [_number(total)]),
        ]


def _aligned(rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """Yield the rows under a ruled heading: words to the left, numbers to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for index, row in enumerate(rows):
        padded = [
            cell.ljust(width) if column < len(("meter", "unit")) else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        yield "  ".join(padded).rstrip()
        if index == 0:
            yield "─" * (sum(widths) + 2 * (len(widths) - 1))


def _number(value: Decimal) -> str:
    return "0" if value == 0 else f"{value:,f}"


def _verdict(found: Statement) -> str:
    """Say in one sentence what the figures mean."""
    lost = [meter for meter in found.books.meters if not meter.is_conserved]
    if lost:
        return "BROKEN: " + "; ".join(
            f"{meter.meter} recorded {_number(meter.recorded)} {meter.unit_label},"
            f" but {_number(meter.accounted)} are accounted for"
            for meter in lost
        )
    excess = [meter for meter in found.books.meters if found.is_overbilled(meter)]
    if excess:
        return "OVER-BILLED: " + "; ".join(
            f"Stripe has {_number(found.stripe_total(meter) or Decimal(0))} {meter.unit_label} of"
            f" {meter.meter}, we recorded {_number(meter.recorded)}"
            for meter in excess
        )
    events = f"{found.books.event_count:,} event" + "s" * (found.books.event_count != 1)
    if not found.books.meters:
        return f"{events} stored, and no meter to bill them by."
    if found.is_at_rest:
        return f"Balanced and at rest: every unit of {events} is settled and equals Stripe's total."
    if found.stripe is None:
        return f"Balanced: every unit of {events} is accounted for. Stripe was not asked."
    return f"Balanced: every unit of {events} is accounted for, and not all of it is settled yet."
