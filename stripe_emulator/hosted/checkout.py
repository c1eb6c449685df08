"""The Checkout page at a session's `url`."""

from collections.abc import Mapping
from html import escape

from stripe_emulator.core.billing.checkout_completion import (
    CannotCompleteError,
    complete,
    wants_card,
    wants_email,
)
from stripe_emulator.core.billing.declines import told
from stripe_emulator.core.collection import Object
from stripe_emulator.core.settings import DAY_SECONDS
from stripe_emulator.core.wire import Reply
from stripe_emulator.core.world import World
from stripe_emulator.hosted.parts import (
    ANSWERS,
    KEEPS,
    bank_page,
    card_choice,
    html,
    message,
    problem,
    redirect,
)
from stripe_emulator.hosted.words import day, later, money, price_words

PATH = "/pay/"


def show(world: World, session: Object) -> Reply:
    """Return the page of a session: what it sells, or that it is over."""
    if session["status"] == "complete":
        link = (_success_url(session), "Continue")
        return message("All done", "This was completed already.", link=link)
    if session["status"] == "expired":
        back = (session["cancel_url"], "Go back") if session["cancel_url"] else None
        said = "Nothing was charged. Go back to where you came from for a new one."
        return message("This page has expired", said, status=410, link=back)
    return _page(world, session, {})


def submit(world: World, session: Object, form: Mapping[str, str]) -> Reply:
    """Try to complete a session with what a person entered."""
    if session["status"] == "expired":
        return show(world, session)
    card = form.get("payment_method", "")
    try:
        outcome = complete(
            world,
            session,
            card,
            email=form.get("email"),
            authenticated=ANSWERS.get(form.get("authenticated", "")),
        )
    except CannotCompleteError as error:
        return _page(world, session, form, said=str(error), status=400)
    if outcome.status == "succeeded":
        return redirect(_success_url(session))
    if outcome.status == "requires_action":
        hidden = {"email": form["email"]} if "email" in form else {}
        return bank_page(f"{PATH}{session['id']}", card, _asked(session), hidden)
    failure = told(session, outcome)["error"]["message"]
    said = f"{failure} Nothing was charged; you can use another card."
    return _page(world, session, form, said=said, status=402)


def _success_url(session: Object) -> str:
    url: str = session["success_url"]
    return url.replace("{CHECKOUT_SESSION_ID}", session["id"])


def _asked(session: Object) -> str:
    if session["amount_total"]:
        due = money(session["amount_total"], session["currency"])
        return f"Emulated account wants to take {due} from"
    return KEEPS


def _page(
    world: World, session: Object, form: Mapping[str, str], *, said: str = "", status: int = 200
) -> Reply:
    # On a phone the form lies below the summary, so what went wrong is said above both.
    return html(
        "Checkout",
        f"{problem(said)}<div class=columns>"
        f"<section aria-label='Summary'>{_summary(world, session)}</section>"
        f"<section class=panel aria-label='Payment'>{_form(world, session, form)}</section>"
        "</div>",
        status=status,
    )


def _summary(world: World, session: Object) -> str:
    badge = "" if session["livemode"] else "<span class=badge>Test mode: no money moves</span>"
    if session["mode"] == "setup":
        return f"{badge}<h1>Save a card</h1><p class=note>Nothing is charged today.</p>"
    lines = session["_line_items"]["data"]
    prices = [(world.prices.find(line["price"]) or {}, line["quantity"]) for line in lines]
    rows = "".join(
        _line(line, price_words(world, price, quantity))
        for line, (price, quantity) in zip(lines, prices, strict=True)
    )
    due = money(session["amount_total"], session["currency"])
    trial_end = _trial_end(world, session)
    costs = escape(later(prices))
    then = (
        f"Free until {day(trial_end)}, then {costs}."
        if trial_end
        else f"Then {costs}, until you cancel."
    )
    return (
        f"{badge}<h1>{'Start your free trial' if trial_end else 'Subscribe'}</h1>"
        f"<p class=note>Due today</p><p class=total>{due}</p><p class=note>{then}</p>"
        f"<ul>{rows}"
        f"<li class='line sum'><div><span>Due today</span><span>{due}</span></div></li></ul>"
    )


def _line(line: Object, words: list[str]) -> str:
    said = "".join(f"<p>{escape(each)}</p>" for each in words)
    used = line["quantity"] is None
    today = "by usage" if used else money(line["amount_total"], line["currency"])
    name = escape(line["description"] or "")
    return f"<li class=line><div><span>{name}</span><span>{today}</span></div>{said}</li>"


def _trial_end(world: World, session: Object) -> int | None:
    """Return when a trial that began now would end."""
    data = session["_subscription_data"]
    moment: int | None = data.get("trial_end")
    if "trial_period_days" in data:
        now = world.now_for(world.customers.find(session["customer"] or ""))
        moment = now + data["trial_period_days"] * DAY_SECONDS
    return moment


def _form(world: World, session: Object, form: Mapping[str, str]) -> str:
    email = (session["customer_details"] or {}).get("email")
    who = f"<p class=note>{escape(email)}</p>" if email else ""
    if wants_email(world, session):
        typed = escape(form.get("email", ""))
        who = (
            "<label for=email>E-mail</label><input type=email id=email name=email required "
            f"autocomplete=email maxlength=500 value='{typed}'>"
        )
    card = card_choice(form.get("payment_method", "")) if wants_card(session) else ""
    cancel = session["cancel_url"]
    back = f"<a class='button quiet' href='{escape(cancel)}'>Cancel</a>" if cancel else ""
    return (
        f"<form method=post action='{PATH}{escape(session['id'])}'>"
        f"<h2>Your details</h2>{who}{card}"
        f"<div class=actions><button>{escape(_button(session))}</button>{back}</div></form>"
    )


def _button(session: Object) -> str:
    if session["mode"] == "setup":
        return "Save card"
    if session["amount_total"]:
        return f"Pay {money(session['amount_total'], session['currency'])}"
    data = session["_subscription_data"]
    return "Start trial" if {"trial_end", "trial_period_days"} & set(data) else "Start subscription"
