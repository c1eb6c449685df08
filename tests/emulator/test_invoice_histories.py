"""Random histories of invoices by hand: money is neither made nor lost on the way."""

import contextlib
from typing import Any

import pytest
import stripe
from hypothesis import given, settings
from hypothesis import strategies as st

from stripe_emulator import Emulator
from stripe_emulator.transport import InProcessTransport

from .conftest import NOW, make_meter

pytestmark = pytest.mark.unit

AMOUNT = st.integers(-80, 400)
STEP = st.one_of(
    st.tuples(st.just("usage"), st.integers(0, 300)),
    st.tuples(st.just("item"), AMOUNT),
    st.tuples(st.just("invoice"), st.lists(AMOUNT, max_size=2)),
    st.tuples(st.just("subscription"), st.none()),
    st.tuples(st.just("grant"), st.integers(1, 300)),
    *(
        st.tuples(st.just(name), st.integers(0, 2))
        for name in ("finalize_invoice", "pay", "void_invoice", "mark_uncollectible", "delete")
    ),
    st.tuples(st.just("note"), st.tuples(st.integers(0, 2), st.integers(1, 300))),
    st.tuples(st.just("void_note"), st.integers(0, 1)),
    st.tuples(st.just("balance"), st.integers(-200, 200)),
)


class History:
    """One customer's account, acted on through the SDK; refusals are part of the story."""

    def __init__(self) -> None:
        self.emulator = Emulator(now=lambda: NOW)
        self.emulator.clock.freeze(NOW)
        client = stripe.StripeClient(
            "sk_test_emulator", http_client=InProcessTransport(self.emulator)
        )
        self.v1 = client.v1
        self.customer = self.v1.customers.create(
            {"balance": -30, "invoice_settings": {"default_payment_method": "pm_card_visa"}}
        ).id
        self.given_balance = -30
        self.meter = make_meter(client)
        self.price = self.v1.prices.create(
            {
                "currency": "usd",
                "product_data": {"name": "Tokens"},
                "unit_amount": 1,
                "recurring": {
                    "interval": "month",
                    "usage_type": "metered",
                    "meter": self.meter.id,
                },
            }
        )
        self.sent = 0

    def do(self, name: str, value: Any) -> None:
        # A refusal changes nothing, which the totals would show.
        with contextlib.suppress(stripe.InvalidRequestError):
            getattr(self, name)(value) if hasattr(self, name) else self.move(name, value)

    def usage(self, value: int) -> None:
        self.sent += 1
        self.v1.billing.meter_events.create(
            {
                "event_name": "tokens",
                "identifier": str(self.sent),
                "payload": {"stripe_customer_id": self.customer, "value": str(value)},
            }
        )

    def item(self, amount: int) -> None:
        self.v1.invoice_items.create({"customer": self.customer, "amount": amount})

    def invoice(self, amounts: list[int]) -> None:
        made = self.v1.invoices.create(
            {"customer": self.customer, "pending_invoice_items_behavior": "include"}
        )
        if amounts:
            self.v1.invoices.add_lines(made.id, {"lines": [{"amount": each} for each in amounts]})

    def subscription(self, _: None) -> None:
        """Bill the usage since the last time, on an invoice that credits can pay for."""
        made = self.v1.subscriptions.create(
            {"customer": self.customer, "items": [{"price": self.price.id}]}
        )
        self.usage(120)
        self.emulator.clock.advance(1)
        self.v1.subscriptions.cancel(made.id, {"invoice_now": True})

    def grant(self, value: int) -> None:
        self.v1.billing.credit_grants.create(
            {
                "customer": self.customer,
                "amount": {"type": "monetary", "monetary": {"currency": "usd", "value": value}},
                "applicability_config": {"scope": {"price_type": "metered"}},
            }
        )

    def move(self, name: str, index: int) -> None:
        getattr(self.v1.invoices, name)(self.nth(self.emulator.world.invoices, index))

    def note(self, asked: tuple[int, int]) -> None:
        index, amount = asked
        invoice = self.v1.invoices.retrieve(self.nth(self.emulator.world.invoices, index))
        after = max(0, amount - invoice.amount_remaining)
        params = {"invoice": invoice.id, "amount": amount}
        self.v1.credit_notes.create({**params, **({"credit_amount": after} if after else {})})

    def void_note(self, index: int) -> None:
        self.v1.credit_notes.void_credit_note(self.nth(self.emulator.world.credit_notes, index))

    def balance(self, value: int) -> None:
        before = self.v1.customers.retrieve(self.customer).balance
        self.v1.customers.update(self.customer, {"balance": value})
        self.given_balance += value - before

    @staticmethod
    def nth(collection: Any, index: int) -> str:
        ids = [each["id"] for each in collection]
        return ids[-1 - index % len(ids)] if ids else "nothing"

    def check(self) -> None:
        world = self.emulator.world
        balance = self.given_balance
        for invoice in world.invoices:
            self.check_invoice(invoice)
            if invoice["status"] not in {"draft", "void"}:
                balance += invoice["ending_balance"] - invoice["starting_balance"]
        for note in world.credit_notes:
            assert note["total"] == note["pre_payment_amount"] + note["post_payment_amount"]
            balance -= note["post_payment_amount"]
        assert world.customers.find(self.customer)["balance"] == balance
        for grant in world.credit_grants:
            drawn = sum(
                each["amount"]
                for invoice in world.invoices
                if invoice["status"] != "void"
                for each in invoice["total_pretax_credit_amounts"]
                if world.credit_transactions.find(each["credit_balance_transaction"])[
                    "credit_grant"
                ]
                == grant["id"]
            )
            assert grant["_left"] == grant["amount"]["monetary"]["value"] - drawn >= 0

    def check_invoice(self, invoice: dict[str, Any]) -> None:
        lines = sum(line["amount"] for line in invoice["lines"]["data"])
        credits_ = sum(each["amount"] for each in invoice["total_pretax_credit_amounts"])
        notes = [
            each
            for each in self.emulator.world.credit_notes
            if each["invoice"] == invoice["id"] and each["status"] == "issued"
        ]
        before = sum(each["pre_payment_amount"] for each in notes)
        after = sum(each["post_payment_amount"] for each in notes)
        assert (invoice["subtotal"], invoice["total"]) == (lines, lines - credits_)
        assert invoice["pre_payment_credit_notes_amount"] == before
        assert invoice["post_payment_credit_notes_amount"] == after
        assert invoice["amount_remaining"] == invoice["amount_due"] - invoice["amount_paid"] >= 0
        assert 0 <= after <= invoice["amount_paid"]
        if invoice["status"] != "draft":
            owed = invoice["total"] + invoice["starting_balance"]
            assert invoice["amount_due"] + before == owed - invoice["ending_balance"]
            assert invoice["amount_due"] + before == (owed if owed >= 50 else 0)
        if invoice["status"] == "paid":
            assert invoice["amount_remaining"] == 0


@settings(max_examples=40, deadline=None)
@given(steps=st.lists(STEP, min_size=10, max_size=25))
def test_money_is_neither_made_nor_lost(steps):
    history = History()
    begin = [("grant", 150), ("subscription", None), ("invoice", [400]), ("finalize_invoice", 0)]

    for name, value in [*begin, *steps]:
        history.do(name, value)
        history.check()
