"""What `--help` says beyond the options: how to use the program, and everything it can be told."""

from stripe_emulator.core.faults import KINDS
from stripe_emulator.core.settings import Settings
from stripe_emulator.core.violations import KINDS as VIOLATIONS

_USE = """\
Point a Stripe SDK at it:
  stripe.StripeClient("sk_test_emulator", base_addresses={name: "http://127.0.0.1:12111"
                      for name in ("api", "files", "connect", "meter_events")})
  Any key that begins with sk_ or rk_ is taken; one with _test_ in it is test mode, others are live
  mode, and the two do not see each other's objects. One port serves everything. With --stream-port
  the stream is served there only ("meter_events" is then that address), and nothing else is.

Look at it:
  GET    /                         a page for people: meters, customers, events, webhooks, faults
  GET    /_emulator/health         that it runs, its clock, the number of arrivals

Ask the judge:
  GET    /_emulator/arrivals       every request and what became of it; after=N limit=M
  GET    /_emulator/truth          what was accepted, counted from the arrivals alone;
                                   customer= event_name=, recount=1 reads the log again
  GET    /_emulator/invoices       what of it is on which invoice, per customer, meter and period,
                                   and why the rest is on none; customer= narrows it
  GET    /_emulator/violations     what a good client never does, below

Webhooks:
  --forward-to and --forward-thin-to, or at any time:
  POST   /_emulator/destinations   {"url": "http://app/hook", "secret": "whsec_x", "thin": false}
                                   one more receiver of every event, in both modes, also after a
                                   reset; the same url again changes the secret. Snapshot events
                                   go to ordinary receivers, and to endpoints made through
                                   /v1/webhook_endpoints. Thin events (meter errors) go only to
                                   receivers with "thin": true, Stripe's event destinations, which
                                   are made nowhere else: /v2/core/event_destinations is not served.
  GET    /_emulator/deliveries     how many wait, and how the latest went
  A delivery that is not answered with 2xx is repeated after the waits of webhook_retry_seconds.

Be the customer:
  POST   /_emulator/confirm        {"client_secret": ..., "payment_method": "pm_card_visa"}: what
                                   Stripe.js does for a person, on a setup intent or an invoice's
                                   confirmation_secret. A card whose bank asks takes
                                   "authenticated": true or false, at once or in a second call.
  POST   /_emulator/checkout       {"session": "cs_test_...", "payment_method": "pm_card_visa",
                                   "email": ..., "authenticated": true}: completes a Checkout
                                   session as its page does; only the session must be given
  Checkout sessions and portal sessions have pages of their own: open their `url` in a browser.

Move time:
  GET    /_emulator/clock          {"now": ..., "frozen": ...}
  POST   /_emulator/clock          {"advance_seconds": 3600}, or {"now": 1800000000}, each also with
                                   "frozen": true or false; {"real": true} follows the machine again
  Customers on a test clock live by that clock: /v1/test_helpers/test_clocks.

Break things:
  GET    /_emulator/faults         the rules in force, and every kind
  POST   /_emulator/faults         {"kind": "answer_lost", "path": "/v1/billing/meter_events",
                                    "method": "POST", "probability": 0.05, "count": 10, "skip": 3,
                                    "seed": 1, "delay_seconds": 2}; only the kind must be given.
                                   path is a shell pattern; count is how often it may strike, skip
                                   how many matches pass first, seed makes its draws repeatable
  DELETE /_emulator/faults         all of them, or id=fault_1

Change rules:
  GET    /_emulator/settings       the settings as they are
  POST   /_emulator/settings       {"settle_lag_seconds": 60, "rate_limits": "live"}

Go back:
  GET    /_emulator/snapshots      the moments remembered, in memory
  POST   /_emulator/snapshots      {"name": "clean"} remembers this moment
  POST   /_emulator/restore        {"name": "clean"} goes back to it, arrivals included
  POST   /_emulator/reset          an empty account; faults and changed settings are gone,
                                   receivers stay

Keep it: with --state the arrival log (arrivals.jsonl), identifiers and stored answers are on disk,
and the account is saved beside them every fifteen seconds and at the end. After a crash the usage
since the last save is counted again from the log; other objects made since are lost, and a warning
says so. Without --state everything is gone when the program ends.
"""


def text() -> str:
    """Return the part of the help below the options."""
    defaults = Settings().as_dict()
    settings = {
        f"{name} ({_shown(defaults[name])})": what for name, what in Settings.explained().items()
    }
    return "\n".join(
        (
            _USE,
            *_listed("Kinds of fault:", KINDS),
            "",
            *_listed("Settings and their defaults:", settings),
            "",
            *_listed("Violations:", VIOLATIONS),
            "",
            "The README beside the program says which behaviours are guesses.",
        )
    )


def _shown(value: object) -> str:
    return " ".join(map(str, value)) if isinstance(value, tuple) else str(value).lower()


def _listed(title: str, entries: dict[str, str]) -> list[str]:
    lines = [title]
    for name, what in entries.items():
        lines += [f"  {name}", f"      {what}"]
    return lines
