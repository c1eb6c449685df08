"""The first moment of a subscription.

An invoice to pay now, or none and perhaps a card to collect.
"""

from decimal import Decimal

from stripe_emulator.core import events
from stripe_emulator.core.billing import invoices, setup_intents
from stripe_emulator.core.billing.invoice_shape import line
from stripe_emulator.core.billing.periods import period_at
from stripe_emulator.core.billing.pricing import amount
from stripe_emulator.core.billing.subscription_items import is_metered
from stripe_emulator.core.call import Call
from stripe_emulator.core.collection import Object
from stripe_emulator.core.errors import ApiError
from stripe_emulator.core.world import World


def begin(call: Call, subscription: Object, customer: Object, prices: list[Object]) -> None:
    """Store the subscription and give it its first status, invoice and setup intent.

    Metered-only and flexible: active, no invoice, and a setup intent when no card is known.
    Licensed prices: an invoice now, so what follows depends on `payment_behavior`
    (docs.stripe.com/billing/subscriptions/overview).
    """
    world = call.world
    behavior = call.given("payment_behavior", "allow_incomplete")
    trial = subscription["trial_end"] is not None
    licensed = [price for price in prices if not is_metered(price)]
    classic = subscription["billing_mode"]["type"] == "classic"
    automatic = subscription["collection_method"] == "charge_automatically"
    card = (
        subscription["default_payment_method"]
        or customer["invoice_settings"]["default_payment_method"]
    )
    lines = [] if trial else _lines(world, subscription, call.given("proration_behavior"))
    due = sum(each["amount"] for each in lines)
    if due and automatic and not card and behavior in {"allow_incomplete", "error_if_incomplete"}:
        raise ApiError(
            400,
            "This customer has no attached payment source or default payment method. Please "
            "consider adding a "
            "default payment method.",
            code="resource_missing",
        )
    subscription["status"] = "trialing" if trial else "active"
    if due and automatic and (not card or behavior == "default_incomplete"):
        subscription["status"] = "incomplete"
    world.subscriptions.add(subscription)
    customer["currency"] = customer["currency"] or subscription["currency"]
    if licensed or classic:
        invoice = invoices.make(
            world, subscription, lines, reason="subscription_create", draft=not automatic
        )
        subscription["latest_invoice"] = invoice["id"]
        if invoice["status"] == "open" and subscription["status"] == "active":
            invoices.settle(world, invoice)
    if not due and automatic and not card:
        # A page collects a card with it; it is made whenever none is known (inferred).
        intent = setup_intents.make(
            world,
            customer=customer["id"],
            livemode=subscription["livemode"],
            _subscription=subscription["id"],
        )
        subscription["pending_setup_intent"] = intent["id"]
    events.emit(world, "customer.subscription.created", subscription)


def _lines(world: World, subscription: Object, proration: str | None) -> list[Object]:
    """Return lines for the licensed items' first period.

    A period that an anchor cuts short is prorated. Classic invoices show metered items at zero as
    well.
    """
    lines = []
    for item in subscription["items"]["data"]:
        price = world.prices.find(item["price"])
        if price is None or is_metered(price):
            if price is not None and subscription["billing_mode"]["type"] == "classic":
                lines.append(line(world, subscription, item, price, amount=0, quantity=0))
            continue
        full = amount(price, Decimal(item["quantity"]))
        share = _share(subscription, item, price)
        if share < 1 and proration == "none":
            continue
        charged = int((full * share).quantize(Decimal(1))) if share < 1 else full
        lines.append(
            line(
                world,
                subscription,
                item,
                price,
                amount=charged,
                quantity=item["quantity"],
                proration=share < 1,
            )
        )
    return lines


def _share(subscription: Object, item: Object, price: Object) -> Decimal:
    recurring = price["recurring"]
    begin_, end = period_at(
        subscription["billing_cycle_anchor"],
        recurring["interval"],
        recurring["interval_count"],
        item["current_period_start"],
    )
    return Decimal(end - item["current_period_start"]) / Decimal(end - begin_)
