"""The routes of Checkout, the portal and setup intents."""

from collections.abc import Sequence

from stripe_emulator.core.billing import (
    checkout_params,
    checkout_sessions,
    portal_sessions,
    setup_intent_calls,
)
from stripe_emulator.core.route import ONLY_EXPAND, Route

_SESSIONS = "/v1/checkout/sessions"
_SESSION = "/v1/checkout/sessions/{id}"
_INTENTS = "/v1/setup_intents"
_INTENT = "/v1/setup_intents/{id}"

ROUTES: Sequence[Route] = (
    Route("POST", _SESSIONS, checkout_sessions.create, checkout_params.CREATE),
    Route("GET", _SESSIONS, checkout_sessions.list_all, checkout_params.LIST),
    Route("GET", _SESSION, checkout_sessions.retrieve, ONLY_EXPAND),
    Route("POST", _SESSION, checkout_sessions.update, checkout_params.UPDATE),
    Route("POST", _SESSION + "/expire", checkout_sessions.expire, ONLY_EXPAND),
    Route("GET", _SESSION + "/line_items", checkout_sessions.line_items, checkout_params.LINES),
    Route("POST", "/v1/billing_portal/sessions", portal_sessions.create, portal_sessions.CREATE),
    Route("POST", _INTENTS, setup_intent_calls.create, setup_intent_calls.CREATE),
    Route("GET", _INTENTS, setup_intent_calls.list_all, setup_intent_calls.LIST),
    Route("GET", _INTENT, setup_intent_calls.retrieve, setup_intent_calls.RETRIEVE),
    Route("POST", _INTENT, setup_intent_calls.update, setup_intent_calls.UPDATE),
    Route("POST", _INTENT + "/confirm", setup_intent_calls.confirm, setup_intent_calls.CONFIRM),
    Route("POST", _INTENT + "/cancel", setup_intent_calls.cancel, setup_intent_calls.CANCEL),
)
