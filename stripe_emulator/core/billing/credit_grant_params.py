"""What the calls about credit grants take, and what of it makes no grant."""

from stripe_emulator.core.call import Call
from stripe_emulator.core.collection import Object
from stripe_emulator.core.errors import invalid
from stripe_emulator.core.kinds import Choice, Integer, String
from stripe_emulator.core.params import EXPAND, METADATA, Array, Hash, anything, listing

CREATE = Hash(
    {
        "amount": Hash(
            {
                "monetary": Hash({"currency": String(3), "value": Integer(1)}, "currency", "value"),
                "type": Choice("monetary"),
            },
            "monetary",
            "type",
        ),
        "applicability_config": Hash(
            {
                "scope": Hash(
                    {
                        "price_type": Choice("metered"),
                        "prices": Array(Hash({"id": String()}, "id"), 20),
                    }
                )
            },
            "scope",
        ),
        "category": Choice("paid", "promotional"),
        "customer": String(),
        "customer_account": anything(),
        "effective_at": Integer(0),
        "expand": EXPAND,
        "expires_at": Integer(0),
        "metadata": METADATA,
        "name": String(100),
        "priority": Integer(0, 100),
    },
    "amount",
    "applicability_config",
)
UPDATE = Hash({"expand": EXPAND, "expires_at": Integer(0, unsettable=True), "metadata": METADATA})
LIST = listing(customer=String(), customer_account=anything(), expand=EXPAND)


def scope_of(call: Call) -> Object:
    """Return what the credits are for: every metered price, or some."""
    scope: Object = call.given("applicability_config")["scope"]
    param = "applicability_config[scope]"
    if ("price_type" in scope) == ("prices" in scope):
        raise invalid("A scope needs `price_type` or `prices`, and not both.", param=param)
    for index, each in enumerate(scope.get("prices", [])):
        named = f"{param}[prices][{index}][id]"
        price = call.world.prices.get(each["id"], livemode=call.livemode, param=named, status=400)
        if (price["recurring"] or {}).get("meter") is None:
            raise invalid("Credits apply to metered prices only.", param=named)
    return scope


def check_expiry(expires_at: int | None, *, effective_at: int, now: int) -> None:
    """Refuse an end that is over, or lies before the beginning."""
    if expires_at is not None and expires_at <= max(now, effective_at):
        raise invalid(
            "`expires_at` must lie in the future, and after `effective_at`.", param="expires_at"
        )
