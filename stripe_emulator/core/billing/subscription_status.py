"""A subscription's status: what a payment, a failure or an end makes of it."""

from stripe_emulator.core import events
from stripe_emulator.core.billing.subscription_agenda import plan
from stripe_emulator.core.collection import Object
from stripe_emulator.core.world import World

LIVE = {"active", "trialing", "past_due", "incomplete", "unpaid", "paused"}
ENDED = {"canceled", "incomplete_expired"}
BEHIND = {"past_due", "unpaid"}


def change(world: World, subscription: Object, status: str) -> None:
    """Give it another status, and tell."""
    before = subscription["status"]
    subscription["status"] = status
    events.emit(world, "customer.subscription.updated", subscription, previous={"status": before})


def end(world: World, subscription: Object, *, reason: str | None = None) -> None:
    """Cancel now; `reason` is what `cancellation_details` say of it."""
    now = world.second_for(subscription)
    subscription["status"] = "canceled"
    subscription["canceled_at"] = subscription["canceled_at"] or now
    subscription["ended_at"] = now
    if reason is not None:
        subscription["cancellation_details"]["reason"] = reason
    events.emit(world, "customer.subscription.deleted", subscription)


def pause(world: World, subscription: Object, why: str) -> None:
    """Stop billing periods; `why` is what `status_details` say of it."""
    before = {name: subscription.get(name) for name in ("status", "status_details")}
    subscription["status"] = "paused"
    subscription["status_details"] = {
        "paused": {
            "subscription": {"type": why},
            "transitioned_at": world.second_for(subscription),
            "type": "subscription",
        }
    }
    plan(world, subscription)
    events.emit(world, "customer.subscription.updated", subscription, previous=before)
    events.emit(world, "customer.subscription.paused", subscription)


def resume(world: World, subscription: Object, status: str = "active") -> None:
    """Go on billing; the new periods are set already."""
    before = {name: subscription.get(name) for name in ("status", "status_details")}
    subscription["status"] = status
    subscription["status_details"] = None
    subscription["_resumption"] = None
    plan(world, subscription)
    events.emit(world, "customer.subscription.updated", subscription, previous=before)
    events.emit(world, "customer.subscription.resumed", subscription)


def advances(subscription: Object) -> bool:
    """Tell whether its new drafts go on by themselves.

    Those of an unpaid one wait (docs.stripe.com/billing/subscriptions/overview), and so do those
    of one whose collection is paused with `keep_as_draft`.
    """
    pause_ = subscription["pause_collection"] or {}
    return subscription["status"] != "unpaid" and pause_.get("behavior") != "keep_as_draft"


def failed(world: World, subscription: Object) -> None:
    """Note that a payment did not succeed; a first one leaves it incomplete."""
    if subscription["status"] == "active":
        change(world, subscription, "past_due")


def retries_exhausted(world: World, subscription: Object) -> None:
    """Do what the setting says of a subscription nobody pays for."""
    choice = world.settings.after_last_retry
    if subscription["status"] not in BEHIND:
        return
    if choice == "cancel":
        end(world, subscription, reason="payment_failed")
    elif choice == "unpaid" and subscription["status"] != "unpaid":
        change(world, subscription, "unpaid")


def paid(world: World, subscription: Object, invoice: Object) -> None:
    """Take in that one of its invoices was paid.

    One that is behind is active again when none of them is overdue any more (inferred).
    """
    if subscription["status"] == "incomplete" or (
        subscription["status"] in BEHIND and not _owes(world, subscription)
    ):
        change(world, subscription, "active")
    _resumed(world, subscription, invoice)
    _update_applied(world, subscription, invoice)


def _owes(world: World, subscription: Object) -> bool:
    return any(
        each["status"] == "open"
        and each.get("_overdue")
        and ((each["parent"] or {}).get("subscription_details") or {}).get("subscription")
        == subscription["id"]
        for each in world.invoices
    )


def _resumed(world: World, subscription: Object, invoice: Object) -> None:
    resumption = subscription["_resumption"]
    if resumption is not None and resumption["invoice"] == invoice["id"]:
        resume(world, subscription)


def _update_applied(world: World, subscription: Object, invoice: Object) -> None:
    """Make the change that waited for this payment."""
    waiting = subscription["_held"]
    if waiting is None or waiting["invoice"] != invoice["id"]:
        return
    subscription["pending_update"] = subscription["_held"] = None
    former = {name: subscription[name] for name in waiting["changes"]}
    subscription.update(waiting["changes"])
    plan(world, subscription)
    previous = events.changes(former, subscription)
    events.emit(world, "customer.subscription.updated", subscription, previous=previous)
