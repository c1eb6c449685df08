"""Asynchronous refusals.

They are gathered for a while, then told in one thin event per meter, with samples only.
"""

from stripe_emulator.core import events
from stripe_emulator.core.intake import Offered
from stripe_emulator.core.moments import rfc3339
from stripe_emulator.core.pending_reports import Gathered, Key
from stripe_emulator.core.usage_rules import Refused
from stripe_emulator.core.world import World

CODES = {
    "no_meter": "no_meter",
    "archived_meter": "archived_meter",
    "no_customer_defined": "meter_event_no_customer_defined",
    "customer_not_found": "meter_event_customer_not_found",
    "value_not_found": "meter_event_value_not_found",
    "invalid_value": "meter_event_invalid_value",
    "value_too_many_digits": "meter_event_value_too_many_digits",
    "timestamp_too_far_in_past": "timestamp_too_far_in_past",
    "timestamp_in_future": "timestamp_in_future",
}
"""From our reasons to the codes of a report (docs.stripe.com, recording usage).

A duplicate is dropped without a word (inferred).
"""
AGENDA_KIND = "error_report"


def gather(world: World, offered: Offered, refusal: Refused) -> None:
    """Remember a refusal; the first of a window makes the report due at the window's end."""
    code = CODES.get(refusal.reason)
    if code is None:
        return
    meter = world.meter_names.get((offered.event_name, offered.livemode))
    key: Key = (offered.livemode, meter["id"] if meter else None)
    gathered = world.reports.gathered.get(key)
    now = world.clock.now()
    if gathered is None:
        gathered = world.reports.gathered[key] = Gathered(since=now)
        world.agenda.add(now + world.settings.report_window_seconds, AGENDA_KIND, _subject(key))
    gathered.counts[code] = gathered.counts.get(code, 0) + 1
    samples = gathered.samples.setdefault(code, [])
    if len(samples) < world.settings.report_samples:
        samples.append((refusal.message, offered.identifier))


def report(world: World, subject: str, due_at: float) -> None:
    """Send the report that fell due."""
    mode, _, meter_id = subject.partition(":")
    key: Key = (mode == "live", meter_id or None)
    gathered = world.reports.gathered.pop(key, None)
    if gathered is None:
        return
    total = sum(gathered.counts.values())
    data = {
        "developer_message_summary": f"There is {total} invalid event"
        if total == 1
        else f"There are {total} invalid events",
        "reason": {
            "error_count": total,
            "error_types": [
                {
                    "code": code,
                    "error_count": count,
                    "sample_errors": [
                        {"error_message": message, "request": {"identifier": identifier}}
                        for message, identifier in gathered.samples[code]
                    ],
                }
                for code, count in gathered.counts.items()
            ],
        },
        "validation_start": rfc3339(gathered.since),
        "validation_end": rfc3339(due_at),
    }
    if meter_id:
        related = {"id": meter_id, "type": "billing.meter", "url": f"/v1/billing/meters/{meter_id}"}
        type_ = "v1.billing.meter.error_report_triggered"
        events.emit_thin(world, type_, livemode=key[0], data=data, related_object=related)
    else:
        events.emit_thin(world, "v1.billing.meter.no_meter_found", livemode=key[0], data=data)


def _subject(key: Key) -> str:
    return f"{'live' if key[0] else 'test'}:{key[1] or ''}"
