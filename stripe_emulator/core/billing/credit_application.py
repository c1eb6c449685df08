"""Billing credits on an invoice: which grants pay how much of which line.

Source: docs.stripe.com, usage-based billing, billing credits.
"""

from collections.abc import Iterator

from stripe_emulator.core.billing import credit_ledger
from stripe_emulator.core.collection import Object
from stripe_emulator.core.world import World

_NEVER = float("inf")


def apply_credits(world: World, invoice: Object, now: int) -> None:
    """Draw a draft's metered lines from the customer's grants, for good."""
    for line in invoice["lines"]["data"]:
        line["pretax_credit_amounts"] = []
    invoice["total_pretax_credit_amounts"] = []
    for grant, line, value in drawn(world, invoice):
        transaction = credit_ledger.debit(world, grant, value, "credits_applied", at=now, line=line)
        shown = {
            "amount": value,
            "credit_balance_transaction": transaction["id"],
            "type": "credit_balance_transaction",
        }
        line["pretax_credit_amounts"].append(shown)
        invoice["total_pretax_credit_amounts"].append(dict(shown))


def give_back(world: World, invoice: Object, now: int) -> None:
    """Credit the grants with what a voided invoice had drawn."""
    for line in invoice["lines"]["data"]:
        for each in line["pretax_credit_amounts"]:
            transaction = world.credit_transactions.find(each["credit_balance_transaction"])
            grant = world.credit_grants.find(transaction["credit_grant"] if transaction else "")
            if grant is not None:
                credit_ledger.credit(
                    world,
                    grant,
                    each["amount"],
                    "credits_application_invoice_voided",
                    at=now,
                    line=line,
                )


def drawn(world: World, invoice: Object) -> list[tuple[Object, Object, int]]:
    """Return (grant, line, minor units) as finalizing would draw them now; nothing is changed.

    Each grant in its turn pays the lines it is for, from the first to the last, with what it has.
    """
    found = []
    left = {line["id"]: line["amount"] for line in _metered(world, invoice)}
    for grant in eligible(world, invoice):
        has = grant["_left"]
        for line in _metered(world, invoice):
            value = min(has, left[line["id"]])
            if value > 0 and _is_for(grant, line):
                found.append((grant, line, value))
                left[line["id"]] -= value
                has -= value
    return found


def eligible(world: World, invoice: Object) -> list[Object]:
    """Return the grants an invoice may draw on, in the order it draws on them.

    Those of its currency that are in effect at its period's end. Lower priority first, then what
    expires sooner, promotional before paid, sooner in effect, sooner made.
    """
    end = invoice["period_end"]
    grants = [
        grant
        for grant in world.credit_grants
        if grant["customer"] == invoice["customer"]
        and grant["amount"]["monetary"]["currency"] == invoice["currency"]
        and grant["effective_at"] <= end < (grant["expires_at"] or _NEVER)
    ]
    # Grants of one second stay in the order they were made in.
    return sorted(
        grants,
        key=lambda grant: (
            grant["priority"],
            grant["expires_at"] or _NEVER,
            grant["category"] != "promotional",
            grant["effective_at"],
            grant["created"],
        ),
    )


def _metered(world: World, invoice: Object) -> Iterator[Object]:
    """Yield the lines that bill a meter's usage to a subscription."""
    for line in invoice["lines"]["data"]:
        details = line["parent"]["subscription_item_details"]
        price = world.prices.find(_price_of(line) or "") if details else None
        if price is not None and (price["recurring"] or {}).get("meter") is not None:
            yield line


def _is_for(grant: Object, line: Object) -> bool:
    scope = grant["applicability_config"]["scope"]
    return "prices" not in scope or _price_of(line) in {each["id"] for each in scope["prices"]}


def _price_of(line: Object) -> str | None:
    details = (line["pricing"] or {}).get("price_details") or {}
    price: str | None = details.get("price")
    return price
