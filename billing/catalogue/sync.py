"""Bringing our tables and Stripe to where the catalogue file wants them.

The order makes every moment safe to stop at. Our own rows are written first, in one transaction:
usage may name a meter that Stripe does not have yet, and is held until it does. Then Stripe is
changed step by step, with no transaction open, and each answer stored. A sync broken off anywhere
is finished by the next one, which finds meters by event name, products by id and prices by lookup
key; no memory of ours says what was done.

When a meter begins to read events: the first time anything reads an event type, nobody can have
reported one before, so the reading holds from the epoch and no clock matters. All meters of a new
event type are written in that one transaction, so all of them hold from the epoch. A changed
reading, and a meter added to a type that is already reported, hold from five minutes after the
sync, and the former reading until that same instant. By then every process has read the catalogue
anew (it keeps a copy for 30 s), and no event with a later `occurred_at` can have been taken before
(times more than 120 s ahead are refused): each event is read one way, by everybody.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta

from django.conf import settings
from django.db import transaction

from billing.catalogue import steps
from billing.catalogue.changes import changes, lookup_key, terms
from billing.catalogue.state import AtStripe, Known, KnownMeter, KnownPlan, KnownPrice
from billing.catalogue.steps import Changes
from billing.catalogue.values import Catalogue, PriceDefinition, Reading
from billing.enums import Aggregation
from billing.gateway import catalogue as gateway
from billing.gateway.names import product_id
from billing.models import Meter, MeterVersion, Plan, Price

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
NOTICE = timedelta(minutes=5)
"""How far ahead a changed reading begins; see above."""


def planned(wanted: Catalogue) -> Changes:
    """Return what a sync would do now. Asks Stripe, changes nothing.

    Raises:
        CatalogueRefused: something in it can never be changed.
        GatewayError: Stripe did not answer.
    """
    deployment = settings.DEPLOYMENT
    keys = [lookup_key(deployment, price) for plan in wanted.plans for price in plan.prices]
    at_stripe = AtStripe(
        meters=gateway.meters(),
        products=gateway.products([product_id(key) for key in keys]),
        prices=gateway.prices(keys),
    )
    return changes(wanted=wanted, known=known(), at_stripe=at_stripe, deployment=deployment)


def apply(planned: Changes, *, now: datetime, tell: Callable[[str], None]) -> None:
    """Do what is planned, telling each step's line once it is done.

    Raises:
        GatewayError: Stripe refused or did not answer; the next sync goes on from there.
    """
    with transaction.atomic():
        for ours in planned.ours:
            _change_ours(ours, now)
    for ours in planned.ours:
        tell(str(ours))
    for step in planned.at_stripe:
        _change_stripe(step)
        tell(str(step))


def known() -> Known:
    """Return the catalogue as our tables hold it."""
    readings = {
        version.meter_id: Reading(
            event_type=version.event_type,
            value_property=version.value_property,
            required=version.required,
            measures=tuple(sorted(version.measures)),
        )
        for version in MeterVersion.objects.filter(effective_until=None)
    }
    return Known(
        meters={
            meter.slug: KnownMeter(
                slug=meter.slug,
                display_name=meter.display_name,
                event_name=meter.event_name,
                aggregation=Aggregation(meter.aggregation),
                unit=meter.unit,
                scale=meter.scale,
                stripe_meter_id=meter.stripe_meter_id or "",
                reading=readings.get(meter.pk),
            )
            for meter in Meter.objects.all()
        },
        event_types=frozenset(
            MeterVersion.objects.order_by().values_list("event_type", flat=True).distinct()
        ),
        plans={
            plan.slug: KnownPlan(slug=plan.slug, name=plan.name, active=plan.active)
            for plan in Plan.objects.all()
        },
        prices={
            price.lookup_key: KnownPrice(
                lookup_key=price.lookup_key,
                plan=price.plan.slug,
                name=price.name,
                stripe_price_id=price.stripe_price_id,
            )
            for price in Price.objects.select_related("plan").filter(active=True)
        },
    )


def _change_ours(step: steps.Ours, now: datetime) -> None:
    match step:
        case steps.RecordMeter(meter=meter):
            fixed = {
                "event_name": meter.event_name,
                "aggregation": meter.aggregation,
                "scale": meter.scale,
            }
            named = {"display_name": meter.display_name, "unit": meter.unit}
            Meter.objects.update_or_create(
                slug=meter.slug, defaults=named, create_defaults=fixed | named
            )
        case steps.BeginReading():
            _begin_reading(step, now)
        case steps.RecordPlan(slug=slug, name=name):
            Plan.objects.update_or_create(slug=slug, defaults={"name": name, "active": True})
        case steps.RetirePlan(slug=slug):
            Plan.objects.filter(slug=slug).update(active=False)
        case steps.RetirePrice(lookup_key=key):
            Price.objects.filter(lookup_key=key, active=True).update(active=False)


def _begin_reading(step: steps.BeginReading, now: datetime) -> None:
    soon = now + NOTICE
    meter = Meter.objects.get(slug=step.meter)
    meter.versions.filter(effective_until=None).update(effective_until=soon)
    meter.versions.create(
        event_type=step.reading.event_type,
        value_property=step.reading.value_property,
        required=step.reading.required,
        measures=list(step.reading.measures),
        effective_from=EPOCH if step.from_the_beginning else soon,
    )


def _change_stripe(step: steps.AtStripe) -> None:
    match step:
        case steps.CreateMeter(meter=meter):
            made = gateway.create_meter(
                event_name=meter.event_name,
                display_name=meter.display_name,
                formula=meter.aggregation.formula,
            )
            Meter.objects.filter(slug=meter.slug).update(stripe_meter_id=made.id)
        case steps.LinkMeter(meter=meter, stripe_meter_id=meter_id):
            Meter.objects.filter(slug=meter.slug).update(stripe_meter_id=meter_id)
        case steps.RenameMeter(meter=meter, stripe_meter_id=meter_id):
            gateway.rename_meter(meter_id=meter_id, display_name=meter.display_name)
        case steps.NameProduct(lookup_key=key, name=name, is_new=True):
            gateway.create_product(id=product_id(key), name=name)
        case steps.NameProduct(lookup_key=key, name=name):
            gateway.rename_product(id=product_id(key), name=name)
        case steps.CreatePrice(price=price, lookup_key=key):
            _offer(price, key, _created(price, key))
        case steps.LinkPrice(price=price, lookup_key=key, stripe_price_id=price_id):
            _offer(price, key, price_id)
        case steps.RenamePrice(lookup_key=key, name=name):
            Price.objects.filter(lookup_key=key, active=True).update(name=name)


def _created(price: PriceDefinition, key: str) -> str:
    meter_id = Meter.objects.get(slug=price.meter).stripe_meter_id if price.meter else None
    return gateway.create_price(
        lookup_key=key,
        product_id=product_id(key),
        name=price.name,
        terms=terms(price, meter_id=meter_id),
    )


@transaction.atomic
def _offer(price: PriceDefinition, key: str, stripe_price_id: str) -> None:
    """Make a price the one that new subscriptions get under its lookup key."""
    Price.objects.filter(lookup_key=key, active=True).update(active=False)
    Price.objects.update_or_create(
        stripe_price_id=stripe_price_id,
        defaults={
            "plan": Plan.objects.get(slug=price.plan),
            "lookup_key": key,
            "name": price.name,
            "kind": price.kind,
            "meter": Meter.objects.get(slug=price.meter) if price.meter else None,
            "currency": price.currency,
            "interval": price.interval,
            "rule": price.rule,
            "stripe_product_id": product_id(key),
            "active": True,
        },
    )
