"""Whether Stripe is well: read from the newest attempts of all workers, and never stored.

A stored flag could outlive its cause.
"""

from __future__ import annotations

from billing import steps
from billing.gateway import errors, meter_events
from usage.calling import is_silence
from usage.models import Attempt

SILENCES_IN_A_ROW = 5
"""After so many calls without a proper answer Stripe counts as unwell."""


def met_silence() -> bool:
    """Return whether the newest calls, whoever made them, all met silence."""
    newest = (
        Attempt.objects.filter(outcome__isnull=False)
        .order_by("-pk")
        .values_list("outcome", "http_status")[:SILENCES_IN_A_ROW]
    )
    met = [is_silence(outcome, http_status) for outcome, http_status in newest]
    return len(met) == SILENCES_IN_A_ROW and all(met)


def answers() -> bool:
    """Return whether Stripe answers a read, which puts nothing into doubt."""
    try:
        with steps.call("usage.delivery.probe"):
            meter_events.probe()
    except errors.GatewayError as error:
        # Any other answer is one; what it has against us, the submissions' own calls will tell.
        return not isinstance(error, errors.Unavailable | errors.NotAccepted)
    return True
