"""Checkout sessions, for subscriptions and for cards kept for later.

What a session sells stands in `checkout_lines`, how a person completes one in
`checkout_completion`, the page they see outside of the core.
"""

from stripe_emulator.core import customers, events
from stripe_emulator.core.billing import checkout_lines, checkout_rules, setup_intents
from stripe_emulator.core.billing.checkout_shape import blank, details
from stripe_emulator.core.call import Answer, Call
from stripe_emulator.core.collection import Object, in_span, paged
from stripe_emulator.core.errors import invalid
from stripe_emulator.core.metadata import merged
from stripe_emulator.core.world import World

AGENDA_KIND = "checkout_session"


def create(call: Call) -> Answer:
    world, given = call.world, call.given
    checkout_rules.check_mode(call)
    checkout_rules.check_page(call)
    customer = _customer(call)
    expires_at = checkout_rules.expires_at(call)
    lines: list[Object] = []
    currency = given("currency", "usd").lower()
    if given("mode") == "subscription":
        data = given("subscription_data", {})
        trial = checkout_rules.has_trial(data, world.now_for(customer))
        asked_lines = given("line_items") or []
        mode = (data.get("billing_mode") or {}).get("type", "flexible")
        prices = checkout_lines.prices_of(call, asked_lines, mode)
        currency = prices[0]["currency"]
        # Everything that can be refused was, so a refused call leaves nothing behind.
        lines = [
            checkout_lines.made(call, asked, price, trial=trial)
            for asked, price in zip(asked_lines, prices, strict=True)
        ]
    session = blank(call, lines, expires_at) | {"currency": currency}
    if given("mode") == "subscription":
        session["payment_method_collection"] = given("payment_method_collection", "always")
    else:
        session["customer_creation"] = given("customer_creation", "if_required")
        session["setup_intent"] = _setup_intent(call, session, customer)
    email = customer["email"] if customer else given("customer_email")
    session["customer"] = customer["id"] if customer else None
    if email:
        session["customer_details"] = details(email, customer["name"] if customer else None)
    world.checkout_sessions.add(session)
    world.agenda.add(expires_at, AGENDA_KIND, session["id"])
    return session


def retrieve(call: Call) -> Object:
    return call.world.checkout_sessions.get(
        call.path["id"], livemode=call.livemode, param="session"
    )


def list_all(call: Call) -> Answer:
    given = call.given
    plain = {
        name: given(name)
        for name in ("customer", "payment_intent", "payment_link", "status", "subscription")
        if name in call.params
    }
    email = (given("customer_details") or {}).get("email")
    return call.world.checkout_sessions.page(
        call.params,
        url=call.url,
        livemode=call.livemode,
        keep=lambda each: (
            all(each[name] == value for name, value in plain.items())
            and email in {None, (each["customer_details"] or {}).get("email")}
            and in_span(given("created"), each["created"])
        ),
    )


def line_items(call: Call) -> Answer:
    lines = retrieve(call)["_line_items"]["data"]
    return paged(lines, call.params, url=call.url, kind="item")


def update(call: Call) -> Answer:
    """Change the metadata; the rest belongs to pages built with Stripe.js."""
    session = retrieve(call)
    for name in ("line_items", "shipping_options", "collected_information"):
        if name in call.params:
            raise invalid(
                f"`{name}` cannot be changed on a session with `ui_mode=hosted_page`.", param=name
            )
    if "metadata" in call.params:
        session["metadata"] = merged(session["metadata"], call.params["metadata"])
    return session


def expire(call: Call) -> Answer:
    session = retrieve(call)
    if session["status"] != "open":
        raise invalid(
            'Only Checkout Sessions with a status in ["open"] can be expired. This Checkout '
            f"Session has a status of `{session['status']}`."
        )
    _expire(call.world, session)
    return session


def fall_due(world: World, session_id: str) -> None:
    """End a session nobody completed in its time."""
    session = world.checkout_sessions.find(session_id)
    if session is not None and session["status"] == "open":
        _expire(world, session)


def _expire(world: World, session: Object) -> None:
    session["status"] = "expired"
    session["url"] = None
    intent = world.setup_intents.find(session["setup_intent"] or "")
    if intent is not None:
        setup_intents.cancel(world, intent, "abandoned")
    events.emit(world, "checkout.session.expired", session)


def _customer(call: Call) -> Object | None:
    asked = call.given("customer")
    if asked is None:
        return None
    if "customer_email" in call.params:
        raise invalid(
            "You may only specify one of these parameters: customer, customer_email.",
            param="customer",
        )
    return customers.find(call, asked, param="customer", status=400)


def _setup_intent(call: Call, session: Object, customer: Object | None) -> str:
    data = call.given("setup_intent_data", {})
    intent = setup_intents.make(
        call.world,
        customer=customer["id"] if customer else None,
        livemode=call.livemode,
        description=data.get("description"),
        metadata=merged({}, data.get("metadata", {})),
        _checkout=session["id"],
    )
    intent_id: str = intent["id"]
    return intent_id
