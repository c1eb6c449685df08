"""How paying with a payment method ends: the name of Stripe's test card decides.

Source: docs.stripe.com/testing. Any other id stands for a card that always pays.
"""

from typing import Literal, NamedTuple


class Card(NamedTuple):
    """A card as people are shown it."""

    brand: str
    last4: str


class Outcome(NamedTuple):
    """What the bank says; a decline has the code Stripe gives it."""

    status: Literal["succeeded", "declined", "requires_action"]
    decline_code: str | None = None


PAYS = Outcome("succeeded")
AUTHENTICATION = Outcome("requires_action")
UNAUTHENTICATED = Outcome("declined", "authentication_failure")
"""Its owner told the bank that it was not them, or gave up."""

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
_CARDS = {
    "chargeDeclined": Card("visa", "0002"),
    "chargeDeclinedInsufficientFunds": Card("visa", "9995"),
    "chargeDeclinedLostCard": Card("visa", "9987"),
    "chargeDeclinedStolenCard": Card("visa", "9979"),
    "chargeDeclinedExpiredCard": Card("visa", "0069"),
    "chargeDeclinedIncorrectCvc": Card("visa", "0127"),
    "chargeDeclinedProcessingError": Card("visa", "0119"),
    "chargeDeclinedVelocityLimitExceeded": Card("visa", "6975"),
    "chargeCustomerFail": Card("visa", "0341"),
    "authenticationRequired": Card("visa", "3184"),
    "authenticationRequiredOnSetup": Card("visa", "3155"),
    "threeDSecure2Required": Card("visa", "3220"),
}
_LAST_DIGITS = {"visa": "4242", "mastercard": "4444", "amex": "8431"}
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


def after_bank(outcome: Outcome, *, authenticated: bool | None) -> Outcome:
    """Return what becomes of an outcome once its owner answered the bank; None is no answer yet."""
    if outcome != AUTHENTICATION or authenticated is None:
        return outcome
    return PAYS if authenticated else UNAUTHENTICATED


def card_of(payment_method: str) -> Card:
    """Return what a page shows of a card; one Stripe does not name is shown as its Visa."""
    known = _CARDS.get(_name(payment_method))
    if known is not None:
        return known
    brand = next((b for b in _LAST_DIGITS if payment_method.startswith(f"pm_card_{b}")), "visa")
    return Card(brand, _LAST_DIGITS[brand])


def _name(payment_method: str) -> str:
    for brand in _BRANDS:
        if payment_method.startswith(brand):
            return payment_method.removeprefix(brand)
    return payment_method
