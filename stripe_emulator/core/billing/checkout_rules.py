"""What a Checkout session cannot be made with, apart from its lines."""

from urllib.parse import urlsplit

from stripe_emulator.core.call import Call
from stripe_emulator.core.collection import Object
from stripe_emulator.core.errors import invalid
from stripe_emulator.core.settings import DAY_SECONDS, HOUR_SECONDS

SHORTEST_SECONDS = HOUR_SECONDS // 2
LONGEST_SECONDS = DAY_SECONDS
TRIAL_AHEAD_SECONDS = 2 * DAY_SECONDS
"""So far ahead a trial must end. Source: stripe-python, `subscription_data.trial_end`."""
_OTHER_MODES = {
    "setup": ("line_items", "payment_method_collection", "subscription_data"),
    "subscription": ("customer_creation", "setup_intent_data"),
}
_ANCHORS = ("billing_cycle_anchor", "billing_cycle_anchor_config", "proration_behavior")


def check_mode(call: Call) -> None:
    mode = call.given("mode")
    if mode is None:
        raise invalid("Missing required param: mode.", param="mode", code="parameter_missing")
    if mode == "payment":
        raise invalid(
            "The emulator has no payment intents, and so no Checkout in `payment` mode.",
            param="mode",
        )
    for name in _OTHER_MODES[mode]:
        if name in call.params:
            raise invalid(f"You can not pass `{name}` in `{mode}` mode.", param=name)
    if mode == "subscription" and not call.given("line_items"):
        raise invalid(
            "Missing required param: line_items.", param="line_items", code="parameter_missing"
        )
    if mode == "setup" and not (
        call.given("currency") or call.given("allowed_payment_method_types")
    ):
        raise invalid(
            "`currency` is required in `setup` mode when `allowed_payment_method_types` is not "
            "set.",
            param="currency",
            code="parameter_missing",
        )


def check_page(call: Call) -> None:
    if call.given("ui_mode", "hosted_page") != "hosted_page":
        raise invalid(
            "The emulator has no Stripe.js, and so `ui_mode=hosted_page` only.", param="ui_mode"
        )
    if "success_url" not in call.params:
        raise invalid(
            "Missing required param: success_url.", param="success_url", code="parameter_missing"
        )
    for name in ("success_url", "cancel_url"):
        check_url(call.given(name), name)


def check_url(url: str | None, param: str) -> None:
    """Refuse what no browser can be sent to."""
    if url is None:
        return
    parts = urlsplit(url)
    printable = url.isprintable() and " " not in url
    if parts.scheme not in {"http", "https"} or not parts.hostname or not printable:
        raise invalid("Not a valid URL", param=param, code="url_invalid")


def expires_at(call: Call) -> int:
    """Return when it ends, by everybody's clock even for a customer on a test clock (inferred)."""
    now = call.world.second()
    asked: int = call.given("expires_at", now + LONGEST_SECONDS)
    if asked < now + SHORTEST_SECONDS:
        raise invalid(
            "The `expires_at` timestamp must be at least 30 minutes from Checkout Session "
            "creation.",
            param="expires_at",
        )
    if asked > now + LONGEST_SECONDS:
        raise invalid(
            "The `expires_at` timestamp must be less than 24 hours from Checkout Session creation.",
            param="expires_at",
        )
    return asked


def has_trial(data: Object, now: int) -> bool:
    """Tell whether billing begins later, or refuse what no Checkout can begin with."""
    for name in _ANCHORS:
        if name in data:
            raise invalid(
                "The emulator's Checkout begins the cycle at its completion: it takes no "
                f"`{name}`.",
                param=f"subscription_data[{name}]",
            )
    if "trial_end" not in data:
        return "trial_period_days" in data
    if "trial_period_days" in data:
        raise invalid(
            "`trial_end` and `trial_period_days` exclude each other.",
            param="subscription_data[trial_end]",
        )
    if data["trial_end"] < now + TRIAL_AHEAD_SECONDS:
        raise invalid(
            "The `trial_end` date has to be at least 2 days in the future.",
            param="subscription_data[trial_end]",
        )
    return True
