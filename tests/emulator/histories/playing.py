"""Telling a story to an emulator, and reading the invoices back as the expected ones are written."""

from __future__ import annotations

import json
from decimal import Decimal
from functools import singledispatchmethod
from typing import Any
from urllib.parse import urlencode

from stripe_emulator import Emulator, Request
from tests.emulator.histories.day_walk import DAY
from tests.emulator.histories.expecting import Bill, Line
from tests.emulator.histories.forms import asked, flat
from tests.emulator.histories.story import (
    ONE,
    CancelNow,
    EndTrial,
    Look,
    Plan,
    Preview,
    Reprice,
    Requantify,
    Restart,
    Send,
    Step,
    Story,
    Subscribe,
    Unplan,
    Void,
    spoken,
)

SHORTEST = {"day": 1, "week": 7, "month": 28, "year": 365}
HEADERS = {
    "authorization": "Bearer sk_test_histories",
    "content-type": "application/x-www-form-urlencoded",
}


class Refused(AssertionError):
    """The emulator refused a step of a story, none of which is wrong."""


class WrongShape(AssertionError):
    """An invoice contradicts itself."""


class Stage:
    """An emulator that a story is told to; `seen` holds what was asked on the way, by the step's place."""

    def __init__(self, story: Story) -> None:
        self.story = story
        self.emulator = Emulator(now=lambda: story.begin, seed=story.seed)
        self.emulator.clock.freeze(story.begin)
        self.emulator.settings.change(
            settle_lag_seconds=story.lag, finalization_delay_seconds=story.grace
        )
        self.seen: dict[int, Any] = {}
        self.subscriptions: dict[int, Any] = {}
        self.meters = {
            meter.name: self.post(
                "/v1/billing/meters",
                display_name=meter.name,
                event_name=meter.name,
                default_aggregation={"formula": meter.formula},
            )["id"]
            for meter in story.meters
        }
        self.now = story.begin
        paying: dict[str, Any] = {"invoice_settings": {"default_payment_method": "pm_card_visa"}}
        if story.by_test_clock:
            made = self.post("/v1/test_helpers/test_clocks", frozen_time=story.begin)
            paying["test_clock"] = made["id"]
            self.test_clock = f"/v1/test_helpers/test_clocks/{made['id']}"
        self.customers = [
            self.post("/v1/customers", **paying)["id"] for _ in {step.who for step in story.steps}
        ]
        self.prices = {
            price.name: self.post("/v1/prices", **asked(price, self.meters))["id"]
            for price in story.prices
        }
        self.names = {price_id: name for name, price_id in self.prices.items()}

    def run(self) -> Stage:
        """Tell the story to its end."""
        for place, step in enumerate(self.story.steps):
            self._wait(step.at)
            answer = self.act(step)
            if isinstance(step, Preview | Look):
                self.seen[place] = answer
        self._wait(self.story.end)
        return self

    def _wait(self, until: int) -> None:
        """Let time pass; a test clock goes no further at once than two of the shortest periods."""
        if until < self.now:
            raise ValueError("a story goes back in time")
        if not self.story.by_test_clock:
            self.emulator.clock.set(until, frozen=True)
            self.now = until
            return
        days = min(SHORTEST[price.interval] * price.count for price in self.story.prices)
        while self.now < until:
            self.now = min(until, self.now + 2 * days * DAY)
            self.post(f"{self.test_clock}/advance", frozen_time=self.now)
            if self.get(self.test_clock)["status"] != "ready":
                raise WrongShape("the test clock did not arrive")

    def post(self, path: str, **params: Any) -> Any:
        return self._call("POST", path, body=urlencode(flat(params)))

    def get(self, path: str, **params: Any) -> Any:
        return self._call("GET", path, query=urlencode(flat(params)))

    def _call(self, method: str, path: str, query: str = "", body: str = "") -> Any:
        reply = self.emulator.handle(Request(method, path, query, HEADERS, body.encode()))
        if reply.status != 200:
            raise Refused(f"{method} {path} {query}{body}: {reply.body.decode()}")
        return json.loads(reply.body)

    @singledispatchmethod
    def act(self, step: Step) -> Any:
        raise NotImplementedError(step)

    @act.register
    def _(self, step: Subscribe) -> Any:
        items: list[dict[str, Any]] = [{"price": self.prices[price.name]} for price in step.prices]
        for item, quantity in zip(items, step.quantities, strict=True):
            if quantity is not None:
                item["quantity"] = quantity
        params: dict[str, Any] = {}
        if step.start < step.at:
            params["backdate_start_date"] = step.start
        if step.anchor is not None:
            params["billing_cycle_anchor"] = step.anchor
        if step.classic:
            params["billing_mode"] = {"type": "classic"}
        if step.trial_end is not None:
            params["trial_end"] = step.trial_end
        made = self.post(
            "/v1/subscriptions", customer=self.customers[step.who], items=items, **params
        )
        self.subscriptions[step.who] = made
        return made

    @act.register
    def _(self, step: Send) -> Any:
        payload = {"stripe_customer_id": self.customers[step.who], "value": spoken(step.value)}
        return self.post(
            "/v1/billing/meter_events",
            event_name=step.meter.name,
            identifier=step.name,
            timestamp=step.timestamp,
            payload=payload,
        )

    @act.register
    def _(self, step: Void) -> Any:
        return self.post(
            "/v1/billing/meter_event_adjustments",
            event_name=step.meter.name,
            type="cancel",
            cancel={"identifier": step.name},
        )

    @act.register
    def _(self, step: Reprice) -> Any:
        return self._update(
            step, items=[self._item(step) | {"price": self.prices[step.price.name]}]
        )

    @act.register
    def _(self, step: Requantify) -> Any:
        items = [self._item(step) | {"quantity": step.quantity}]
        return self._update(step, items=items, proration_behavior="none")

    @act.register
    def _(self, step: Plan) -> Any:
        if step.cancel_at is None:
            return self._update(step, cancel_at_period_end=True, proration_behavior="none")
        return self._update(step, cancel_at=step.cancel_at, proration_behavior="none")

    @act.register
    def _(self, step: Unplan) -> Any:
        undo: dict[str, Any] = (
            {"cancel_at": ""} if step.by_moment else {"cancel_at_period_end": False}
        )
        return self._update(step, **undo)

    @act.register
    def _(self, step: CancelNow) -> Any:
        path = f"/v1/subscriptions/{self.subscriptions[step.who]['id']}"
        query = urlencode(flat({"invoice_now": step.invoice_now}))
        return self._call("DELETE", path, query=query)

    @act.register
    def _(self, step: EndTrial) -> Any:
        return self._update(step, trial_end="now")

    @act.register
    def _(self, step: Preview) -> Any:
        status = self.get(f"/v1/subscriptions/{self.subscriptions[step.who]['id']}")["status"]
        if status == "canceled":
            return ()
        subscription = self.subscriptions[step.who]["id"]
        made = self.post("/v1/invoices/create_preview", subscription=subscription)
        # The lines beyond the tenth of an invoice that is not stored cannot be asked for.
        return None if made["lines"]["has_more"] else self._lines(step.who, made)

    @act.register
    def _(self, _: Restart) -> Any:
        self.emulator.restore(self.emulator.snapshot())

    @act.register
    def _(self, step: Look) -> Any:
        return self.bills(step.who)

    def _update(self, step: Step, **params: Any) -> Any:
        return self.post(f"/v1/subscriptions/{self.subscriptions[step.who]['id']}", **params)

    def _item(self, step: Reprice | Requantify) -> dict[str, Any]:
        return {"id": self.subscriptions[step.who]["items"]["data"][step.item]["id"]}

    def bills(self, who: int) -> list[Bill]:
        """Return the invoices of a subscriber, oldest first."""
        if who not in self.subscriptions:
            return []
        page = self.get("/v1/invoices", customer=self.customers[who], limit=100)
        return [self._bill(who, invoice) for invoice in reversed(page["data"])]

    def _bill(self, who: int, invoice: Any) -> Bill:
        final_at = invoice["status_transitions"]["finalized_at"]
        if invoice["status"] != ("draft" if final_at is None else "paid"):
            raise WrongShape(f"finalized at {final_at} and {invoice['status']}")
        return Bill(invoice["created"], final_at, self._lines(who, invoice))

    def _lines(self, who: int, invoice: Any) -> tuple[Line, ...]:
        shown = invoice["lines"]
        if shown["has_more"]:
            # An invoice shows its first ten.
            shown = self.get(f"/v1/invoices/{invoice['id']}/lines", limit=100)
        ids = [item["id"] for item in self.subscriptions[who]["items"]["data"]]
        lines = [
            Line(
                ids.index(line["parent"]["subscription_item_details"]["subscription_item"]),
                line["period"]["start"],
                line["period"]["end"],
                self.names[line["pricing"]["price_details"]["price"]],
                int(Decimal(line["quantity_decimal"]) * ONE),
                line["amount"],
            )
            for line in shown["data"]
        ]
        if invoice["total"] != sum(line.amount for line in lines):
            raise WrongShape(f"the total is {invoice['total']}, the lines are {lines}")
        for line in shown["data"]:
            if line["quantity"] != int(Decimal(line["quantity_decimal"])):
                raise WrongShape(f"{line['quantity']} is not {line['quantity_decimal']} cut short")
        return tuple(sorted(lines))
