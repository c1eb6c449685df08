"""What Stripe says when a card is declined, or its owner refused to authenticate.

The codes are those of docs.stripe.com/declines/codes; the words are inferred.
"""

from stripe_emulator.core.billing.payment_methods import UNAUTHENTICATED, Outcome
from stripe_emulator.core.collection import Object
from stripe_emulator.core.errors import ApiError

_CODES_OF_THEIR_OWN = {
    "authentication_required",
    "expired_card",
    "incorrect_cvc",
    "processing_error",
}
"""Declines that are an error code themselves; the others are a `card_declined`."""
_SENTENCES = {
    "authentication_required": "Your card was declined. This transaction requires authentication.",
    "card_velocity_exceeded": "Your card was declined for making repeated attempts too frequently "
    "or exceeding its amount limit.",
    "expired_card": "Your card has expired.",
    "incorrect_cvc": "Your card's security code is incorrect.",
    "insufficient_funds": "Your card has insufficient funds.",
    "processing_error": "An error occurred while processing your card. Try again in a little bit.",
}


def card_error(outcome: Outcome, *, intent: str = "payment_intent", **about: object) -> ApiError:
    """Return the 402 of a declined card.

    `intent` is the kind of intent that failed, `about` what the error shows besides.
    """
    error = error_of(outcome, intent=intent)
    return ApiError(
        402,
        error["message"],
        type=error["type"],
        code=error["code"],
        decline_code=error.get("decline_code"),
        details=about,
    )


def error_of(outcome: Outcome, *, intent: str = "payment_intent") -> Object:
    """Return what an intent keeps of its last failure."""
    if outcome == UNAUTHENTICATED:
        code = f"{intent}_authentication_failure"
        return {
            "code": code,
            "doc_url": _doc_url(code),
            "message": "We are unable to authenticate your payment method. Please choose a "
            "different payment method and try again.",
            "type": "invalid_request_error",
        }
    decline = outcome.decline_code or "generic_decline"
    code = decline if decline in _CODES_OF_THEIR_OWN else "card_declined"
    return {
        "code": code,
        "decline_code": decline,
        "doc_url": _doc_url(code),
        "message": _SENTENCES.get(decline, "Your card was declined."),
        "type": "card_error",
    }


def told(obj: Object, outcome: Outcome) -> Object:
    """Return what a person hears of trying a card: a status of intents, and a failure's error."""
    declined = outcome.status == "declined"
    keeps = obj["object"] == "setup_intent" or obj.get("mode") == "setup"
    intent = "setup_intent" if keeps else "payment_intent"
    return {
        "object": obj["object"],
        "id": obj["id"],
        "status": "requires_payment_method" if declined else outcome.status,
        "error": error_of(outcome, intent=intent) if declined else None,
    }


def _doc_url(code: str) -> str:
    return "https://stripe.com/docs/error-codes/" + code.replace("_", "-")
