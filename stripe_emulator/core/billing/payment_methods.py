"""How paying with a payment method ends: the name of Stripe's test card decides.

Source: docs.stripe.com/testing. Any other id stands for a card that always pays.
"""

from typing import Literal, NamedTuple


class Outcome(NamedTuple):
    """What the bank says; a decline has the code Stripe gives it."""

    status: Literal["succeeded", "declined", "requires_action"]
    decline_code: str | None = None


PAYS = Outcome("succeeded")
AUTHENTICATION = Outcome("requires_action")

_DECLINES = {
    "chargeDeclined": "generic_decline",
    "chargeDeclinedInsufficientFunds": "insufficient_funds",
    "chargeDeclinedLostCard": "lost_card",
    "chargeDeclinedStolenCard": "stolen_card",
    "chargeDeclinedExpiredCard": "expired_card",
    "chargeDeclinedIncorrectCvc": "incorrect_cvc",
    "chargeDeclinedProcessingError": "processing_error",
    "chargeDeclinedVelocityLimitExceeded": "card_velocity_exceeded",
}
_BRANDS = ("pm_card_visa_", "pm_card_mastercard_", "pm_card_amex_", "pm_card_")
_ASKS_ALWAYS = "authenticationRequired"
_ASKS_ONCE = {"authenticationRequiredOnSetup", "threeDSecure2Required"}
_PAYS_NEVER_ONCE_SAVED = "chargeCustomerFail"


def charge(payment_method: str, *, off_session: bool) -> Outcome:
    """Return how a payment ends.

    Off session nobody is there to authenticate, which the bank answers with a decline.
    """
    name = _name(payment_method)
    if name in _DECLINES:
        return Outcome("declined", _DECLINES[name])
    if name == _PAYS_NEVER_ONCE_SAVED:
        return Outcome("declined", "generic_decline")
    if name == _ASKS_ALWAYS or (name in _ASKS_ONCE and not off_session):
        return Outcome("declined", "authentication_required") if off_session else AUTHENTICATION
    return PAYS


def save(payment_method: str) -> Outcome:
    """Return how keeping a card for later ends, as a setup intent or a page tries it."""
    name = _name(payment_method)
    if name in _DECLINES:
        return Outcome("declined", _DECLINES[name])
    if name == _ASKS_ALWAYS or name in _ASKS_ONCE:
        return AUTHENTICATION
    return PAYS


def _name(payment_method: str) -> str:
    for brand in _BRANDS:
        if payment_method.startswith(brand):
            return payment_method.removeprefix(brand)
    return payment_method
