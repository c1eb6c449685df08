"""Billing credits: what an invoice draws from which grant, and what is left."""

import pytest
import stripe
from hypothesis import given, settings
from hypothesis import strategies as st

from stripe_emulator import Emulator
from stripe_emulator.core.billing import credit_application
from stripe_emulator.transport import InProcessTransport

from .conftest import NOW
from .test_invoices import refused
from .test_subscriptions import second, subscribe

pytestmark = pytest.mark.unit
HOUR, DAY = 3600, 86_400
END = second(2026, 12, 23, 12)
METERED = {"price_type": "metered"}


@pytest.fixture
def cents(client, shop):
    """A metered price of a cent a token."""
    return cent_price(client, shop, "Tokens")


def cent_price(client, shop, name, unit_amount=1):
    return client.v1.prices.create(
        {
            "currency": "usd",
            "product_data": {"name": name},
            "unit_amount": unit_amount,
            "recurring": {"interval": "month", "usage_type": "metered", "meter": shop.meter.id},
        }
    )


@pytest.fixture
def billed(shop, cents):
    """A customer with a card, whose month ends with an invoice."""
    shop.client.v1.customers.update(
        shop.customer.id, {"invoice_settings": {"default_payment_method": "pm_card_visa"}}
    )
    shop.subscription = subscribe(shop, cents)
    return shop


@pytest.fixture
def grants(shop):
    return shop.client.v1.billing.credit_grants


@pytest.fixture
def grant(shop, grants):
    def make(value, scope=METERED, currency="usd", **params):
        return grants.create(
            {
                "customer": shop.customer.id,
                "amount": {
                    "type": "monetary",
                    "monetary": {"currency": currency, "value": value},
                },
                "applicability_config": {"scope": scope},
                **params,
            }
        )

    return make


@pytest.fixture
def transactions(shop):
    """Return (type, minor units) of a grant's transactions, oldest first."""

    def of(granted):
        page = shop.client.v1.billing.credit_balance_transactions.list(
            {"credit_grant": granted.id, "limit": 100}
        )
        found = []
        for each in reversed(page.data):
            side = each.credit or each.debit
            sign = 1 if each.credit else -1
            found.append((side.type, sign * side.amount.monetary.value))
        return found

    return of


def summary(shop, **wanted) -> list[tuple[str, int, int]]:
    found = shop.client.v1.billing.credit_balance_summary.retrieve(
        {
            "customer": shop.customer.id,
            "filter": wanted or {"type": "applicability_scope", "applicability_scope": METERED},
        }
    )
    return [
        (
            each.ledger_balance.monetary.currency,
            each.available_balance.monetary.value,
            each.ledger_balance.monetary.value,
        )
        for each in found.balances
    ]


def at(shop, moment):
    """Go to a moment and return the newest invoice then."""
    shop.emulator.clock.set(moment, frozen=True)
    return shop.client.v1.invoices.list().data[0]


def drawn(invoice) -> list[int]:
    return [each.amount for each in invoice.total_pretax_credit_amounts]


def test_credits_pay_for_usage_when_the_invoice_is_finalized(billed, grant, transactions):
    granted = grant(300)
    billed.send("a", "1000")

    draft = at(billed, END)
    paid = at(billed, END + HOUR)

    assert (draft.status, draft.total, drawn(draft)) == ("draft", 1000, [])
    assert (paid.status, paid.subtotal, paid.total, paid.amount_due, paid.amount_paid) == (
        "paid",
        1000,
        700,
        700,
        700,
    )
    assert drawn(paid) == [300]
    [line] = paid.lines.data
    assert (line.amount, line.subtotal) == (1000, 1000)
    assert [each.to_dict() for each in line.pretax_credit_amounts] == [
        each.to_dict() for each in paid.total_pretax_credit_amounts
    ]
    assert transactions(granted) == [("credits_granted", 300), ("credits_applied", -300)]
    assert summary(billed) == [("usd", 0, 0)]


def test_line_names_the_transaction_that_paid(billed, grant):
    granted = grant(300)
    billed.send("a", "1000")
    paid = at(billed, END + HOUR)
    path = "total_pretax_credit_amounts.credit_balance_transaction.credit_grant"
    shown = billed.client.v1.invoices.retrieve(paid.id, {"expand": [path]})

    [named] = shown.total_pretax_credit_amounts
    transaction = named.credit_balance_transaction
    assert (named.type, transaction.credit_grant.id) == ("credit_balance_transaction", granted.id)
    assert transaction.debit.credits_applied.to_dict() == {
        "invoice": paid.id,
        "invoice_line_item": paid.lines.data[0].id,
    }


def test_credits_are_used_up_over_invoices(billed, grant, transactions):
    granted = grant(1500)
    billed.send("a", "1000")
    first = at(billed, END + HOUR)
    billed.send("b", "1000", at=END + HOUR)
    last = at(billed, second(2027, 1, 23, 12) + HOUR)

    assert (first.total, first.status, last.total) == (0, "paid", 500)
    assert [value for _, value in transactions(granted)] == [1500, -1000, -500]


def test_credits_pay_for_usage_only(billed, grant, base_price):
    grant(5000)
    billed.client.v1.subscriptions.update(
        billed.subscription.id,
        {"items": [{"price": base_price.id}], "proration_behavior": "none"},
    )
    billed.client.v1.invoice_items.create({"customer": billed.customer.id, "amount": 700})
    billed.send("a", "1000")

    paid = at(billed, END + HOUR)

    assert sorted(line.amount for line in paid.lines.data) == [700, 1000, 2000]
    assert (drawn(paid), paid.total) == ([1000], 2700)
    assert summary(billed) == [("usd", 4000, 4000)]


def test_manual_invoice_draws_nothing(shop, grant):
    grant(500)
    made = shop.client.v1.invoices.create({"customer": shop.customer.id})
    shop.client.v1.invoices.add_lines(made.id, {"lines": [{"amount": 700}]})

    assert shop.client.v1.invoices.finalize_invoice(made.id).amount_due == 700


def test_credits_come_before_the_customers_balance(billed, grant):
    grant(300)
    billed.client.v1.customers.update(billed.customer.id, {"balance": -200})
    billed.send("a", "1000")

    paid = at(billed, END + HOUR)

    assert (paid.total, paid.starting_balance, paid.ending_balance, paid.amount_due) == (
        700,
        -200,
        0,
        500,
    )


def test_credits_for_some_prices_pay_those_lines(shop, client, cents, grant):
    dear = cent_price(client, shop, "Dear", 3)
    subscribe(shop, cents, dear)
    grant(5000, scope={"prices": [{"id": dear.id}]})
    shop.send("a", "100")

    invoice = at(shop, END + HOUR)

    assert [
        (line.amount, [each.amount for each in line.pretax_credit_amounts])
        for line in invoice.lines.data
    ] == [(100, []), (300, [300])]
    assert invoice.total == 100


ORDER = [
    ("priority", {"priority": 51}, {"priority": 50}),
    ("default priority is 50", {"priority": 51}, {}),
    ("earlier expiry", {"expires_at": END + 50}, {"expires_at": END + 49}),
    ("an expiry before none", {}, {"expires_at": END + 50}),
    ("promotional before paid", {"category": "paid"}, {"category": "promotional"}),
    ("paid is the default", {}, {"category": "promotional"}),
    ("earlier in effect", {"effective_at": NOW + 2}, {"effective_at": NOW + 1}),
    ("priority before expiry", {"expires_at": END + 9, "priority": 9}, {"priority": 8}),
    (
        "expiry before category",
        {"category": "promotional", "expires_at": END + 50},
        {"category": "paid", "expires_at": END + 49},
    ),
    (
        "category before effect",
        {"category": "paid", "effective_at": NOW + 1},
        {"category": "promotional", "effective_at": NOW + 2},
    ),
]


@pytest.mark.parametrize(
    ("later", "sooner"), [row[1:] for row in ORDER], ids=[row[0] for row in ORDER]
)
def test_order_in_which_grants_are_drawn_on(billed, grant, transactions, later, sooner):
    one, other = grant(300, **later), grant(300, **sooner)
    billed.send("a", "400")

    at(billed, END + HOUR)

    assert [value for _, value in transactions(other)][:2] == [300, -300]
    assert [value for _, value in transactions(one)][:2] == [300, -100]


def test_grants_that_are_alike_are_drawn_on_as_they_were_made(billed, grant, transactions):
    first, last = grant(300), grant(300)
    billed.send("a", "400")
    at(billed, END + HOUR)

    assert [value for _, value in transactions(first)] == [300, -300]
    assert [value for _, value in transactions(last)] == [300, -100]


@pytest.mark.parametrize(
    ("params", "total"),
    [
        ({"effective_at": END}, 700),
        ({"effective_at": END + 1}, 1000),
        ({"expires_at": END + 1}, 700),
        ({"expires_at": END}, 1000),
        ({"currency": "eur"}, 1000),
    ],
    ids=["effective then", "effective too late", "expires after", "expires then", "currency"],
)
def test_grant_must_be_in_effect_at_the_invoices_period_end(billed, grant, params, total):
    grant(300, **params)
    billed.send("a", "1000")

    assert at(billed, END + HOUR).total == total


def test_what_is_left_expires_once_no_draft_can_draw_on_it(billed, grant, transactions):
    granted = grant(300, expires_at=END + 60)
    billed.send("a", "100")
    at(billed, END + HOUR - 1)
    waiting = transactions(granted)
    at(billed, END + 2 * HOUR)

    assert waiting == [("credits_granted", 300)]
    assert transactions(granted) == [
        ("credits_granted", 300),
        ("credits_applied", -100),
        ("credits_expired", -200),
    ]


def test_expiry_can_be_moved(shop, grants, grant, transactions):
    granted = grant(300, expires_at=NOW + DAY)
    later = grants.update(granted.id, {"expires_at": NOW + 2 * DAY, "metadata": {"a": "1"}})
    shop.emulator.clock.advance(DAY)
    kept = transactions(granted)
    never = grants.update(granted.id, {"expires_at": ""})
    shop.emulator.clock.advance(5 * DAY)

    assert (later.expires_at, later.metadata.to_dict()) == (NOW + 2 * DAY, {"a": "1"})
    assert (never.expires_at, never.updated) == (None, NOW + DAY)
    assert kept == transactions(granted) == [("credits_granted", 300)]


def test_expired_by_hand_is_over_at_once(shop, grants, grant, transactions):
    granted = grant(300)
    gone = grants.expire(granted.id)

    assert gone.expires_at == NOW
    assert transactions(granted) == [("credits_granted", 300), ("credits_expired", -300)]
    for call, args in (
        (grants.expire, ()),
        (grants.void_grant, ()),
        (grants.update, ({"metadata": {"a": "1"}},)),
    ):
        refused(call, granted.id, *args, match="has expired")


def test_void_grant_is_never_drawn_on(billed, grants, grant, transactions):
    granted = grant(300)
    gone = grants.void_grant(granted.id)
    billed.send("a", "1000")

    assert (gone.voided_at, at(billed, END + HOUR).total) == (NOW, 1000)
    assert transactions(granted) == [("credits_granted", 300), ("credits_voided", -300)]
    refused(grants.void_grant, granted.id, match="was voided")


def test_applied_grant_is_not_voided(billed, grants, grant, transactions):
    granted = grant(300)
    billed.send("a", "100")
    at(billed, END + HOUR)

    refused(grants.void_grant, granted.id, match="applied to an invoice")

    assert grants.retrieve(granted.id).voided_at is None
    assert transactions(granted) == [("credits_granted", 300), ("credits_applied", -100)]


def test_voided_invoice_gives_credits_back(shop, cents, grant, transactions):
    subscribe(shop, cents)
    granted = grant(300)
    shop.send("a", "1000")
    unpaid = at(shop, END + HOUR)
    voided = shop.client.v1.invoices.void_invoice(unpaid.id)

    assert (unpaid.status, unpaid.amount_due, voided.status) == ("open", 700, "void")
    assert transactions(granted) == [
        ("credits_granted", 300),
        ("credits_applied", -300),
        ("credits_application_invoice_voided", 300),
    ]
    [back] = shop.client.v1.billing.credit_balance_transactions.list({"limit": 1}).data
    assert back.credit.credits_application_invoice_voided.invoice == unpaid.id
    assert summary(shop) == [("usd", 300, 300)]


def test_credit_note_gives_no_credits_back(shop, cents, grant, transactions):
    subscribe(shop, cents)
    granted = grant(300)
    shop.send("a", "1000")
    unpaid = at(shop, END + HOUR)
    line = unpaid.lines.data[0].id
    note = shop.client.v1.credit_notes.create(
        {
            "invoice": unpaid.id,
            "lines": [{"type": "invoice_line_item", "invoice_line_item": line, "amount": 500}],
        }
    )

    assert (note.subtotal, note.total, [each.amount for each in note.pretax_credit_amounts]) == (
        500,
        350,
        [150],
    )
    assert shop.client.v1.invoices.retrieve(unpaid.id).amount_remaining == 350
    assert transactions(granted) == [("credits_granted", 300), ("credits_applied", -300)]


def test_events_of_credits(billed, grants, grant, events):
    billed.emulator.forward("http://app/hook", "whsec_x")
    granted = grant(300)
    grants.update(granted.id, {"metadata": {"a": "1"}})
    billed.send("a", "1000")
    at(billed, END)
    told = events()
    at(billed, END + HOUR)
    told = [event for event in told + events() if event["type"].startswith("billing.credit")]

    assert [event["type"] for event in told] == [
        "billing.credit_grant.created",
        "billing.credit_balance_transaction.created",
        "billing.credit_grant.updated",
        "billing.credit_balance_transaction.created",
    ]
    assert told[2]["data"]["previous_attributes"] == {"metadata": {}, "updated": NOW}


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"customer": "cus_nothing"}, "customer"),
        ({"expires_at": NOW}, "expires_at"),
        ({"effective_at": NOW + 10, "expires_at": NOW + 10}, "expires_at"),
        ({"scope": {}}, "applicability_config"),
        (
            {"scope": {"price_type": "metered", "prices": [{"id": "price_x"}]}},
            "applicability_config[scope]",
        ),
        (
            {"scope": {"prices": [{"id": "price_x"}]}},
            "applicability_config[scope][prices][0][id]",
        ),
        ({"scope": {"prices": "LICENSED"}}, "applicability_config[scope][prices][0][id]"),
        ({"priority": 101}, "priority"),
        ({"value": 0}, "amount[monetary][value]"),
        ({"name": "x" * 101}, "name"),
    ],
)
def test_wrong_grant_makes_nothing(grants, grant, base_price, change, param):
    if change.get("scope", {}).get("prices") == "LICENSED":
        change = {"scope": {"prices": [{"id": base_price.id}]}}

    with pytest.raises(stripe.InvalidRequestError) as caught:
        grant(**{"value": 100, **change})

    assert (caught.value.http_status, caught.value.param) == (400, param)
    assert grants.list().data == []


def test_customer_has_at_most_a_hundred_unused_grants(grants, grant):
    first = grant(1)
    for _ in range(99):
        grant(1)
    with pytest.raises(stripe.InvalidRequestError, match="at most 100 unused"):
        grant(1)
    grants.void_grant(first.id)

    assert grant(1).id


def test_summary_tells_available_from_ledger(shop, grant, cents):
    grant(300)
    grant(200, effective_at=NOW + DAY)
    other = grant(50, scope={"prices": [{"id": cents.id}]})
    by_grant = {"type": "credit_grant", "credit_grant": other.id}

    assert summary(shop) == [("usd", 300, 500)]
    assert summary(shop, **by_grant) == [("usd", 50, 50)]
    shop.emulator.clock.advance(DAY)
    assert summary(shop) == [("usd", 500, 500)]


PARAMS = st.fixed_dictionaries(
    {
        "value": st.integers(1, 400),
        "priority": st.integers(0, 2),
        "category": st.sampled_from(["paid", "promotional"]),
        "effective_at": st.sampled_from([NOW - 10, NOW, NOW + 1]),
        "expires_at": st.sampled_from([None, NOW, NOW + 1, NOW + 200]),
        "customer": st.sampled_from(["cus_1", "cus_1", "cus_2"]),
    }
)


@settings(max_examples=60, deadline=None)
@given(
    asked=st.lists(PARAMS, max_size=6),
    usage=st.lists(st.tuples(st.integers(0, 500), st.booleans()), max_size=4),
)
def test_credits_pay_all_they_can_in_one_order_and_never_more(asked, usage):
    emulator = Emulator(now=lambda: NOW)
    world = emulator.world
    invoice = {
        "currency": "usd",
        "customer": "cus_1",
        "period_end": NOW,
        "lines": {"data": []},
    }
    for number, (amount, of_subscription) in enumerate(usage):
        world.prices.add({"id": f"price_{number}", "recurring": {"meter": "mtr_1"}})
        invoice["lines"]["data"].append(
            {
                "id": f"il_{number}",
                "amount": amount,
                "parent": {
                    "subscription_item_details": {"subscription": "sub_1"}
                    if of_subscription
                    else None
                },
                "pricing": {"price_details": {"price": f"price_{number}"}},
            }
        )
    for number, each in enumerate(asked):
        world.credit_grants.add(
            {
                **each,
                "id": f"credgr_{number}",
                "amount": {"monetary": {"currency": "usd"}},
                "applicability_config": {"scope": {"price_type": "metered"}},
                "created": NOW,
                "_left": each["value"],
            }
        )

    found = credit_application.drawn(world, invoice)

    by_grant = {f"credgr_{number}": 0 for number in range(len(asked))}
    by_line = {f"il_{number}": 0 for number in range(len(usage))}
    for granted, line, value in found:
        by_grant[granted["id"]] += value
        by_line[line["id"]] += value
    usable = [
        n
        for n, each in enumerate(asked)
        if each["customer"] == "cus_1" and each["effective_at"] <= NOW and each["expires_at"] != NOW
    ]
    payable = sum(amount for amount, of_subscription in usage if of_subscription)
    assert sum(by_line.values()) == min(payable, sum(asked[n]["value"] for n in usable))
    assert all(
        by_line[f"il_{n}"] <= (amount if of_subscription else 0)
        for n, (amount, of_subscription) in enumerate(usage)
    )
    assert all(by_grant[f"credgr_{n}"] <= each["value"] for n, each in enumerate(asked))
    order = sorted(
        usable,
        key=lambda n: (
            asked[n]["priority"],
            asked[n]["expires_at"] or NOW * 2,
            asked[n]["category"] == "paid",
            asked[n]["effective_at"],
            n,
        ),
    )
    touched = [by_grant[f"credgr_{n}"] for n in order]
    full = [asked[n]["value"] for n in order]
    used = [index for index, value in enumerate(touched) if value]
    # Whoever comes sooner is used up before the next one is touched.
    assert used == list(range(len(used)))
    assert all(touched[index] == full[index] for index in used[:-1])


def test_the_same_calls_make_the_same_invoice_twice():
    def told() -> str:
        made = Emulator(now=lambda: NOW)
        made.clock.freeze(NOW)
        from_sdk = stripe.StripeClient("sk_test_emulator", http_client=InProcessTransport(made))
        customer = from_sdk.v1.customers.create({})
        draft = from_sdk.v1.invoices.create({"customer": customer.id})
        from_sdk.v1.invoices.add_lines(draft.id, {"lines": [{"amount": 700}]})
        opened = from_sdk.v1.invoices.finalize_invoice(draft.id, {"expand": ["payments"]})
        note = from_sdk.v1.credit_notes.create({"invoice": draft.id, "amount": 100})
        return opened.last_response.body + note.last_response.body

    assert told() == told()


def test_account_with_credits_survives_a_snapshot(billed, grant):
    grant(300)
    billed.send("a", "1000")
    billed.client.v1.invoice_items.create({"customer": billed.customer.id, "amount": 50})
    snapshot = billed.emulator.snapshot()
    first = at(billed, END + HOUR)
    billed.emulator.restore(snapshot)
    again = at(billed, END + HOUR)

    assert first == again
