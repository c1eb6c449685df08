"""Cases for usage that will reach no invoice, or reach it wrongly: opened, kept and closed.

Each says whose usage it is, how much, what to do and who decides. What leaks is `leaks`' to find;
a meter that Stripe cannot take usage for has a case of `billing.meter_checks`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from types import MappingProxyType

from billing import cases, steps
from billing.charges import EXACT
from billing.enums import CaseKind
from billing.models import Case
from usage.leaks import Found, Leak, Share, leaks

SOONEST = timedelta(hours=4)
NAMED = 3


@dataclass(frozen=True, slots=True)
class Way:
    """What a kind of leak is, the way out of it, whose decision that is, and within which time."""

    what: str
    advice: str
    owner: str
    time: timedelta


WAYS: Mapping[CaseKind, Way] = MappingProxyType(
    {
        CaseKind.UNBILLED: Way(
            "no live subscription item bills what {customers} uses",
            "Put the customer on a plan, or stop its use; bill what is past by hand.",
            "whoever keeps the customer's contract",
            timedelta(days=7),
        ),
        CaseKind.STOPPED: Way(
            "{customers} goes on using what {subscriptions} bills no more",
            "Have it paid, resume it, subscribe anew, or stop the use; bill what is past by hand.",
            "whoever collects payments",
            timedelta(days=3),
        ),
        CaseKind.CUSTOMER_DELETED: Way(
            "{customers} was deleted at Stripe, for good",
            "Stop its use, and bill what is past by hand to a new customer at Stripe.",
            "whoever keeps the customer's contract",
            timedelta(days=3),
        ),
        CaseKind.BILLED_TWICE: Way(
            "several live items bill the same use of {customers}: {items}",
            "Remove all but one before the invoice is final; credit what has been billed twice.",
            "whoever looks after subscriptions",
            timedelta(days=3),
        ),
        CaseKind.FOREIGN_PRICE: Way(
            "a price that our catalogue does not know bills {customers} by {items}",
            "Put the item on the plan's price, or the price into the catalogue.",
            "whoever looks after the catalogue",
            timedelta(days=3),
        ),
    }
)


def report(*, now: datetime) -> Found:
    """Look for leaks, open a case for each, and close those that are no longer. Return all found.

    A repetition brings the open cases up to date.
    """
    found = leaks(now=now)
    with steps.commit("usage.leak_cases.report"):
        for kind in WAYS:
            here = {leak.reference: leak for leak in found.leaks if leak.kind == kind}
            for leak in here.values():
                cases.open_case(
                    kind=kind,
                    reference=leak.reference,
                    reason=told(leak),
                    quantity=_quantity(leak),
                    deadline_at=_deadline(leak, now),
                )
            is_open = Case.objects.filter(kind=kind, closed_at=None)
            gone = set(is_open.values_list("reference", flat=True)) - here.keys()
            cases.close_cases(kind, gone, "The nightly look finds it no more.")
    return found


def told(leak: Leak) -> str:
    """Say what leaks, how much of it, what to do and whose decision it is."""
    way = WAYS[leak.kind]
    what = way.what.format(
        customers=_named(leak.customers),
        items=_named(leak.items),
        subscriptions=", ".join(
            f"{each.stripe_subscription_id} ({each.plan}, {each.status})"
            for each in leak.subscriptions
        ),
    )
    shares = "; ".join(_told(share) for share in leak.shares)
    return f"{what[0].upper()}{what[1:]}. Usage: {shares}. {way.advice} Decides: {way.owner}."


def _told(share: Share) -> str:
    meter = share.meter
    used = (
        "a running value"
        if share.quantity is None
        else f"{EXACT.scaleb(share.quantity, -meter.scale):,f} {meter.unit}"
    )
    told = f"{meter.slug}: {used} since {share.since:%Y-%m-%d %H:%M} UTC"
    if share.price is None or share.amount is None:
        return told
    price = share.price
    return f"{told}, {share.amount:,} {price.currency} in minor units at {price.lookup_key}"


def _named(names: tuple[str, ...]) -> str:
    more = len(names) - NAMED
    return ", ".join(names[:NAMED]) + (f" and {more:,} more" if more > 0 else "")


def _quantity(leak: Leak) -> Decimal | None:
    """Return the units of a leak of one meter; those of several do not add up."""
    meters = {share.meter.pk for share in leak.shares}
    return leak.shares[0].quantity if len(meters) == 1 else None


def _deadline(leak: Leak, now: datetime) -> datetime:
    """Return when it is due: before a wrong invoice is made, but never at once."""
    by = now + WAYS[leak.kind].time
    return by if leak.period_end is None else max(min(by, leak.period_end), now + SOONEST)
