"""Invoice items and the lines of drafts."""

import pytest
import stripe

from .conftest import NOW
from .test_invoices import refused
from .test_subscriptions import second, subscribe

pytestmark = pytest.mark.unit
END = second(2026, 12, 23, 12)


@pytest.fixture
def invoices(shop):
    return shop.client.v1.invoices


@pytest.fixture
def items(shop):
    return shop.client.v1.invoice_items


@pytest.fixture
def item(shop, items):
    def make(amount=700, **params):
        return items.create({"customer": shop.customer.id, "amount": amount, **params})

    return make


@pytest.fixture
def draft(shop, invoices):
    def make(**params):
        return invoices.create({"customer": shop.customer.id, **params})

    return make


def lines_of(invoice) -> list[tuple[int, str | None]]:
    return [(line.amount, line.description) for line in invoice.lines.data]


def test_item_waits_until_an_invoice_asks_for_it(items, item, draft):
    made = item(description="Work")
    without = draft()
    waiting = items.retrieve(made.id).invoice
    taken = draft(pending_invoice_items_behavior="include")

    assert (without.total, waiting) == (0, None)
    assert (taken.total, lines_of(taken)) == (700, [(700, "Work")])
    assert items.retrieve(made.id).invoice == taken.id
    [line] = taken.lines.data
    assert line.parent.invoice_item_details.invoice_item == made.id
    assert line.parent.subscription_item_details is None
    assert [each.id for each in items.list({"pending": False}).data] == [made.id]
    assert items.list({"pending": True}).data == []


def test_next_invoice_of_a_subscription_takes_what_waits(shop, invoices, item, metered_price):
    subscribe(shop, metered_price)
    item(700, description="Work")
    item(-200, description="Sorry")
    shop.emulator.clock.set(END, frozen=True)

    [invoice] = invoices.list().data
    assert lines_of(invoice) == [(0, None), (700, "Work"), (-200, "Sorry")]
    assert (invoice.total, invoice.status) == (500, "draft")
    shop.emulator.clock.set(END + 3600, frozen=True)
    assert invoices.retrieve(invoice.id).total == 500


def test_item_of_a_subscription_waits_for_its_invoice(
    shop, invoices, item, draft, metered_price, base_price
):
    first, other = subscribe(shop, metered_price), subscribe(shop, base_price, trial_period_days=90)
    mine = item(700, subscription=first.id)
    foreign = item(900, subscription=other.id)
    by_hand = draft(pending_invoice_items_behavior="include")
    of_other = draft(pending_invoice_items_behavior="include", subscription=other.id)
    shop.emulator.clock.set(END, frozen=True)

    cycle = invoices.list({"subscription": first.id}).data[0]
    assert (by_hand.total, of_other.total, cycle.total) == (0, 900, 700)
    assert of_other.parent.subscription_details.subscription == other.id
    assert cycle.lines.data[1].parent.invoice_item_details.subscription == first.id
    assert (mine.parent.subscription_details.subscription, foreign.amount) == (first.id, 900)


def test_what_stands_on_one_invoice_is_not_put_on_another(item, draft):
    item(700)
    first = draft(pending_invoice_items_behavior="include")
    then = draft(pending_invoice_items_behavior="include")

    assert (first.total, then.total) == (700, 0)


def test_items_of_others_are_left_alone(shop, client, items, item, draft):
    other = client.v1.customers.create({})
    theirs = items.create({"customer": other.id, "amount": 900})
    taken = draft(pending_invoice_items_behavior="include")

    assert (taken.total, items.retrieve(theirs.id).invoice) == (0, None)
    wrong = {"customer": other.id, "amount": 5, "invoice": taken.id}
    assert refused(items.create, wrong).param == "invoice"
    moved = {"lines": [{"invoice_item": theirs.id}]}
    refused(client.v1.invoices.add_lines, taken.id, moved, match="of this customer")
    assert client.v1.invoices.retrieve(taken.id).total == 0


def test_items_of_another_currency_wait_on(shop, client, invoices, item):
    item(700, currency="usd")
    price = client.v1.prices.create(
        {
            "currency": "eur",
            "product_data": {"name": "Base"},
            "unit_amount": 2000,
            "recurring": {"interval": "month"},
        }
    )
    made = subscribe(shop, price, collection_method="send_invoice", days_until_due=14)

    assert invoices.retrieve(made.latest_invoice).total == 2000
    with pytest.raises(stripe.InvalidRequestError, match="cannot combine currencies"):
        item(5, currency="eur")


def test_amount_below_zero_takes_from_the_bill(item, draft):
    item(700)
    item(-100)

    assert draft(pending_invoice_items_behavior="include").total == 600


def test_item_put_on_a_draft_is_its_line_at_once(items, invoices, item, draft):
    made = draft()
    item(700, invoice=made.id)
    second_one = item(50, invoice=made.id)

    assert invoices.retrieve(made.id).total == 750
    items.update(second_one.id, {"amount": 70, "description": "more"})
    assert lines_of(invoices.retrieve(made.id)) == [(700, None), (70, "more")]
    items.delete(second_one.id)
    assert (invoices.retrieve(made.id).total, len(items.list().data)) == (700, 1)
    assert refused(items.retrieve, second_one.id).http_status == 404


def test_item_of_a_finalized_invoice_does_not_change(items, invoices, item, draft):
    made = draft()
    on_it = item(700, invoice=made.id)
    invoices.finalize_invoice(made.id)

    for call, args in ((items.update, (on_it.id, {"amount": 1})), (items.delete, (on_it.id,))):
        assert refused(call, *args).code == "invoice_not_editable"
    with pytest.raises(stripe.InvalidRequestError, match="Finalized invoices"):
        item(5, invoice=made.id)
    assert (items.retrieve(on_it.id).amount, invoices.retrieve(made.id).total) == (700, 700)
    assert len(items.list().data) == 1


@pytest.mark.parametrize(
    ("unit", "quantity", "amount"),
    [("2.5", "3", 8), ("0.004", "1001", 4), ("-2.5", "3", -8), ("1.5", "0.5", 1), ("7", "0", 0)],
)
def test_unit_amount_times_quantity_is_rounded_half_up_to_a_cent(
    shop, items, unit, quantity, amount
):
    made = items.create(
        {
            "customer": shop.customer.id,
            "unit_amount_decimal": unit,
            "quantity_decimal": quantity,
        }
    )

    assert made.amount == amount
    assert (str(made.pricing.unit_amount_decimal), str(made.quantity_decimal)) == (unit, quantity)


def test_price_and_quantity_make_the_amount(shop, client, items):
    product = client.v1.products.create({"name": "Work"})
    price = client.v1.prices.create({"currency": "usd", "product": product.id, "unit_amount": 500})
    made = items.create(
        {"customer": shop.customer.id, "pricing": {"price": price.id}, "quantity": 3}
    )
    more = items.update(made.id, {"quantity": 4})

    assert (made.amount, made.quantity, more.amount) == (1500, 3, 2000)
    assert more.pricing.price_details.to_dict() == {"price": price.id, "product": product.id}


def test_described_price_is_made_once_and_inactive(shop, client, items):
    product = client.v1.products.create({"name": "Work"})
    made = items.create(
        {
            "customer": shop.customer.id,
            "price_data": {"currency": "usd", "product": product.id, "unit_amount": 20},
            "quantity": 2,
        }
    )

    [price] = client.v1.prices.list().data
    assert (made.amount, made.pricing.price_details.price, price.active) == (40, price.id, False)


@pytest.mark.parametrize(
    ("asked", "param"),
    [
        ({}, "amount"),
        ({"amount": 1, "unit_amount_decimal": "1"}, "unit_amount_decimal"),
        ({"amount": 1, "quantity": 2}, "quantity"),
        ({"unit_amount_decimal": "1", "quantity": 1, "quantity_decimal": "1"}, "quantity_decimal"),
        ({"unit_amount_decimal": "1", "quantity_decimal": "-1"}, "quantity_decimal"),
        ({"pricing": {"price": "price_nothing"}}, "pricing[price]"),
        ({"pricing": {"price": "RECURRING"}}, "pricing[price]"),
        (
            {"price_data": {"currency": "usd", "product": "prod_nothing", "unit_amount": 1}},
            "price_data[product]",
        ),
        ({"amount": 1, "period": {"start": 2, "end": 1}}, "period[end]"),
        ({"amount": 1, "invoice": "in_nothing"}, "invoice"),
        ({"amount": 1, "subscription": "sub_nothing"}, "subscription"),
        ({"amount": 1, "customer": "cus_nothing"}, "customer"),
    ],
)
def test_wrong_item_makes_nothing(shop, items, base_price, asked, param):
    if asked.get("pricing", {}).get("price") == "RECURRING":
        asked = {"pricing": {"price": base_price.id}}

    error = refused(items.create, {"customer": shop.customer.id, **asked})

    assert (error.http_status, error.param) == (400, param)
    assert items.list().data == []
    assert shop.client.v1.customers.retrieve(shop.customer.id).currency is None


def test_invoice_takes_250_items_and_what_is_more_waits(items, invoices, item, draft):
    for number in range(251):
        item(number)
    taken = draft(pending_invoice_items_behavior="include")

    assert taken.total == sum(range(250))
    [left] = items.list({"pending": True}).data
    assert left.amount == 250
    with pytest.raises(stripe.InvalidRequestError, match="at most 250 invoice items"):
        item(1, invoice=taken.id)
    refused(
        invoices.add_lines, taken.id, {"lines": [{"amount": 1}]}, match="at most 250 invoice items"
    )
    assert invoices.retrieve(taken.id).total == sum(range(250))


def test_lines_are_paged_in_their_order(invoices, item, draft):
    for number in range(25):
        item(number)
    taken = draft(pending_invoice_items_behavior="include")
    pages = list(invoices.line_items.list(taken.id, {"limit": 7}).auto_paging_iter())
    back = invoices.line_items.list(taken.id, {"limit": 3, "ending_before": pages[10].id})

    assert [line.amount for line in pages] == list(range(25))
    assert [line.amount for line in back.data] == [7, 8, 9]
    assert (len(taken.lines.data), taken.lines.has_more) == (10, True)
    assert (
        refused(invoices.line_items.list, taken.id, {"starting_after": "il_nothing"}).param
        == "starting_after"
    )


def test_added_lines_are_items_new_or_waiting(items, invoices, item, draft):
    waiting = item(300)
    made = draft()
    filled = invoices.add_lines(
        made.id,
        {
            "lines": [
                {"amount": 700, "description": "Work"},
                {"invoice_item": waiting.id, "description": "Found"},
            ],
            "invoice_metadata": {"a": "1"},
        },
    )

    assert lines_of(filled) == [(700, "Work"), (300, "Found")]
    assert filled.metadata.to_dict() == {"a": "1"}
    assert {each.invoice for each in items.list().data} == {made.id}
    twice = {"lines": [{"invoice_item": item(5).id}] * 2}
    refused(invoices.add_lines, draft().id, twice, match="once only")
    again = {"lines": [{"invoice_item": waiting.id}]}
    refused(invoices.add_lines, draft().id, again, match="does not wait for an invoice")


def test_changed_line_changes_its_item(items, invoices, item, draft):
    made = draft()
    item(700, invoice=made.id)
    [line] = invoices.retrieve(made.id).lines.data
    period = {"start": NOW, "end": NOW + 9}
    changed = invoices.line_items.update(made.id, line.id, {"amount": 800, "period": period})
    many = invoices.update_lines(made.id, {"lines": [{"id": line.id, "description": "New"}]})

    assert (changed.object, changed.amount, changed.period.to_dict()) == ("line_item", 800, period)
    assert (many.total, lines_of(many)) == (800, [(800, "New")])
    [kept] = items.list().data
    assert (kept.amount, kept.description, kept.period.to_dict()) == (800, "New", period)


def test_one_wrong_line_stops_all_changes(invoices, item, draft):
    made = draft()
    item(700, invoice=made.id)
    [line] = invoices.retrieve(made.id).lines.data
    wrong = {"lines": [{"id": line.id, "amount": 1}, {"id": "il_nothing", "amount": 1}]}

    assert refused(invoices.update_lines, made.id, wrong).param == "lines[1][id]"
    both = {"lines": [{"amount": 5}, {"amount": 5, "quantity": 2}], "invoice_metadata": {"a": "1"}}
    assert refused(invoices.add_lines, made.id, both).param == "lines[1][quantity]"
    twice = {"lines": [{"id": line.id, "behavior": "delete"}] * 2}
    assert refused(invoices.remove_lines, made.id, twice).param == "lines[1][id]"
    kept = invoices.retrieve(made.id)
    assert (kept.total, kept.metadata.to_dict()) == (700, {})


@pytest.mark.parametrize(("behavior", "left"), [("delete", []), ("unassign", [None])])
def test_removed_line_is_deleted_or_waits_again(items, invoices, item, draft, behavior, left):
    made = draft()
    item(700, invoice=made.id)
    [line] = invoices.retrieve(made.id).lines.data
    after = invoices.remove_lines(made.id, {"lines": [{"id": line.id, "behavior": behavior}]})

    assert (after.total, after.lines.data) == (0, [])
    assert [each.invoice for each in items.list().data] == left


def test_line_of_a_subscription_keeps_its_amount(shop, invoices, base_price):
    made = subscribe(shop, base_price, collection_method="send_invoice", days_until_due=14)
    draft_id = made.latest_invoice
    [line] = invoices.retrieve(draft_id).lines.data
    update = invoices.line_items.update

    assert refused(update, draft_id, line.id, {"amount": 1}).param == "amount"
    removal = {"lines": [{"id": line.id, "behavior": "delete"}]}
    refused(invoices.remove_lines, draft_id, removal, match="cannot be removed")
    assert update(draft_id, line.id, {"description": "Base"}).description == "Base"
    assert invoices.retrieve(draft_id).total == 2000
