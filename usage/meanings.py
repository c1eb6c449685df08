"""What stored words mean, one sentence each, for people who read an answer of the API. Pure."""

from __future__ import annotations

from usage.enums import HeldReason, Outcome, ReplacementKind, Wire
from usage.lifecycle import State

STATES = {
    State.READY: "It is due to be sent to Stripe and was not tried yet.",
    State.SENDING: "A call to Stripe is under way.",
    State.RETRY: "Stripe is known not to have it yet; it is sent again by itself.",
    State.IN_DOUBT: "It was sent and how that ended is not known; it is sent again under the same"
    " identifier, which Stripe counts once.",
    State.ACCEPTED: "Stripe took it; Stripe's total of the hour was not found equal to ours yet.",
    State.SETTLED: "Stripe's total of the hour equals ours, so it is counted.",
    State.UNPROVEN: "Whether Stripe has it can be told by Stripe's total of the hour only, which"
    " decides by itself.",
    State.REJECTED: "Stripe refused it for good; a person decides about it.",
    State.SUPERSEDED: "It was taken out and will not be counted; what stands for it is named.",
    State.EXPIRED: "It is too old for Stripe to take; a person bills it by hand.",
    State.WRITTEN_OFF: "A person gave it up; it is not billed.",
}
UNVERIFIED = (
    "Stripe's stream took it, which says nothing of whether it was counted; Stripe's total of the"
    " hour will tell."
)
OUTCOMES = {
    None: "The call is under way, or its end is not known.",
    Outcome.ACCEPTED: "Stripe took it.",
    Outcome.DUPLICATE: "Stripe has had it from an earlier attempt.",
    Outcome.NOT_ACCEPTED: "Stripe did not take it, and can be asked again.",
    Outcome.UNKNOWN: "No answer told whether Stripe took it.",
    Outcome.REJECTED: "Stripe refused it for good.",
}
HELD = {
    HeldReason.UNKNOWN_CUSTOMER: "No customer has this external id; it is sent once one has.",
    HeldReason.CUSTOMER_NOT_AT_STRIPE: "The customer has no Stripe id yet; it is sent once it has"
    " one.",
    HeldReason.METER_NOT_AT_STRIPE: "The meter has no Stripe id yet; it is sent once it has one.",
    HeldReason.LATE: "The invoice of its period is final, so a person decides about it.",
    HeldReason.PERIOD_FULL: "No second is left in the period for another running value, so the"
    " invoice is corrected by hand.",
    HeldReason.AHEAD: "The next running value would be further ahead than Stripe takes; it is tried"
    " again after a minute.",
}
RELEASED = "It was held until the reason was gone; what it came to is told by what followed."
DECISIONS = {
    ReplacementKind.DOUBT: "Stripe's total proved that it did not arrive, wholly or in part, so"
    " what is missing is sent anew.",
    ReplacementKind.RESTORE: "The database had been restored, and Stripe's total told what is"
    " missing, which is sent anew.",
    ReplacementKind.REFOLD: "A billing-period boundary became known before it was sent, so it was"
    " cut in two.",
    ReplacementKind.LATE: "The invoice of its period became final before it was sent, so it is"
    " held.",
    ReplacementKind.RUNNING: "A newer running value stands for it.",
}


def of_state(state: State, *, wire: str) -> str:
    """Return what the state of a submission means; `wire` is the one it took, if any."""
    if state == State.ACCEPTED and wire == Wire.STREAM:
        return UNVERIFIED
    return STATES[state]


def of_held(reason: HeldReason, *, is_released: bool) -> str:
    """Return why usage is held, or that it is no longer."""
    return RELEASED if is_released else HELD[reason]
