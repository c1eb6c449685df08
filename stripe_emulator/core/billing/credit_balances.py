"""What a customer's credits come to, and the transactions behind it."""

from collections import Counter

from stripe_emulator.core import customers
from stripe_emulator.core.call import Answer, Call
from stripe_emulator.core.collection import Object
from stripe_emulator.core.errors import invalid
from stripe_emulator.core.kinds import Choice, String
from stripe_emulator.core.params import EXPAND, Array, Hash, anything, listing

SUMMARY = Hash(
    {
        "customer": String(),
        "customer_account": anything(),
        "expand": EXPAND,
        "filter": Hash(
            {
                "applicability_scope": Hash(
                    {
                        "price_type": Choice("metered"),
                        "prices": Array(Hash({"id": String()}, "id"), 20),
                    }
                ),
                "credit_grant": String(),
                "type": Choice("applicability_scope", "credit_grant"),
            },
            "type",
        ),
    },
    "filter",
)
LIST = listing(credit_grant=String(), customer=String(), customer_account=anything(), expand=EXPAND)


def summary(call: Call) -> Answer:
    """Return the balances by currency.

    Available is what could be applied now, the ledger also has what is not yet in effect; a scope
    asks for the grants of that very scope (inferred).
    """
    world = call.world
    customer = customers.named(call)
    wanted = call.params["filter"]
    if wanted["type"] not in wanted:
        raise invalid(f"Missing required param: filter[{wanted['type']}].", param="filter")
    now = world.now_for(customer)
    available: Counter[str] = Counter()
    ledger: Counter[str] = Counter()
    for grant in world.credit_grants:
        if grant["customer"] != customer["id"] or not _wanted(grant, wanted):
            continue
        currency = grant["amount"]["monetary"]["currency"]
        ledger[currency] += grant["_left"]
        current = grant["effective_at"] <= now < (grant["expires_at"] or now + 1)
        available[currency] += grant["_left"] if current else 0
    return {
        "object": "billing.credit_balance_summary",
        "balances": [
            {
                "available_balance": _money(currency, available[currency]),
                "ledger_balance": _money(currency, ledger[currency]),
            }
            for currency in sorted(ledger)
        ],
        "customer": customer["id"],
        "customer_account": None,
        "livemode": call.livemode,
    }


def retrieve(call: Call) -> Answer:
    return call.world.credit_transactions.get(call.path["id"], livemode=call.livemode)


def list_all(call: Call) -> Answer:
    world = call.world
    grant, customer = call.given("credit_grant"), call.given("customer")
    return world.credit_transactions.page(
        call.params,
        url=call.url,
        livemode=call.livemode,
        keep=lambda each: (
            grant in {None, each["credit_grant"]}
            and customer
            in {None, (world.credit_grants.find(each["credit_grant"]) or {}).get("customer")}
        ),
    )


def _wanted(grant: Object, wanted: Object) -> bool:
    if wanted["type"] == "credit_grant":
        return bool(grant["id"] == wanted["credit_grant"])
    return bool(grant["applicability_config"]["scope"] == wanted["applicability_scope"])


def _money(currency: str, value: int) -> Object:
    return {"monetary": {"currency": currency, "value": value}, "type": "monetary"}
