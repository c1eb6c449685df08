"""What the pages for customers are made of: their frame, their style and the choice of a card."""

from collections.abc import Mapping
from html import escape
from urllib.parse import quote

from stripe_emulator.core.billing.payment_methods import card_of
from stripe_emulator.core.wire import Reply

STYLE = """
*{box-sizing:border-box}
body{margin:0;font:16px/1.5 system-ui,-apple-system,"Segoe UI",Roboto,sans-serif;
color:#1a1f36;background:#f6f8fa}
main{max-width:60rem;margin:0 auto;padding:1.5rem 1rem 3rem}
.columns{display:grid;gap:1.5rem;margin-top:1rem}
@media(min-width:52rem){main{padding-top:3rem}
.columns{grid-template-columns:1fr 1fr;gap:3rem;align-items:start}}
.narrow{max-width:30rem;margin:0 auto}
.badge{display:inline-block;padding:.1rem .6rem;border-radius:1rem;font-size:.8rem;
background:#fdf0d5;color:#7a4b00}
.badge.good{background:#d9f2e3;color:#0b5d34}.badge.bad{background:#fde2e6;color:#8c0b2f}
h1{font-size:1.5rem;line-height:1.25;margin:.6rem 0}h2{font-size:1.05rem;margin:0 0 .75rem}
.total{font-size:2rem;font-weight:600;margin:.2rem 0;font-variant-numeric:tabular-nums}
.note{color:#4f566b;margin:.2rem 0;font-size:.9rem}
form .note{margin:0 0 1rem}
.panel{background:#fff;border:1px solid #dfe4ea;border-radius:.6rem;padding:1.25rem}
.panel+.panel{margin-top:1rem}
ul{list-style:none;margin:1rem 0;padding:0}
.line{padding:.75rem 0;border-top:1px solid #dfe4ea}
.line div{display:flex;justify-content:space-between;gap:1rem;font-weight:600}
.line div span+span{white-space:nowrap;font-variant-numeric:tabular-nums}
.line p{margin:.15rem 0 0;color:#4f566b;font-size:.9rem}
.sum{border-top:2px solid #1a1f36}
label,legend{font-weight:600}fieldset{border:0;margin:0 0 1.25rem;padding:0}
legend{padding:0;margin-bottom:.4rem}
input[type=email]{display:block;width:100%;margin:.3rem 0 1.25rem;padding:.65rem .75rem;
font:inherit;border:1px solid #8792a2;border-radius:.4rem}
.card{display:flex;gap:.75rem;align-items:flex-start;padding:.65rem .75rem;font-weight:400;
border:1px solid #c4ccd6;cursor:pointer}
.card:first-of-type{border-radius:.4rem .4rem 0 0}.card:last-of-type{border-radius:0 0 .4rem .4rem}
.card+.card{border-top:0}.card:has(:checked){background:#eef2ff}
.card input{margin:.3rem 0 0;flex:none}.card small{display:block;color:#4f566b}
button,.button{display:block;width:100%;min-height:2.9rem;padding:.65rem 1rem;font:inherit;
font-weight:600;text-align:center;text-decoration:none;border-radius:.4rem;cursor:pointer;
border:1px solid #3d43c4;background:#3d43c4;color:#fff}
button:hover,.button:hover{background:#2f349c}
.quiet{background:#fff;color:#3d43c4}.quiet:hover{background:#eef2ff}
.danger{background:#b3093c;border-color:#b3093c}.danger:hover{background:#8c0b2f}
.actions{display:grid;gap:.6rem;margin-top:1rem}
a{color:#3d43c4}.back{display:inline-block;padding:.5rem 0}
:focus-visible{outline:3px solid #7a80ff;outline-offset:2px}
.problem{margin:0 0 1.25rem;padding:.75rem;border-radius:.4rem;background:#fde2e6;color:#8c0b2f}
.done{margin:1rem 0;padding:.75rem;border-radius:.4rem;background:#d9f2e3;color:#0b5d34}
"""
_HEADERS = {
    "Content-Type": "text/html; charset=utf-8",
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; "
    "base-uri 'none'; frame-ancestors 'none'",
}
TEST_CARDS: Mapping[str, str] = {
    "pm_card_visa": "pays",
    "pm_card_visa_chargeDeclined": "is declined",
    "pm_card_visa_chargeDeclinedInsufficientFunds": "has insufficient funds",
    "pm_card_authenticationRequiredOnSetup": "your bank asks you this time, later it pays",
    "pm_card_authenticationRequired": "your bank asks you every time, so later payments fail",
    "pm_card_chargeCustomerFail": "can be kept, and every payment with it fails",
}
"""The cards a person can choose, and how each ends."""
KEEPS = "Emulated account wants to keep, for payments to come,"
ANSWERS = {"yes": True, "no": False}
"""What the buttons of `bank_page` send as `authenticated`."""


def html(title: str, body: str, *, status: int = 200) -> Reply:
    """Return a page."""
    text = (
        "<!doctype html><html lang=en><head><meta charset=utf-8>"
        "<meta name=viewport content='width=device-width,initial-scale=1'>"
        f"<title>{escape(title)}</title><style>{STYLE}</style></head>"
        f"<body><main>{body}</main></body></html>"
    )
    return Reply(status, _HEADERS, text.encode())


def message(
    title: str, said: str, *, status: int = 200, link: tuple[str, str] | None = None
) -> Reply:
    """Return a page that says one thing; `link` leads on, an address and its words."""
    on = f"<a class=button href='{escape(link[0])}'>{escape(link[1])}</a>" if link else ""
    return html(
        title,
        f"<div class='panel narrow'><h1>{escape(title)}</h1><p>{escape(said)}</p>{on}</div>",
        status=status,
    )


def redirect(url: str) -> Reply:
    """Send the browser on, with a GET; what a URL cannot carry is percent-encoded."""
    return Reply(303, {"Location": quote(url, safe="%/:=&?~#+!$,;'@()*[]")}, b"")


def problem(said: str) -> str:
    return f"<p class=problem role=alert>{escape(said)}</p>" if said else ""


def card_choice(chosen: str) -> str:
    """Return the choice of a test card, since nobody types a number here."""
    chosen = chosen if chosen in TEST_CARDS else next(iter(TEST_CARDS))
    cards = "".join(
        f"<label class=card><input type=radio name=payment_method value='{escape(name)}' required"
        f"{' checked' if name == chosen else ''}><span>{escape(card_words(name))}"
        f"<small>{escape(fate)}</small></span></label>"
        for name, fate in TEST_CARDS.items()
    )
    return f"<fieldset><legend>Test card</legend>{cards}</fieldset>"


def card_words(payment_method: str) -> str:
    card = card_of(payment_method)
    return f"{card.brand.capitalize()} ending in {card.last4}"


def bank_page(action: str, payment_method: str, asked: str, hidden: Mapping[str, str]) -> Reply:
    """Return the page of a bank that wants to hear it from the card's owner.

    `asked` says what somebody wants, up to the words "your card".
    """
    kept = {**hidden, "payment_method": payment_method}
    fields = "".join(
        f"<input type=hidden name='{escape(name)}' value='{escape(value)}'>"
        for name, value in kept.items()
    )
    return html(
        "Your bank asks",
        "<div class='panel narrow'><span class=badge>Test bank</span><h1>Your bank asks</h1>"
        f"<p>{escape(asked)} your {escape(card_words(payment_method))}. Is this you?</p>"
        f"<form method=post action='{escape(action)}'>{fields}<div class=actions>"
        "<button name=authenticated value=yes>Approve</button>"
        "<button class=quiet name=authenticated value=no>Refuse</button></div></form></div>",
    )
