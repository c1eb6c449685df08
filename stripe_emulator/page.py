"""The page for people: what the account holds and what happens to it, read only."""

from collections.abc import Iterable, Sequence

from stripe_emulator.core.collection import Object
from stripe_emulator.core.emulator import Emulator
from stripe_emulator.core.moments import rfc3339
from stripe_emulator.page_parts import STYLE, clock_time, figures, section
from stripe_emulator.version import API_VERSION

SHOWN = 20
SAID = 48
"""So much of an error message fits in a row."""


def render(emulator: Emulator) -> str:
    """Return the whole page as HTML."""
    world = emulator.world
    violations = sum(world.violations.counts.values())
    shown = [
        ("requests", f"{len(emulator.arrivals):,}", False),
        ("customers", f"{len(world.customers):,}", False),
        ("subscriptions", f"{len(world.subscriptions):,}", False),
        ("invoices", f"{len(world.invoices):,}", False),
        ("events", f"{len(world.events) + len(world.thin_events):,}", False),
        ("deliveries waiting", f"{len(world.outbox.waiting):,}", False),
        ("violations", f"{violations:,}", violations > 0),
    ]
    sections = [
        figures(shown),
        section(
            "Meters",
            ("event name", "id", "formula", "status", "#events", "#sum"),
            _meters(emulator),
        ),
        section(
            "Latest requests",
            ("#no.", "time", "request", "#status", "verdict", "identifier", "fault", "said"),
            _requests(emulator),
        ),
        section("Violations", ("kind", "#times", "latest"), _violations(emulator)),
        section("Latest events", ("time", "type", "id", "about"), _events(emulator)),
        section(
            "Faults in force",
            ("id", "kind", "path", "#probability", "#left", "#struck"),
            _faults(emulator),
        ),
        section("Webhook endpoints", ("url", "id", "kind", "status"), _endpoints(emulator)),
        section(
            "Latest deliveries", ("time", "event", "#try", "#answer", "url"), _deliveries(emulator)
        ),
        section("Customers", ("id", "email", "name", "created"), _customers(emulator)),
        section(
            "Latest invoices",
            ("id", "customer", "reason", "status", "#total", "finalizes by itself", "#lines"),
            _invoices(emulator),
        ),
        section(
            "Checkout sessions", ("page", "mode", "status", "customer", "ends"), _sessions(emulator)
        ),
    ]
    clock = " (frozen)" if emulator.clock.frozen else ""
    return (
        "<!doctype html><html lang=en><meta charset=utf-8>"
        "<meta name=viewport content='width=device-width'><title>Stripe emulator</title>"
        f"<style>{STYLE}</style><h1>Stripe emulator</h1>"
        f"<p class=note>API {API_VERSION} &middot; {rfc3339(emulator.clock.now())}{clock} &middot; "
        "control API under <code>/_emulator/</code>, described in the README</p>"
        + "".join(sections)
        + "</html>"
    )


def _meters(emulator: Emulator) -> Iterable[Sequence[str]]:
    totals = emulator.truth.as_dict()["event_names"]
    for meter in emulator.world.meters:
        total = totals.get(meter["event_name"], {"count": 0, "sum": "0"})
        formula = meter["default_aggregation"]["formula"]
        window = meter["event_time_window"]
        yield (
            meter["event_name"],
            meter["id"],
            f"{formula} per {window}" if window else formula,
            meter["status"],
            f"{total['count']:,}",
            total["sum"],
        )


def _requests(emulator: Emulator) -> Iterable[Sequence[str]]:
    total = len(emulator.arrivals)
    for arrival in reversed(emulator.arrivals.read(after=max(0, total - SHOWN), limit=SHOWN)):
        identifiers = ", ".join(event.identifier for event in arrival.events[:2])
        more = f" and {len(arrival.events) - 2} more" if len(arrival.events) > 2 else ""  # noqa: PLR2004  as many as fit
        yield (
            str(arrival.number),
            clock_time(arrival.at),
            f"{arrival.method} {arrival.path}",
            str(arrival.status or "none"),
            arrival.verdict,
            identifiers + more,
            arrival.fault or "",
            _shortened(arrival.error) if arrival.verdict == "refused" else "",
        )


def _events(emulator: Emulator) -> Iterable[Sequence[str]]:
    """Yield the newest events of both kinds, snapshot ones first."""
    world = emulator.world
    for event in list(world.events)[: -SHOWN - 1 : -1]:
        about: Object = event["data"]["object"]
        when = rfc3339(event["created"])
        yield when, event["type"], event["id"], str(about.get("id") or about["object"])
    for event in list(world.thin_events)[: -SHOWN - 1 : -1]:
        about = event.get("related_object") or {}
        yield event["created"], event["type"], event["id"], str(about.get("id") or "")


def _shortened(text: str | None) -> str:
    text = text or ""
    return text if len(text) <= SAID else text[: SAID - 1] + "…"


def _faults(emulator: Emulator) -> Iterable[Sequence[str]]:
    for rule in emulator.faults.rules:
        left = "no end" if rule.count is None else str(rule.count)
        yield (
            rule.id,
            rule.kind,
            f"{rule.method} {rule.path}",
            f"{rule.probability:g}",
            left,
            str(rule.struck),
        )


def _endpoints(emulator: Emulator) -> Iterable[Sequence[str]]:
    for endpoint in emulator.world.webhook_endpoints:
        kind = "thin" if endpoint["_thin"] else "snapshot"
        mode = "live" if endpoint["livemode"] else "test"
        yield endpoint["url"], endpoint["id"], f"{kind}, {mode}", endpoint["status"]


def _deliveries(emulator: Emulator) -> Iterable[Sequence[str]]:
    for entry in reversed(emulator.world.outbox.recent[-SHOWN:]):
        yield (
            clock_time(float(str(entry["at"]))),
            str(entry["event"]),
            str(entry["attempt"]),
            str(entry["status"] or "none"),
            str(entry["url"]),
        )


def _customers(emulator: Emulator) -> Iterable[Sequence[str]]:
    for customer in list(emulator.world.customers)[: -SHOWN - 1 : -1]:
        if customer.get("deleted"):
            yield customer["id"], "deleted", "", ""
        else:
            yield (
                customer["id"],
                customer["email"] or "",
                customer["name"] or "",
                rfc3339(customer["created"]),
            )


def _invoices(emulator: Emulator) -> Iterable[Sequence[str]]:
    for invoice in list(emulator.world.invoices)[: -SHOWN - 1 : -1]:
        at = invoice["automatically_finalizes_at"]
        yield (
            invoice["id"],
            invoice["customer"],
            invoice["billing_reason"],
            invoice["status"],
            f"{invoice['total']:,} {invoice['currency']}",
            rfc3339(at) if at is not None else "",
            f"{len(invoice['lines']['data']):,}",
        )


def _sessions(emulator: Emulator) -> Iterable[Sequence[str]]:
    for session in list(emulator.world.checkout_sessions)[: -SHOWN - 1 : -1]:
        yield (
            session["url"] or session["id"],
            session["mode"],
            session["status"],
            session["customer"] or "",
            rfc3339(session["expires_at"]),
        )


def _violations(emulator: Emulator) -> Iterable[Sequence[str]]:
    violations = emulator.world.violations
    latest = {each.kind: each for each in violations.kept}
    for kind, times in sorted(violations.counts.items()):
        last = latest.get(kind)  # only so many are kept, so there may be none
        detail = ", ".join(f"{name} {value}" for name, value in last.detail.items()) if last else ""
        yield kind, f"{times:,}", f"request {last.arrival}: {detail}" if last else ""
