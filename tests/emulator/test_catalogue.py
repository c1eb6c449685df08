"""Customers, products, prices and meters: what they take, keep and refuse."""

from decimal import Decimal

import pytest
import stripe

from stripe_emulator.core.billing.pricing import amount, billed_quantity

from .conftest import NOW, make_meter

pytestmark = pytest.mark.unit


@pytest.fixture
def product(client):
    return client.v1.products.create({"name": "Tokens"})


def refused(call, *args) -> stripe.InvalidRequestError:
    with pytest.raises(stripe.InvalidRequestError) as caught:
        call(*args)
    return caught.value


def test_customer_keeps_what_it_was_given(client):
    made = client.v1.customers.create(
        {"email": "a@example.com", "name": "Ada", "metadata": {"a": "1", "b": "2"}}
    )
    client.v1.customers.update(made.id, {"name": "", "metadata": {"a": "", "c": "3"}})

    found = client.v1.customers.retrieve(made.id)

    assert (found.email, found.name, found.metadata.to_dict()) == (
        "a@example.com",
        None,
        {"b": "2", "c": "3"},
    )


def test_empty_metadata_removes_all_of_it(client):
    made = client.v1.customers.create({"metadata": {"a": "1"}})

    assert client.v1.customers.update(made.id, {"metadata": ""}).metadata.to_dict() == {}


@pytest.mark.parametrize(
    "metadata", [{"x" * 41: "v"}, {"k": "v" * 501}, {f"k{i}": "v" for i in range(51)}]
)
def test_metadata_has_limits(client, metadata):
    refused(client.v1.customers.create, {"metadata": metadata})


def test_deleted_customer_leaves_a_stone(client):
    made = client.v1.customers.create({})
    client.v1.customers.delete(made.id)

    assert client.v1.customers.retrieve(made.id).to_dict() == {
        "id": made.id,
        "object": "customer",
        "deleted": True,
    }
    assert client.v1.customers.list().data == []
    assert refused(client.v1.customers.update, made.id, {"name": "x"}).http_status == 404


def test_lists_page_in_both_directions_newest_first(client):
    made = [client.v1.customers.create({"email": f"{i}@example.com"}).id for i in range(25)]
    newest_first = made[::-1]

    first = client.v1.customers.list({"limit": 10})
    second = client.v1.customers.list({"limit": 10, "starting_after": first.data[-1].id})
    third = client.v1.customers.list({"limit": 10, "starting_after": second.data[-1].id})
    back = client.v1.customers.list({"limit": 10, "ending_before": third.data[0].id})

    pages = [[each.id for each in page.data] for page in (first, second, third, back)]
    assert pages == [newest_first[:10], newest_first[10:20], newest_first[20:], newest_first[10:20]]
    assert [first.has_more, second.has_more, third.has_more] == [True, True, False]
    assert [each.id for each in first.auto_paging_iter()] == newest_first


@pytest.mark.parametrize(
    ("params", "param"),
    [
        ({"limit": 0}, "limit"),
        ({"limit": 101}, "limit"),
        ({"starting_after": "cus_x"}, "starting_after"),
        ({"color": "red"}, "color"),
    ],
)
def test_bad_paging_is_refused(client, params, param):
    assert refused(client.v1.customers.list, params).param == param


def test_lists_filter(client, emulator):
    old = client.v1.customers.create({"email": "a@example.com"})
    emulator.clock.advance(10)
    new = client.v1.customers.create({"email": "b@example.com"})

    def ids(params):
        return [each.id for each in client.v1.customers.list(params).data]

    assert ids({"email": "a@example.com"}) == [old.id]
    assert ids({"created": {"gt": NOW}}) == [new.id]
    assert ids({"created": {"gte": NOW, "lt": NOW + 10}}) == [old.id]


def test_product_with_prices_cannot_be_deleted(client, product):
    client.v1.prices.create({"currency": "usd", "product": product.id, "unit_amount": 1})
    other = client.v1.products.create({"name": "Nothing"})

    assert "cannot be deleted" in refused(client.v1.products.delete, product.id).error.message
    assert client.v1.products.delete(other.id).deleted is True
    assert refused(client.v1.products.retrieve, other.id).http_status == 404


def test_product_id_of_our_own_is_unique(client):
    client.v1.products.create({"id": "tokens", "name": "Tokens"})

    assert (
        refused(client.v1.products.create, {"id": "tokens", "name": "Again"}).code
        == "resource_already_exists"
    )


def test_decimal_price_has_no_whole_amount(client, product):
    price = client.v1.prices.create(
        {"currency": "usd", "product": product.id, "unit_amount_decimal": "0.004"}
    )

    assert (price.unit_amount, price.unit_amount_decimal) == (None, Decimal("0.004"))


def test_metered_price_needs_an_active_meter(client, product, shop):
    def make(**recurring):
        return client.v1.prices.create(
            {
                "currency": "usd",
                "product": product.id,
                "unit_amount": 4,
                "recurring": {"interval": "month", **recurring},
            }
        )

    assert refused(lambda: make(usage_type="metered")).param == "recurring[meter]"
    assert refused(lambda: make(meter=shop.meter.id)).param == "recurring[meter]"
    assert make(usage_type="metered", meter=shop.meter.id).recurring.meter == shop.meter.id
    client.v1.billing.meters.deactivate(shop.meter.id)
    assert (
        "inactive" in refused(lambda: make(usage_type="metered", meter=shop.meter.id)).error.message
    )


@pytest.mark.parametrize(
    "extra",
    [
        {},
        {"unit_amount": 1, "unit_amount_decimal": "1"},
        {"unit_amount": -1},
        {"unit_amount_decimal": "0.0000000000001"},
        {"unit_amount_decimal": "abc"},
        {"unit_amount": 1, "billing_scheme": "tiered"},
        {
            "billing_scheme": "tiered",
            "tiers_mode": "volume",
            "tiers": [{"up_to": 5, "unit_amount": 1}],
        },
        {"billing_scheme": "tiered", "tiers": [{"up_to": "inf", "unit_amount": 1}]},
        {
            "billing_scheme": "tiered",
            "tiers_mode": "volume",
            "tiers": [
                {"up_to": 5, "unit_amount": 1},
                {"up_to": 5, "unit_amount": 1},
                {"up_to": "inf", "unit_amount": 1},
            ],
        },
        {"unit_amount": 1, "transform_quantity": {"divide_by": 0, "round": "up"}},
        {"unit_amount": 1, "transform_quantity": {"divide_by": 10}},
    ],
)
def test_senseless_prices_are_refused(client, product, extra):
    refused(client.v1.prices.create, {"currency": "usd", "product": product.id, **extra})

    assert client.v1.prices.list().data == []


def test_tiers_are_shown_when_expanded(client, product):
    price = client.v1.prices.create(
        {
            "currency": "usd",
            "product": product.id,
            "billing_scheme": "tiered",
            "tiers_mode": "graduated",
            "tiers": [
                {"up_to": 10, "unit_amount": 5, "flat_amount": 100},
                {"up_to": "inf", "unit_amount_decimal": "2.5"},
            ],
        }
    )
    shown = client.v1.prices.retrieve(price.id, {"expand": ["tiers"]})

    assert "tiers" not in price.to_dict()
    assert [tier.to_dict() for tier in shown.tiers] == [
        {
            "up_to": 10,
            "unit_amount": 5,
            "unit_amount_decimal": Decimal(5),
            "flat_amount": 100,
            "flat_amount_decimal": Decimal(100),
        },
        {
            "up_to": None,
            "unit_amount": None,
            "unit_amount_decimal": Decimal("2.5"),
            "flat_amount": None,
            "flat_amount_decimal": None,
        },
    ]


def test_lookup_key_moves_only_when_asked(client, product):
    first = client.v1.prices.create(
        {"currency": "usd", "product": product.id, "unit_amount": 1, "lookup_key": "tokens"}
    )
    again = {"currency": "usd", "product": product.id, "unit_amount": 2, "lookup_key": "tokens"}

    refused(client.v1.prices.create, again)
    second = client.v1.prices.create({**again, "transfer_lookup_key": True})

    assert client.v1.prices.retrieve(first.id).lookup_key is None
    assert [each.id for each in client.v1.prices.list({"lookup_keys": ["tokens"]}).data] == [
        second.id
    ]


def test_amounts_of_a_price_cannot_change(client, product):
    price = client.v1.prices.create({"currency": "usd", "product": product.id, "unit_amount": 1})

    assert (
        refused(client.v1.prices.update, price.id, {"unit_amount": 2}).code == "parameter_unknown"
    )


def test_price_with_product_data_makes_the_product(client):
    price = client.v1.prices.create(
        {"currency": "USD", "unit_amount": 1, "product_data": {"name": "New"}}
    )

    assert client.v1.products.retrieve(price.product).name == "New"
    assert price.currency == "usd"


def test_search_understands_its_query_language(client, emulator):
    for index, name in enumerate(("Ada Lovelace", "Alan Turing", "Grace Hopper")):
        client.v1.customers.create(
            {
                "name": name,
                "metadata": {"number": str(index)},
                **({"email": "a@example.com"} if index else {}),
            }
        )
        emulator.clock.advance(10)

    def names(query, **params):
        return [
            each.name.split()[0]
            for each in client.v1.customers.search({"query": query, **params}).data
        ]

    assert names("name:'ada lovelace'") == ["Ada"]
    assert names('name~"ing"') == ["Alan"]
    assert names("metadata['number']:'2'") == ["Grace"]
    assert names("email:null") == ["Ada"]
    assert names("-email:null AND -name~'ing'") == ["Grace"]
    assert names("name~'ada' OR name~'grace'") == ["Grace", "Ada"]
    assert names(f"created>={NOW + 10} created<{NOW + 20}") == ["Alan"]
    assert names("name~'nobody'") == []


def test_search_pages_by_token(client):
    for _ in range(7):
        client.v1.customers.create({"name": "Ada"})
    first = client.v1.customers.search({"query": "name:'Ada'", "limit": 3})

    assert (len(first.data), first.has_more) == (3, True)
    assert len(list(first.auto_paging_iter())) == 7


@pytest.mark.parametrize(
    "query",
    [
        "",
        "Ada",
        "name:",
        "name~'ab'",
        "name:'a' AND email:'b' OR phone:'c'",
        "name>'5'",
        "name:'a' AND",
    ],
)
def test_unreadable_searches_are_refused(client, query):
    client.v1.customers.create({"name": "a"})

    assert refused(client.v1.customers.search, {"query": query}).http_status == 400


PACKAGE = {
    "billing_scheme": "per_unit",
    "unit_amount_decimal": "4",
    "transform_quantity": {"divide_by": 1000, "round": "up"},
}


@pytest.mark.parametrize(
    ("quantity", "cents"), [("0", 0), ("1", 4), ("1000", 4), ("1001", 8), ("-5", 0)]
)
def test_package_price_rounds_the_total_up_once(quantity, cents):
    assert amount(PACKAGE, Decimal(quantity)) == cents


def test_linear_price_rounds_half_up():
    linear = {
        "billing_scheme": "per_unit",
        "unit_amount_decimal": "0.004",
        "transform_quantity": None,
    }

    assert [amount(linear, Decimal(n)) for n in (1001, 124, 125, 375)] == [4, 0, 1, 2]
    assert billed_quantity(linear, Decimal("1.5")) == Decimal("1.5")


def test_no_digit_of_a_large_amount_is_dropped():
    """28 digits, which Python keeps unless told otherwise, would make it a unit more."""
    dear = {
        "billing_scheme": "per_unit",
        "unit_amount_decimal": "99999998.499999999999",
        "transform_quantity": None,
    }
    quantity, unit = 999_000_000_100_001, 99_999_998_499_999_999_999

    assert amount(dear, Decimal(quantity)) == (quantity * unit + 5 * 10**11) // 10**12


@pytest.mark.parametrize(
    ("mode", "quantity", "cents"),
    [
        ("graduated", 0, 100),
        ("graduated", 10, 150),
        ("graduated", 11, 152),
        ("volume", 10, 150),
        ("volume", 11, 22),
        ("volume", 0, 100),
    ],
)
def test_tiered_prices(mode, quantity, cents):
    tiers = [
        {"up_to": 10, "unit_amount_decimal": "5", "flat_amount_decimal": "100"},
        {"up_to": None, "unit_amount_decimal": "2", "flat_amount_decimal": None},
    ]
    price = {
        "billing_scheme": "tiered",
        "tiers_mode": mode,
        "_tiers": tiers,
        "transform_quantity": None,
    }

    assert amount(price, Decimal(quantity)) == cents


def test_event_name_belongs_to_one_meter_even_when_inactive(client, shop):
    assert refused(make_meter, client).param == "event_name"
    client.v1.billing.meters.deactivate(shop.meter.id)
    assert refused(make_meter, client).param == "event_name"


def test_max_is_no_formula(client):
    error = refused(make_meter, client, "peak", "max")

    assert error.param == "default_aggregation[formula]"
    assert "sum, count, or last" in error.error.message


def test_only_the_display_name_of_a_meter_changes(client, shop):
    assert (
        client.v1.billing.meters.update(shop.meter.id, {"display_name": "New"}).display_name
        == "New"
    )
    assert (
        refused(client.raw_request, "post", f"/v1/billing/meters/{shop.meter.id}?event_name=x").code
        == "parameter_unknown"
    )


def test_meter_status_moves_and_filters(client, shop):
    off = client.v1.billing.meters.deactivate(shop.meter.id)

    assert (off.status, off.status_transitions.deactivated_at) == ("inactive", NOW)
    assert [m.id for m in client.v1.billing.meters.list({"status": "inactive"}).data] == [
        shop.meter.id
    ]
    assert client.v1.billing.meters.list({"status": "active"}).data == []
    assert (
        "already inactive"
        in refused(client.v1.billing.meters.deactivate, shop.meter.id).error.message
    )
    on = client.v1.billing.meters.reactivate(shop.meter.id)
    assert (on.status, on.status_transitions.deactivated_at) == ("active", None)


@pytest.mark.parametrize(
    ("customer", "message"),
    [("", "has no active discount"), ("cus_nobody", "No such customer: 'cus_nobody'")],
)
def test_no_discount_to_delete_is_a_404(client, shop, customer, message):
    error = refused(client.v1.customers.delete_discount, customer or shop.customer.id)

    assert (type(error), error.http_status, error.code) == (
        stripe.InvalidRequestError,
        404,
        "resource_missing",
    )
    assert message in error.error.message


def test_changed_meter_says_when(client, shop, emulator, events):
    emulator.forward("http://app/hook", "whsec_x")
    emulator.clock.advance(10)
    changed = client.v1.billing.meters.update(shop.meter.id, {"display_name": "New"})
    emulator.clock.advance(10)
    same = client.v1.billing.meters.update(shop.meter.id, {"display_name": "New"})

    assert (changed.created, changed.updated, same.updated) == (NOW, NOW + 10, NOW + 10)
    [told] = events()
    assert told["data"]["previous_attributes"] == {"display_name": "tokens", "updated": NOW}


def test_default_price_is_made_with_its_product(client):
    made = client.v1.products.create(
        {
            "name": "Seats",
            "default_price_data": {
                "currency": "EUR",
                "unit_amount": 900,
                "recurring": {"interval": "year"},
                "metadata": {"a": "1"},
            },
            "expand": ["default_price"],
        }
    )

    price = made.default_price
    assert (price.product, price.currency, price.unit_amount) == (made.id, "eur", 900)
    assert (price.recurring.interval, price.recurring.interval_count) == ("year", 1)
    assert (price.recurring.usage_type, price.metadata.to_dict()) == ("licensed", {"a": "1"})
    assert client.v1.products.retrieve(made.id).default_price == price.id


def test_refused_default_price_leaves_no_product(client):
    error = refused(
        client.v1.products.create, {"name": "Seats", "default_price_data": {"currency": "usd"}}
    )

    assert error.http_status == 400
    assert client.v1.products.list().data == []


def test_refused_price_takes_no_lookup_key_away(client, product):
    holder = client.v1.prices.create(
        {"currency": "usd", "product": product.id, "unit_amount": 1, "lookup_key": "a"}
    )

    error = refused(
        client.v1.prices.create,
        {
            "currency": "usd",
            "product_data": {"id": product.id, "name": "Again"},
            "unit_amount": 2,
            "lookup_key": "a",
            "transfer_lookup_key": True,
        },
    )

    assert error.code == "resource_already_exists"
    assert client.v1.prices.retrieve(holder.id).lookup_key == "a"


def test_lookup_keys_of_the_modes_are_apart(client, product, transport):
    live = stripe.StripeClient("sk_live_x", http_client=transport)
    theirs = live.v1.products.create({"name": "Tokens"})

    made = [
        each.v1.prices.create(
            {"currency": "usd", "product": owner.id, "unit_amount": 1, "lookup_key": "a"}
        )
        for each, owner in ((client, product), (live, theirs))
    ]

    assert [price.lookup_key for price in made] == ["a", "a"]
    assert client.v1.prices.retrieve(made[0].id).lookup_key == "a"


def test_both_cursors_at_once_are_refused(client):
    made = client.v1.customers.create({}).id

    error = refused(client.v1.customers.list, {"starting_after": made, "ending_before": made})

    assert error.param == "starting_after"


def test_metadata_has_fifty_keys_over_all_updates(client):
    made = client.v1.customers.create({"metadata": {f"a{i}": "x" for i in range(50)}})

    error = refused(client.v1.customers.update, made.id, {"metadata": {"b": "x"}})
    client.v1.customers.update(made.id, {"metadata": {"a0": "", "b": "x"}})

    assert error.param == "metadata"
    assert len(client.v1.customers.retrieve(made.id).metadata.to_dict()) == 50
