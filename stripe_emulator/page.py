"""The page for people: what the account holds and what happens to it, read only."""

from collections.abc import Iterable, Sequence
from html import escape

from stripe_emulator.core.emulator import Emulator
from stripe_emulator.core.moments import rfc3339
from stripe_emulator.version import API_VERSION

SHOWN = 20
SAID = 48
"""So much of an error message fits in a row."""

_STYLE = """
body{font:14px/1.5 system-ui,sans-serif;margin:2rem auto;max-width:84rem;padding:0
1rem;color:#1a1f36} h1{font-size:1.4rem;margin:0}h2{font-size:1rem;margin:2rem 0 .5rem}
p.note{color:#697386;margin:.2rem 0 0}
table{border-collapse:collapse;width:100%}
th,td{text-align:left;padding:.35rem .6rem;border-bottom:1px solid #e3e8ee;vertical-align:top}
th{font-weight:600;color:#697386;font-size:.8rem}
.wide{overflow-x:auto}td,th{white-space:nowrap}
.number{text-align:right;font-variant-numeric:tabular-nums}
code{font:12px ui-monospace,monospace}
.figures{display:flex;gap:2.5rem;margin:1.2rem 0;flex-wrap:wrap}
.figures div{font-size:1.3rem;font-variant-numeric:tabular-nums}
.figures span{display:block;font-size:.8rem;color:#697386}
.bad{color:#b3093c}.empty{color:#697386}
"""


def render(emulator: Emulator) -> str:
    """Return the whole page as HTML."""
    world = emulator.world
    violations = sum(world.violations.counts.values())
    figures = [
        ("requests", f"{len(emulator.arrivals):,}", False),
        ("customers", f"{len(world.customers):,}", False),
        ("subscriptions", f"{len(world.subscriptions):,}", False),
        ("events", f"{len(world.events) + len(world.thin_events):,}", False),
        ("deliveries waiting", f"{len(world.outbox.waiting):,}", False),
        ("violations", f"{violations:,}", violations > 0),
    ]
    sections = [
        _figures(figures),
        _section(
            "Meters",
            ("event name", "id", "formula", "status", "#events", "#sum"),
            _meters(emulator),
        ),
        _section(
            "Latest requests",
            ("#no.", "time", "request", "#status", "verdict", "identifier", "fault", "said"),
            _requests(emulator),
        ),
        _section("Violations", ("kind", "#times", "latest"), _violations(emulator)),
        _section(
            "Faults in force",
            ("id", "kind", "path", "#probability", "#left", "#struck"),
            _faults(emulator),
        ),
        _section("Webhook endpoints", ("url", "id", "kind", "status"), _endpoints(emulator)),
        _section(
            "Latest deliveries", ("time", "event", "#try", "#answer", "url"), _deliveries(emulator)
        ),
        _section("Customers", ("id", "email", "name", "created"), _customers(emulator)),
    ]
    clock = " (frozen)" if emulator.clock.frozen else ""
    return (
        "<!doctype html><html lang=en><meta charset=utf-8>"
        "<meta name=viewport content='width=device-width'><title>Stripe emulator</title>"
        f"<style>{_STYLE}</style><h1>Stripe emulator</h1>"
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
            _clock_time(arrival.at),
            f"{arrival.method} {arrival.path}",
            str(arrival.status or "none"),
            arrival.verdict,
            identifiers + more,
            arrival.fault or "",
            _shortened(arrival.error) if arrival.verdict == "refused" else "",
        )


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
            _clock_time(float(str(entry["at"]))),
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


def _violations(emulator: Emulator) -> Iterable[Sequence[str]]:
    violations = emulator.world.violations
    latest = {each.kind: each for each in violations.kept}
    for kind, times in sorted(violations.counts.items()):
        detail = ", ".join(f"{name} {value}" for name, value in latest[kind].detail.items())
        yield kind, f"{times:,}", f"request {latest[kind].arrival}: {detail}"


def _clock_time(at: float) -> str:
    return rfc3339(at)[11:-1]


def _figures(figures: Sequence[tuple[str, str, bool]]) -> str:
    cells = (
        f"<div{' class=bad' if bad else ''}>{escape(value)}<span>{escape(name)}</span></div>"
        for name, value, bad in figures
    )
    return f"<div class=figures>{''.join(cells)}</div>"


def _section(title: str, heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a titled table; a head that begins with # is over numbers."""
    kinds = [" class=number" if name.startswith("#") else "" for name in heads]
    body = "".join(
        "<tr>"
        + "".join(f"<td{kind}>{escape(cell)}</td>" for kind, cell in zip(kinds, row, strict=True))
        + "</tr>"
        for row in rows
    )
    if not body:
        return f"<h2>{escape(title)}</h2><p class=empty>None.</p>"
    head = "".join(
        f"<th{kind}>{escape(name.removeprefix('#'))}</th>"
        for kind, name in zip(kinds, heads, strict=True)
    )
    return f"<h2>{escape(title)}</h2><div class=wide><table><tr>{head}</tr>{body}</table></div>"
