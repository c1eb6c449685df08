"""The first moment of a subscription.

An invoice to pay now, or none and perhaps a card to collect.
"""

from decimal import Decimal

from stripe_emulator.core import events
from stripe_emulator.core.billing import invoice_payments, invoices, payments, setup_intents
from stripe_emulator.core.billing.cycle_invoices import licensed_lines, waiting
from stripe_emulator.core.billing.invoice_shape import line
from stripe_emulator.core.billing.invoice_totals import SMALLEST_CHARGE
from stripe_emulator.core.billing.prorations import prorated, share
from stripe_emulator.core.billing.subscription_agenda import TRIAL_NOTICE_SECONDS
from stripe_emulator.core.billing.subscription_items import is_metered, place, price_of
from stripe_emulator.core.billing.usage_lines import usage_lines
from stripe_emulator.core.call import Call
from stripe_emulator.core.collection import Object
from stripe_emulator.core.errors import ApiError
from stripe_emulator.core.world import World


def begin(call: Call, subscription: Object, customer: Object, prices: list[Object]) -> None:
    """Store the subscription and give it its first status, invoice and setup intent.

    Metered-only and flexible: active, no invoice unless there is usage to bill from before or an
    invoice item that waits, and a setup intent when no card is known. Licensed prices: an invoice
    now, so what follows depends on `payment_behavior`
    (docs.stripe.com/billing/subscriptions/overview).
    """
    world = call.world
    behavior = call.given("payment_behavior", "allow_incomplete")
    trial = subscription["trial_end"] is not None
    classic = subscription["billing_mode"]["type"] == "classic"
    automatic = subscription["collection_method"] == "charge_automatically"
    licensed = any(not is_metered(price) for price in prices)
    card = invoice_payments.method_of(world, subscription, customer["id"])
    lines = first_lines(world, subscription, call.given("proration_behavior"))
    due = customer["balance"] + sum(
        each["amount"] for each in [*lines, *waiting(world, subscription)]
    )
    charges = due >= SMALLEST_CHARGE and automatic
    if charges and behavior != "default_incomplete":
        _check_payment(call, card, behavior)
    outcome = invoice_payments.foreseen(card, off_session=bool(call.given("off_session")))
    subscription["status"] = "trialing" if trial else "active"
    if charges and (behavior == "default_incomplete" or outcome.status != "succeeded"):
        subscription["status"] = "incomplete"
    world.subscriptions.add(subscription)
    customer["currency"] = customer["currency"] or subscription["currency"]
    if licensed or classic or due or lines:
        invoice = invoices.make(
            world, subscription, lines, reason="subscription_create", draft=not automatic
        )
        subscription["latest_invoice"] = invoice["id"]
        if invoice["status"] == "open" and behavior != "default_incomplete" and automatic:
            payments.attempt(world, invoice, off_session=bool(call.given("off_session")))
    if not charges and automatic and not card:
        # A page collects a card with it; it is made whenever none is known (inferred).
        intent = setup_intents.make(
            world,
            customer=customer["id"],
            livemode=subscription["livemode"],
            _subscription=subscription["id"],
        )
        subscription["pending_setup_intent"] = intent["id"]
    events.emit(world, "customer.subscription.created", subscription)
    if trial and subscription["trial_end"] - world.second_for(customer) <= TRIAL_NOTICE_SECONDS:
        subscription["_trial_end_told"] = True
        events.emit(world, "customer.subscription.trial_will_end", subscription)


def first_lines(world: World, subscription: Object, proration: str | None) -> list[Object]:
    """Return lines for the licensed items' first period, and for usage since a start in the past.

    A period that an anchor cuts short is prorated, a trial costs nothing. Classic invoices show
    metered items at zero as well.
    """
    lines: list[Object] = []
    trial = subscription["trial_end"] is not None
    for item in subscription["items"]["data"]:
        price = price_of(world, item)
        if not is_metered(price):
            lines += _licensed(world, subscription, item, price, proration, trial=trial)
        elif subscription["billing_mode"]["type"] == "classic" and not trial:
            lines.append(line(world, subscription, item, price, amount=0, quantity=0))
        elif not trial:
            lines += _usage_since_start(world, subscription, item)
    return lines


def _check_payment(call: Call, card: str | None, behavior: str) -> None:
    """Refuse what cannot be paid for at once, where the call depends on it."""
    if card is None:
        raise ApiError(
            400,
            "This customer has no attached payment source or default payment method. Please "
            "consider adding a default payment method.",
            code="resource_missing",
        )
    outcome = invoice_payments.foreseen(card, off_session=bool(call.given("off_session")))
    if behavior == "error_if_incomplete" and outcome.status != "succeeded":
        raise invoice_payments.refusal(outcome)


def _licensed(  # noqa: PLR0913  what a first line depends on
    world: World,
    subscription: Object,
    item: Object,
    price: Object,
    proration: str | None,
    *,
    trial: bool,
) -> list[Object]:
    if trial:
        return [line(world, subscription, item, price, amount=0, quantity=item["quantity"])]
    since = item["current_period_start"]
    lines = [
        made
        for each in _elapsed(world, subscription, item)
        for made in licensed_lines(world, subscription, each)
    ]
    if share(world, subscription, item, since) == 1:
        return [*lines, *licensed_lines(world, subscription, item)]
    if proration == "none":
        return lines
    charged = prorated(world, subscription, item, since)
    made = line(
        world,
        subscription,
        item,
        price,
        amount=charged,
        quantity=item["quantity"],
        proration=True,
    )
    return [*lines, made]


def _usage_since_start(world: World, subscription: Object, item: Object) -> list[Object]:
    """Return lines for the usage between a start in the past and now, one for each period.

    Without any usage there are none, and the running period is billed whole at its end.
    """
    now = world.second_for(subscription)
    running = usage_lines(world, subscription, item, now)
    past = [
        made
        for each in _elapsed(world, subscription, item)
        for made in usage_lines(world, subscription, each)
    ]
    if not any(Decimal(each["quantity_decimal"]) for each in past + running):
        return []
    item["_since"] = now
    return past + running


def _elapsed(world: World, subscription: Object, item: Object) -> list[Object]:
    """Return the item as it was in each period that ended before its present one, oldest first."""
    found, at = [], subscription["start_date"]
    while at < item["current_period_start"]:
        former = {**item, "_earlier": []}
        place(world, former, anchor=subscription["billing_cycle_anchor"], start=at, at=at)
        found.append(former)
        at = former["current_period_end"]
    return found
