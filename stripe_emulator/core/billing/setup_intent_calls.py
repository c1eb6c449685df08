"""The calls on setup intents. What a confirmation does to them stands in `setup_intents`."""

from stripe_emulator.core import customers
from stripe_emulator.core.billing import setup_intents
from stripe_emulator.core.billing.declines import card_error
from stripe_emulator.core.call import Answer, Call
from stripe_emulator.core.collection import Object, in_span
from stripe_emulator.core.errors import ApiError, invalid
from stripe_emulator.core.expansion import render
from stripe_emulator.core.kinds import Boolean, Choice, Kind, String
from stripe_emulator.core.metadata import merged
from stripe_emulator.core.params import CREATED, EXPAND, METADATA, Array, Hash, anything, listing

_TYPES = Array(String(100))
_FIELDS: dict[str, Kind] = {
    "allowed_payment_method_types": _TYPES,
    "attach_to_self": anything(),
    "customer": String(),
    "customer_account": anything(),
    "description": String(1000, unsettable=True),
    "excluded_payment_method_types": anything(),
    "expand": EXPAND,
    "flow_directions": anything(),
    "metadata": METADATA,
    "payment_method": String(),
    "payment_method_configuration": anything(),
    "payment_method_data": anything(),
    "payment_method_options": anything(),
}
_AT_CONFIRMATION: dict[str, Kind] = {
    "confirmation_token": anything(),
    "mandate_data": anything(),
    "return_url": String(),
    "use_stripe_sdk": anything(),
}
CREATE = Hash(
    {
        **_FIELDS,
        **_AT_CONFIRMATION,
        "automatic_payment_methods": Hash(
            {"allow_redirects": Choice("always", "never"), "enabled": Boolean()}, "enabled"
        ),
        "confirm": Boolean(),
        "on_behalf_of": anything(),
        "single_use": anything(),
        "usage": Choice("off_session", "on_session"),
    }
)
UPDATE = Hash(_FIELDS)
RETRIEVE = Hash({"client_secret": String(), "expand": EXPAND})
CONFIRM = Hash(
    {
        **_AT_CONFIRMATION,
        "allowed_payment_method_types": _TYPES,
        "expand": EXPAND,
        "payment_method": String(),
        "payment_method_data": anything(),
        "payment_method_options": anything(),
    }
)
CANCEL = Hash(
    {
        "cancellation_reason": Choice("abandoned", "duplicate", "requested_by_customer"),
        "expand": EXPAND,
    }
)
LIST = listing(
    attach_to_self=anything(),
    created=CREATED,
    customer=String(),
    customer_account=anything(),
    expand=EXPAND,
    payment_method=String(),
)


def create(call: Call) -> Answer:
    """Make one, and with `confirm` try its card at once; a declined one stays behind as well."""
    given = call.given
    if given("confirm") and not given("payment_method"):
        raise invalid(
            "You cannot confirm a SetupIntent without a payment method.", param="payment_method"
        )
    customer = _customer(call)
    fields: Object = {
        **_allowed(call),
        "automatic_payment_methods": given("automatic_payment_methods"),
        "description": given("description"),
        "metadata": merged({}, given("metadata", {})),
        "usage": given("usage", "off_session"),
    }
    if given("payment_method"):
        fields |= {"payment_method": given("payment_method"), "status": "requires_confirmation"}
    intent = setup_intents.make(call.world, customer=customer, livemode=call.livemode, **fields)
    if given("confirm"):
        _attempt(call, intent, given("payment_method"))
    return intent


def retrieve(call: Call) -> Answer:
    intent = _find(call)
    if call.given("client_secret") not in {None, intent["client_secret"]}:
        raise invalid(
            "The client_secret provided does not match the client_secret associated with the "
            "SetupIntent.",
            param="client_secret",
        )
    return intent


def list_all(call: Call) -> Answer:
    given = call.given
    return call.world.setup_intents.page(
        call.params,
        url=call.url,
        livemode=call.livemode,
        keep=lambda each: (
            given("customer") in {None, each["customer"]}
            and given("payment_method") in {None, each["payment_method"]}
            and in_span(given("created"), each["created"])
        ),
    )


def update(call: Call) -> Answer:
    """Change one. Once it is over, only words about it can change (inferred)."""
    intent = _find(call)
    if intent["status"] not in setup_intents.OPEN and set(call.params) - {
        "description",
        "expand",
        "metadata",
    }:
        raise _unexpected("update", intent)
    customer = _customer(call)
    if "metadata" in call.params:
        intent["metadata"] = merged(intent["metadata"], call.params["metadata"])
    intent |= _allowed(call)
    if "description" in call.params:
        intent["description"] = call.params["description"]
    if customer is not None:
        intent["customer"] = customer
    if "payment_method" in call.params:
        intent["payment_method"] = call.params["payment_method"]
        intent["next_action"] = None
        intent["status"] = "requires_confirmation"
    return intent


def confirm(call: Call) -> Answer:
    """Try the card. A declined one is a 402, and the intent waits for another."""
    intent = _find(call)
    if intent["status"] not in setup_intents.OPEN or intent["_checkout"]:
        raise _unexpected("confirm", intent)
    payment_method = call.given("payment_method") or intent["payment_method"]
    if payment_method is None:
        raise invalid(
            "You cannot confirm this SetupIntent because it's missing a payment method.",
            code="setup_intent_unexpected_state",
        )
    intent |= _allowed(call)
    _attempt(call, intent, payment_method)
    return intent


def cancel(call: Call) -> Answer:
    intent = _find(call)
    if intent["status"] not in setup_intents.OPEN or intent["_checkout"]:
        raise _unexpected("cancel", intent)
    setup_intents.cancel(call.world, intent, call.given("cancellation_reason"))
    return intent


def _attempt(call: Call, intent: Object, payment_method: str) -> None:
    outcome = setup_intents.attempt(call.world, intent, payment_method)
    if outcome.status == "declined":
        raise card_error(
            outcome, intent=setup_intents.SUBJECT, setup_intent=render(call.world, intent)
        )


def _find(call: Call) -> Object:
    return call.world.setup_intents.get(call.path["id"], livemode=call.livemode, param="intent")


def _customer(call: Call) -> str | None:
    asked: str | None = call.given("customer")
    if asked is not None:
        customers.find(call, asked, param="customer", status=400)
    return asked


def _allowed(call: Call) -> Object:
    """Return the kinds of payment methods that are let in, as the two fields that say so."""
    types = call.given("allowed_payment_method_types")
    if not types:
        return {}
    return {"allowed_payment_method_types": types, "payment_method_types": types}


def _unexpected(verb: str, intent: Object) -> ApiError:
    why = (
        "it belongs to a Checkout Session"
        if intent["_checkout"]
        else f"it has a status of {intent['status']}"
    )
    return invalid(
        f"You cannot {verb} this SetupIntent because {why}.", code="setup_intent_unexpected_state"
    )
