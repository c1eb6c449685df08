"""What `expand` takes, and that a wrong path stops a call before it does anything."""

from typing import Any

import pytest
import stripe

from stripe_emulator.core import expandable
from stripe_emulator.core.errors import ApiError
from stripe_emulator.core.routing import ROUTES

from . import sdk_shapes, spec

pytestmark = pytest.mark.unit


def refusal(call, *args) -> stripe.InvalidRequestError:
    with pytest.raises(stripe.InvalidRequestError) as caught:
        call(*args)
    return caught.value


def test_wrong_path_makes_nothing_and_keeps_the_key_free(client, emulator):
    error = refusal(
        client.v1.customers.create,
        {"email": "a@example.com", "expand": ["nothing"]},
        {"idempotency_key": "k"},
    )
    made = client.v1.customers.create({"email": "a@example.com"}, {"idempotency_key": "k"})

    assert (error.http_status, error.param) == (400, "expand")
    assert error.error.message == "This property cannot be expanded (nothing)."
    assert [each["id"] for each in emulator.world.customers] == [made.id]


def test_wrong_path_counts_no_usage(shop):
    event = {
        "event_name": "tokens",
        "payload": {"stripe_customer_id": shop.customer.id, "value": "1"},
    }

    refusal(shop.client.v1.billing.meter_events.create, {**event, "expand": ["payload"]})

    assert shop.total() == 0
    assert shop.emulator.truth.as_dict()["event_names"] == {}


def test_wrong_path_changes_nothing(client, shop, base_price):
    for call, object_id, change in (
        (client.v1.customers.update, shop.customer.id, {"name": "Eva"}),
        (client.v1.prices.update, base_price.id, {"nickname": "new"}),
    ):
        refusal(call, object_id, {**change, "expand": ["metadata"]})

    assert client.v1.customers.retrieve(shop.customer.id).name is None
    assert client.v1.prices.retrieve(base_price.id).nickname is None


@pytest.mark.parametrize(
    "route",
    [route for route in ROUTES if "expand" in route.takes.fields],
    ids=lambda route: f"{route.method} {route.path}",
)
def test_no_operation_expands_what_does_not_exist(route):
    for path in ("nothing", "data.nothing", "id", "data", "metadata.a"):
        with pytest.raises(ApiError, match="cannot be expanded"):
            expandable.check(route.path, listed=route.listed, expand=[path])


@pytest.mark.parametrize("path", ["secret", "_secret", "thin"])
def test_hidden_fields_stay_hidden(client, path):
    made = client.v1.webhook_endpoints.create(
        {"url": "https://app.example/hook", "enabled_events": ["*"]}
    )

    refusal(client.v1.webhook_endpoints.retrieve, made.id, {"expand": [path]})


@pytest.mark.parametrize(
    ("path", "levels"), [("latest_invoice.customer", 2), ("items.data.price.product", 4)]
)
def test_path_leads_to_whole_objects(client, shop, base_price, path, levels):
    made = client.v1.subscriptions.create(
        {
            "customer": shop.customer.id,
            "items": [{"price": base_price.id}],
            "payment_behavior": "default_incomplete",
            "expand": [path],
        }
    ).to_dict()

    found: Any = made
    for part in path.split("."):
        found = found[part][0] if part == "data" else found[part]

    assert len(path.split(".")) == levels
    assert found["id"] in {shop.customer.id, base_price.product}


def test_fifth_level_is_refused(client):
    error = refusal(
        client.v1.subscriptions.list, {"expand": ["data.items.data.price.product.default_price"]}
    )

    assert "more than 4 levels" in error.error.message


@pytest.mark.parametrize("path", ["product", "data.nothing", "data", "data.recurring.meter"])
def test_list_takes_paths_that_begin_with_data_only(client, path):
    refusal(client.v1.prices.list, {"expand": [path]})


def test_tiers_of_a_price_without_tiers_are_ignored(client, base_price):
    shown = client.v1.prices.retrieve(base_price.id, {"expand": ["tiers"]})
    page = client.v1.prices.list({"expand": ["data.tiers", "data.product"]})

    assert "tiers" not in shown.to_dict()
    assert "tiers" not in page.data[0].to_dict()
    assert page.data[0].product.id == base_price.product


def test_what_is_not_kept_is_left_as_it_is(client, shop):
    client.v1.customers.update(
        shop.customer.id, {"invoice_settings": {"default_payment_method": "pm_1"}}
    )

    shown = client.v1.customers.retrieve(
        shop.customer.id, {"expand": ["invoice_settings.default_payment_method", "sources"]}
    )

    assert shown.invoice_settings.default_payment_method == "pm_1"
    assert "sources" not in shown.to_dict()


def described(schema: dict[str, Any], before: tuple[str, ...] = ()) -> set[str]:
    """The paths the description marks as expandable within one object."""
    found = set()
    for name, field in schema.get("properties", {}).items():
        path = (*before, name)
        kind = field.get("items", field) if field.get("type") == "array" else field
        if "x-expansionResources" in kind:
            found.add(".".join(path))
        else:
            found |= described(kind, path)
    return found


KINDS = {*expandable.EXPANDABLE, *expandable.ELSEWHERE, "billing.meter", "event"}


@pytest.mark.contract
@pytest.mark.parametrize("kind", sorted(KINDS - sdk_shapes.CLASSES.keys()))
def test_paths_are_those_of_the_description(kind):
    schemas = spec.description()["components"]["schemas"]

    taken = {*expandable.EXPANDABLE.get(kind, {}), *expandable.ELSEWHERE.get(kind, ())}

    assert taken == described(schemas[kind])
    assert expandable.LEFT_OUT.get(kind, set()) <= set(schemas[kind]["properties"])
    assert not expandable.LEFT_OUT.get(kind, set()) & set(schemas[kind].get("required", []))


@pytest.mark.contract
@pytest.mark.parametrize("kind", sorted(sdk_shapes.CLASSES))
def test_paths_are_those_of_the_sdk(kind):
    taken = {*expandable.EXPANDABLE.get(kind, {}), *expandable.ELSEWHERE.get(kind, ())}

    assert taken == sdk_shapes.expandable(sdk_shapes.CLASSES[kind])


@pytest.mark.parametrize(
    "path", ["items", "items.data", "items.data.price", "latest_invoice.lines"]
)
def test_path_does_not_end_at_what_is_shown_anyway(client, path):
    error = refusal(client.v1.subscriptions.list, {"expand": [f"data.{path}"]})

    assert error.error.message == f"This property cannot be expanded (data.{path})."
