"""The customer portal at a session's `url`."""

from collections.abc import Mapping
from html import escape
from typing import Any

from stripe_emulator.core.billing import portal_sessions
from stripe_emulator.core.billing.declines import told
from stripe_emulator.core.billing.upcoming import upcoming
from stripe_emulator.core.collection import Object
from stripe_emulator.core.wire import Reply
from stripe_emulator.core.world import World
from stripe_emulator.hosted.parts import (
    ANSWERS,
    KEEPS,
    bank_page,
    card_choice,
    card_words,
    html,
    message,
    problem,
    redirect,
)
from stripe_emulator.hosted.words import day, money, price_words

PATH = "/portal/"
_STATUSES = {
    "active": ("Active", "good"),
    "trialing": ("Free trial", "good"),
    "past_due": ("Payment failed", "bad"),
    "unpaid": ("Not paid", "bad"),
    "incomplete": ("Waits for its first payment", "bad"),
    "paused": ("Paused", ""),
}
_NOTES = {
    "incomplete": "Its first payment is missing.",
    "paused": "Nothing is billed while it is paused.",
}


def show(world: World, session: Object, step: str, subject: str) -> Reply:
    """Return a page of the portal: `card`, `cancel` with a subscription, or the first one."""
    flow = session["flow"]
    if not step and flow is not None and not session.get("_flow_done"):
        step = "card" if flow["type"] == "payment_method_update" else "cancel"
        subject = (flow["subscription_cancel"] or {}).get("subscription", "")
    if step == "card":
        return _card_page(session)
    subscription = _theirs(world, session, subject)
    if step == "cancel" and subscription is not None and subscription["cancel_at"] is None:
        return _cancel_page(world, session, subscription)
    return _home(world, session)


def submit(
    world: World, session: Object, step: str, subject: str, form: Mapping[str, str]
) -> Reply:
    """Do what a form asks for, and show how it went. What is done already is not done again."""
    if step == "card":
        return _change_card(world, session, form)
    subscription = _theirs(world, session, subject)
    if subscription is None:
        return _home(world, session)
    if step == "cancel" and subscription["cancel_at"] is None:
        ends_at = portal_sessions.cancel(world, session, subscription)
        return _done(session, f"Your subscription ends on {day(ends_at)}.")
    if step == "keep" and subscription["cancel_at"] is not None:
        portal_sessions.keep(world, session, subscription)
    return redirect(_path(session))


def _theirs(world: World, session: Object, subject: str) -> Object | None:
    """Return a subscription of this customer, and nobody else's."""
    for each in portal_sessions.subscriptions_of(world, session):
        if each["id"] == subject:
            return each
    return None


def _change_card(world: World, session: Object, form: Mapping[str, str]) -> Reply:
    card = form.get("payment_method", "")
    if not card:
        return _card_page(session, said="Choose a card.", status=400)
    outcome = portal_sessions.change_card(
        world, session, card, authenticated=ANSWERS.get(form.get("authenticated", ""))
    )
    if outcome.status == "requires_action":
        return bank_page(_path(session, "card"), card, KEEPS, {})
    if outcome.status == "declined":
        failure = told({**session, "mode": "setup"}, outcome)["error"]["message"]
        return _card_page(session, chosen=card, said=failure, status=402)
    return _done(session, f"You now pay with your {card_words(card)}.")


def _done(session: Object, said: str) -> Reply:
    """Lead on once something was done: to where the flow ends, or back to the first page."""
    flow, session["_flow_done"] = session["flow"], True
    after: Object = flow["after_completion"] if flow else {"type": "portal_homepage"}
    if after["type"] == "redirect":
        return redirect(after["redirect"]["return_url"])
    if after["type"] == "hosted_confirmation":
        words = (after["hosted_confirmation"] or {}).get("custom_message") or said
        on = (session["return_url"] or _path(session), "Continue")
        return message("All done", words, link=on)
    session["_said"] = said
    return redirect(_path(session))


def _home(world: World, session: Object) -> Reply:
    customer: Any = world.customers.find(session["customer"])
    said = session.pop("_said", "")
    done = f"<p class=done role=status>{escape(said)}</p>" if said else ""
    subscriptions = portal_sessions.subscriptions_of(world, session)
    panels = "".join(_panel(world, session, each) for each in subscriptions)
    none = "<div class=panel><p>You have no subscription.</p></div>"
    back = session["return_url"]
    link = f"<a class=back href='{escape(back)}'>&larr; Return</a>" if back else ""
    who = escape(customer["email"] or customer["name"] or customer["id"])
    return html(
        "Your subscriptions",
        f"{link}<h1>Your subscriptions</h1><p class=note>{who}</p>{done}"
        f"<div class=columns><section aria-label='Subscriptions'>{panels or none}</section>"
        f"<section aria-label='Payment method'>{_card_panel(session, customer)}</section></div>",
    )


def _panel(world: World, session: Object, subscription: Object) -> str:
    name, tone = _STATUSES[subscription["status"]]
    rows = "".join(_item(world, item) for item in subscription["items"]["data"])
    begin = min(item["current_period_start"] for item in subscription["items"]["data"])
    end = min(item["current_period_end"] for item in subscription["items"]["data"])
    ends_at = subscription["cancel_at"]
    own = subscription["default_payment_method"]
    pays = f"<p class=note>Paid with {escape(card_words(own))}</p>" if own else ""
    if ends_at is not None:
        what = f"Ends on {day(ends_at)}. Until then everything works."
        action = (
            f"<form method=post action='{_path(session, 'keep', subscription['id'])}'>"
            "<button>Keep my subscription</button></form>"
        )
    else:
        what = _NOTES.get(subscription["status"]) or _next_invoice(world, subscription, end)
        action = (
            f"<a class='button quiet' href='{_path(session, 'cancel', subscription['id'])}'>"
            "Cancel subscription</a>"
        )
    return (
        f"<div class=panel><span class='badge {tone}'>{name}</span><ul>{rows}</ul>"
        f"<p class=note>Current period: {day(begin)} to {day(end)}</p>"
        f"<p class=note>{what}</p>{pays}<div class=actions>{action}</div></div>"
    )


def _next_invoice(world: World, subscription: Object, at: int) -> str:
    """Say what the next invoice comes to with the usage of now; nothing of it is kept."""
    total = money(upcoming(world, subscription)["total"], subscription["currency"])
    if subscription["status"] == "trialing":
        return f"The trial ends on {day(at)}, then {total} are due"
    return f"Next invoice on {day(at)}, {total} by now"


def _item(world: World, item: Object) -> str:
    price = world.prices.find(item["price"]) or {}
    product = world.products.find(price["product"]) or {}
    words = price_words(world, price, item.get("quantity"))
    said = "".join(f"<p>{escape(each)}</p>" for each in words)
    return f"<li class=line><div><span>{escape(product.get('name') or '')}</span></div>{said}</li>"


def _card_panel(session: Object, customer: Object) -> str:
    card = customer["invoice_settings"]["default_payment_method"]
    shown = escape(card_words(card)) if card else "No card is kept."
    return (
        f"<div class=panel><h2>Payment method</h2><p>{shown}</p><div class=actions>"
        f"<a class='button quiet' href='{_path(session, 'card')}'>"
        f"{'Change' if card else 'Add a'} card</a></div></div>"
    )


def _card_page(session: Object, *, chosen: str = "", said: str = "", status: int = 200) -> Reply:
    return html(
        "Your card",
        f"<div class='panel narrow'><h1>Your card</h1>{problem(said)}"
        f"<form method=post action='{_path(session, 'card')}'>{card_choice(chosen)}"
        "<div class=actions><button>Save card</button>"
        f"<a class='button quiet' href='{_path(session, 'home')}'>Back</a></div></form></div>",
        status=status,
    )


def _cancel_page(world: World, session: Object, subscription: Object) -> Reply:
    end = min(item["current_period_end"] for item in subscription["items"]["data"])
    rows = "".join(_item(world, item) for item in subscription["items"]["data"])
    trial = subscription["status"] == "trialing"
    bill = "" if trial else " What you use until then is billed at its end."
    return html(
        "Cancel subscription",
        f"<div class='panel narrow'><h1>Cancel your subscription?</h1><ul>{rows}</ul>"
        f"<p>It ends on {day(end)}. Until then everything works, and you can change your mind."
        f"{bill}</p>"
        f"<form method=post action='{_path(session, 'cancel', subscription['id'])}'>"
        "<div class=actions><button class=danger>Cancel subscription</button>"
        f"<a class='button quiet' href='{_path(session, 'home')}'>Keep it</a></div></form></div>",
    )


def _path(session: Object, *steps: str) -> str:
    return escape(PATH + "/".join((session["id"], *steps)))
