"""What it takes to get from what is to what the file wants. Pure: it compares values.

What cannot be changed is refused, and then nothing is changed at all.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from billing.catalogue import steps
from billing.catalogue.state import AtStripe, Known, KnownPlan
from billing.catalogue.steps import Changes
from billing.catalogue.values import Catalogue, MeterDefinition, PlanDefinition, PriceDefinition
from billing.enums import Aggregation
from billing.gateway.names import CUSTOMER_KEY, VALUE_KEY, product_id
from billing.gateway.values import PriceTerms, StripeMeter


class CatalogueRefused(Exception):
    """The catalogue wants what cannot be; one sentence for each reason. Nothing was changed."""

    def __init__(self, reasons: Sequence[str]) -> None:
        super().__init__("\n".join(reasons))
        self.reasons = tuple(reasons)


def lookup_key(deployment: str, price: PriceDefinition) -> str:
    """Return the key a price is found by at Stripe; deployments on one account keep apart."""
    return f"{deployment}:{price.slug}"


def changes(*, wanted: Catalogue, known: Known, at_stripe: AtStripe, deployment: str) -> Changes:
    """Return what makes `known` and `at_stripe` into what is `wanted`.

    Raises:
        CatalogueRefused: something in it can never be changed, or is not ours to change.
    """
    prices = {
        lookup_key(deployment, price): price for plan in wanted.plans for price in plan.prices
    }
    reasons = [
        *_impossible_meters(wanted.meters, known, at_stripe),
        *_foreign_prices(prices, at_stripe, deployment),
    ]
    if reasons:
        raise CatalogueRefused(reasons)
    meter_ids = {
        meter.slug: at_stripe.meters[meter.event_name].id
        for meter in wanted.meters
        if meter.event_name in at_stripe.meters
    }
    slugs = {meter.slug for meter in wanted.meters}
    return Changes(
        ours=(
            *_our_meters(wanted.meters, known),
            *_our_plans(wanted.plans, known),
            *(steps.RetirePrice(key) for key in known.prices if key not in prices),
        ),
        at_stripe=(
            *_meters_at_stripe(wanted.meters, known, at_stripe),
            *_prices_at_stripe(prices, known, at_stripe, meter_ids),
        ),
        notes=tuple(
            f"meter {slug} is not in the file and goes on as it is"
            for slug in known.meters
            if slug not in slugs
        ),
    )


def _impossible_meters(
    meters: Sequence[MeterDefinition], known: Known, at_stripe: AtStripe
) -> Iterator[str]:
    owners = {meter.event_name: meter.slug for meter in known.meters.values()}
    for meter in meters:
        owner = owners.get(meter.event_name, meter.slug)
        if owner != meter.slug:
            yield f"[meters.{meter.slug}] event_name {meter.event_name} is that of meter {owner}."
        ours = known.meters.get(meter.slug)
        for key in ("event_name", "aggregation", "scale") if ours is not None else ():
            if getattr(ours, key) != getattr(meter, key):
                yield (
                    f"[meters.{meter.slug}] {key} cannot change from {getattr(ours, key)} to"
                    f" {getattr(meter, key)}: usage has been reported by it. Add another meter."
                )
        theirs = at_stripe.meters.get(meter.event_name)
        expected = ours.stripe_meter_id if ours is not None else ""
        found = theirs.id if theirs is not None else ""
        if expected and found != expected:
            yield (
                f"[meters.{meter.slug}] Stripe no longer has {expected} under"
                f" {meter.event_name}. Is this another Stripe account?"
            )
        if theirs is not None:
            yield from (
                f"[meters.{meter.slug}] {reason}" for reason in _unusable(theirs, meter.aggregation)
            )


def _unusable(meter: StripeMeter, aggregation: Aggregation) -> Iterator[str]:
    """Yield why our events cannot be counted by a meter, each with the way out."""
    name = f"Stripe's meter {meter.id} under event name {meter.event_name}"
    if not meter.is_active:
        yield f"{name} is inactive. Reactivate it at Stripe, or use another event_name."
    if meter.formula != aggregation.formula:
        yield (
            f"{name} has the formula {meter.formula} and not {aggregation.formula}. Use another"
            " event_name."
        )
    if meter.event_time_window:
        yield (
            f"{name} keeps only the last event of each {meter.event_time_window}. Use another"
            " event_name."
        )
    if (meter.customer_key, meter.value_key) != (CUSTOMER_KEY, VALUE_KEY):
        yield (
            f"{name} reads the payload keys {meter.customer_key} and {meter.value_key} and not"
            f" {CUSTOMER_KEY} and {VALUE_KEY}. Use another event_name."
        )


def _foreign_prices(
    prices: Mapping[str, PriceDefinition], at_stripe: AtStripe, deployment: str
) -> Iterator[str]:
    for key, price in prices.items():
        theirs = at_stripe.prices.get(key)
        if theirs is not None and theirs.deployment != deployment:
            yield (
                f"[plans.{price.plan}] the lookup key {key} belongs to Stripe's price {theirs.id},"
                " which this deployment has not made."
            )


def _our_meters(meters: Sequence[MeterDefinition], known: Known) -> Iterator[steps.Ours]:
    for meter in meters:
        ours = known.meters.get(meter.slug)
        if ours is None or (ours.display_name, ours.unit) != (meter.display_name, meter.unit):
            yield steps.RecordMeter(meter=meter, is_new=ours is None)
        if ours is None or ours.reading != meter.reading:
            yield steps.BeginReading(
                meter=meter.slug,
                reading=meter.reading,
                from_the_beginning=meter.reading.event_type not in known.event_types,
            )


def _our_plans(plans: Sequence[PlanDefinition], known: Known) -> Iterator[steps.Ours]:
    for plan in plans:
        ours = known.plans.get(plan.slug)
        if ours != KnownPlan(slug=plan.slug, name=plan.name, active=True):
            yield steps.RecordPlan(slug=plan.slug, name=plan.name, is_new=ours is None)
    wanted = {plan.slug for plan in plans}
    for ours in known.plans.values():
        if ours.active and ours.slug not in wanted:
            yield steps.RetirePlan(slug=ours.slug)


def _meters_at_stripe(
    meters: Sequence[MeterDefinition], known: Known, at_stripe: AtStripe
) -> Iterator[steps.AtStripe]:
    for meter in meters:
        ours = known.meters.get(meter.slug)
        theirs = at_stripe.meters.get(meter.event_name)
        if theirs is None:
            yield steps.CreateMeter(meter=meter)
            continue
        if ours is None or ours.stripe_meter_id != theirs.id:
            yield steps.LinkMeter(meter=meter, stripe_meter_id=theirs.id)
        if theirs.display_name != meter.display_name:
            yield steps.RenameMeter(meter=meter, stripe_meter_id=theirs.id)


def _prices_at_stripe(
    prices: Mapping[str, PriceDefinition],
    known: Known,
    at_stripe: AtStripe,
    meter_ids: Mapping[str, str],
) -> Iterator[steps.AtStripe]:
    for key, price in prices.items():
        product = at_stripe.products.get(product_id(key))
        if product is None or product.name != price.name:
            yield steps.NameProduct(lookup_key=key, name=price.name, is_new=product is None)
        ours, theirs = known.prices.get(key), at_stripe.prices.get(key)
        wanted = terms(price, meter_id=meter_ids.get(price.meter))
        if theirs is None or not theirs.is_active or theirs.terms != wanted:
            yield steps.CreatePrice(
                price=price, lookup_key=key, replaces=theirs.id if theirs else ""
            )
        elif ours is None or ours.stripe_price_id != theirs.id:
            yield steps.LinkPrice(price=price, lookup_key=key, stripe_price_id=theirs.id)
        elif ours.name != price.name:
            yield steps.RenamePrice(lookup_key=key, name=price.name)


def terms(price: PriceDefinition, *, meter_id: str | None) -> PriceTerms:
    """Return what Stripe is to be told of a price."""
    return PriceTerms(
        currency=price.currency, interval=price.interval, meter_id=meter_id, rule=price.rule
    )
