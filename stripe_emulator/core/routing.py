"""Which function answers which URL, and how its parameters travel."""

import re
from collections.abc import Sequence

from stripe_emulator.core import (
    adjustments,
    alerts,
    customers,
    event_reads,
    meter_events,
    meter_events_v2,
    meters,
    price_params,
    prices,
    products,
    search,
    sessions,
    summaries,
    test_clocks,
    webhook_endpoints,
)
from stripe_emulator.core.billing import (
    cancellations,
    checkout_routes,
    invoice_routes,
    previews,
    subscription_changes,
    subscription_params,
    subscription_pauses,
    subscriptions,
)
from stripe_emulator.core.params import NO_PARAMETERS
from stripe_emulator.core.route import ONLY_EXPAND, Route

STREAM_PATH = "/v2/billing/meter_event_stream"
STREAM_HOST = "meter-events.stripe.com"
API_HOST = "api.stripe.com"


ROUTES: Sequence[Route] = (
    Route(
        "POST",
        "/v1/billing/meter_events",
        meter_events.create,
        meter_events.CREATE,
        meter_event=True,
    ),
    Route("POST", "/v1/billing/meters", meters.create, meters.CREATE),
    Route("GET", "/v1/billing/meters", meters.list_all, meters.LIST),
    Route("GET", "/v1/billing/meters/{id}", meters.retrieve, ONLY_EXPAND),
    Route("POST", "/v1/billing/meters/{id}", meters.update, meters.UPDATE),
    Route("POST", "/v1/billing/meters/{id}/deactivate", meters.deactivate, meters.SWITCH),
    Route("POST", "/v1/billing/meters/{id}/reactivate", meters.reactivate, meters.SWITCH),
    Route("GET", "/v1/billing/meters/{id}/event_summaries", summaries.list_all, summaries.LIST),
    Route("POST", "/v1/customers", customers.create, customers.CREATE),
    Route("GET", "/v1/customers", customers.list_all, customers.LIST),
    Route("GET", "/v1/customers/search", search.customers, search.SEARCH),
    Route("GET", "/v1/products/search", search.products, search.SEARCH),
    Route("GET", "/v1/prices/search", search.prices, search.SEARCH),
    Route("GET", "/v1/customers/{id}", customers.retrieve, ONLY_EXPAND),
    Route("POST", "/v1/customers/{id}", customers.update, customers.UPDATE),
    Route("DELETE", "/v1/customers/{id}", customers.delete, NO_PARAMETERS),
    Route("DELETE", "/v1/customers/{id}/discount", customers.delete_discount, NO_PARAMETERS),
    Route("POST", "/v1/products", prices.create_product, products.CREATE),
    Route("GET", "/v1/products", products.list_all, products.LIST),
    Route("GET", "/v1/products/{id}", products.retrieve, ONLY_EXPAND),
    Route("POST", "/v1/products/{id}", products.update, products.UPDATE),
    Route("DELETE", "/v1/products/{id}", products.delete, NO_PARAMETERS),
    Route("POST", "/v1/prices", prices.create, price_params.CREATE),
    Route("GET", "/v1/prices", prices.list_all, price_params.LIST),
    Route("GET", "/v1/prices/{id}", prices.retrieve, ONLY_EXPAND),
    Route("POST", "/v1/prices/{id}", prices.update, price_params.UPDATE),
    Route("POST", "/v1/subscriptions", subscriptions.create, subscription_params.CREATE),
    Route("GET", "/v1/subscriptions", subscriptions.list_all, subscription_params.LIST),
    Route("GET", "/v1/subscriptions/search", search.subscriptions, search.SEARCH),
    Route("GET", "/v1/subscriptions/{id}", subscriptions.retrieve, ONLY_EXPAND),
    Route(
        "POST", "/v1/subscriptions/{id}", subscription_changes.update, subscription_params.UPDATE
    ),
    Route("DELETE", "/v1/subscriptions/{id}", cancellations.cancel, subscription_params.CANCEL),
    Route(
        "POST", "/v1/subscriptions/{id}/pause", subscription_pauses.pause, subscription_pauses.PAUSE
    ),
    Route(
        "POST",
        "/v1/subscriptions/{id}/resume",
        subscription_pauses.resume,
        subscription_pauses.RESUME,
    ),
    Route(
        "POST",
        "/v1/subscriptions/{id}/migrate",
        subscription_pauses.migrate,
        subscription_pauses.MIGRATE,
    ),
    Route(
        "DELETE",
        "/v1/subscriptions/{id}/discount",
        subscription_pauses.delete_discount,
        NO_PARAMETERS,
    ),
    Route("POST", "/v1/invoices/create_preview", previews.create, previews.CREATE),
    *invoice_routes.ROUTES,
    Route("GET", "/v1/events", event_reads.list_all, event_reads.LIST),
    Route("GET", "/v1/events/{id}", event_reads.retrieve, ONLY_EXPAND),
    Route("POST", "/v1/webhook_endpoints", webhook_endpoints.create, webhook_endpoints.CREATE),
    Route("GET", "/v1/webhook_endpoints", webhook_endpoints.list_all, webhook_endpoints.LIST),
    Route("GET", "/v1/webhook_endpoints/{id}", webhook_endpoints.retrieve, ONLY_EXPAND),
    Route("POST", "/v1/webhook_endpoints/{id}", webhook_endpoints.update, webhook_endpoints.UPDATE),
    Route("DELETE", "/v1/webhook_endpoints/{id}", webhook_endpoints.delete, NO_PARAMETERS),
    Route("POST", "/v1/billing/meter_event_adjustments", adjustments.create, adjustments.CREATE),
    Route("POST", "/v1/billing/alerts", alerts.create, alerts.CREATE),
    Route("GET", "/v1/billing/alerts", alerts.list_all, alerts.LIST),
    Route("GET", "/v1/billing/alerts/{id}", alerts.retrieve, ONLY_EXPAND),
    Route("POST", "/v1/billing/alerts/{id}/activate", alerts.activate, alerts.SWITCH),
    Route("POST", "/v1/billing/alerts/{id}/deactivate", alerts.deactivate, alerts.SWITCH),
    Route("POST", "/v1/billing/alerts/{id}/archive", alerts.archive, alerts.SWITCH),
    *checkout_routes.ROUTES,
    Route("POST", "/v1/test_helpers/test_clocks", test_clocks.create, test_clocks.CREATE),
    Route("GET", "/v1/test_helpers/test_clocks", test_clocks.list_all, test_clocks.LIST),
    Route("GET", "/v1/test_helpers/test_clocks/{id}", test_clocks.retrieve, ONLY_EXPAND),
    Route("DELETE", "/v1/test_helpers/test_clocks/{id}", test_clocks.delete, NO_PARAMETERS),
    Route(
        "POST",
        "/v1/test_helpers/test_clocks/{id}/advance",
        test_clocks.advance,
        test_clocks.ADVANCE,
    ),
    Route(
        "POST",
        "/v2/billing/meter_events",
        meter_events_v2.create,
        meter_events_v2.EVENT,
        meter_event=True,
    ),
    Route("POST", STREAM_PATH, meter_events_v2.stream, meter_events_v2.STREAM),
    Route("POST", "/v2/billing/meter_event_session", sessions.create, NO_PARAMETERS),
    Route(
        "POST",
        "/v2/billing/meter_event_adjustments",
        adjustments.create_v2,
        adjustments.CREATE_V2,
    ),
    Route("GET", "/v2/core/events", event_reads.list_v2, event_reads.LIST_V2),
    Route("GET", "/v2/core/events/{id}", event_reads.retrieve_v2, NO_PARAMETERS),
)

_EXACT: dict[tuple[str, str], Route] = {
    (route.method, route.path): route for route in ROUTES if "{" not in route.path
}
_PATTERNS = [
    (route, re.compile(re.sub(r"\{(\w+)\}", r"(?P<\1>[^/]+)", route.path)))
    for route in ROUTES
    if "{" in route.path
]


def find_route(method: str, path: str, host: str = "") -> tuple[Route, dict[str, str]] | None:
    """Return the route of a request and the values in its path.

    The stream has a host of its own. Behind an address of ours both are served; a caller who
    names Stripe's hosts finds each only on the right one.
    """
    if host == (API_HOST if path == STREAM_PATH else STREAM_HOST):
        return None
    exact = _EXACT.get((method, path))
    if exact is not None:
        return exact, {}
    for route, pattern in _PATTERNS:
        match = pattern.fullmatch(path) if route.method == method else None
        if match is not None:
            return route, match.groupdict()
    return None
