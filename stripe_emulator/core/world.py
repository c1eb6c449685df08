"""Everything the emulated account holds, and nothing that acts on it."""

from dataclasses import dataclass, field
from typing import Any

from stripe_emulator.core.agenda import Agenda
from stripe_emulator.core.clock import Clock
from stripe_emulator.core.collection import Collection, Object
from stripe_emulator.core.deliveries import Outbox
from stripe_emulator.core.entries import Entry
from stripe_emulator.core.ids import Ids
from stripe_emulator.core.pending_reports import ErrorReports
from stripe_emulator.core.records import IdentifierRecord, Records
from stripe_emulator.core.settings import Settings
from stripe_emulator.core.usage_books import UsageBooks
from stripe_emulator.core.violations import Violations


@dataclass(slots=True)
class Cause:
    """The request that is being answered, as events name it."""

    request_id: str | None = None
    idempotency_key: str | None = None
    arrival: int = 0


@dataclass(slots=True)
class Session:
    """A token's mode, and when it ends."""

    livemode: bool
    expires_at: float


@dataclass
class World:
    """The account's objects by kind; subject modules act on them."""

    clock: Clock
    ids: Ids
    identifiers: Records[IdentifierRecord]
    settings: Settings = field(default_factory=Settings)
    customers: Collection = field(default_factory=lambda: Collection("customer"))
    products: Collection = field(default_factory=lambda: Collection("product"))
    prices: Collection = field(default_factory=lambda: Collection("price"))
    meters: Collection = field(default_factory=lambda: Collection("billing meter"))
    meter_names: dict[tuple[str, bool], Object] = field(default_factory=dict)
    """Meters by event name and mode: every event looks here."""
    subscriptions: Collection = field(default_factory=lambda: Collection("subscription"))
    invoices: Collection = field(default_factory=lambda: Collection("invoice"))
    invoice_items: Collection = field(default_factory=lambda: Collection("invoiceitem"))
    credit_notes: Collection = field(default_factory=lambda: Collection("credit note"))
    credit_grants: Collection = field(default_factory=lambda: Collection("credit grant"))
    credit_transactions: Collection = field(
        default_factory=lambda: Collection("credit balance transaction")
    )
    setup_intents: Collection = field(default_factory=lambda: Collection("setupintent"))
    checkout_sessions: Collection = field(default_factory=lambda: Collection("checkout.session"))
    portal_sessions: Collection = field(
        default_factory=lambda: Collection("billing_portal.session")
    )
    alerts: Collection = field(default_factory=lambda: Collection("billing alert"))
    test_clocks: Collection = field(default_factory=lambda: Collection("testclock"))
    events: Collection = field(default_factory=lambda: Collection("event"))
    thin_events: Collection = field(default_factory=lambda: Collection("event"))
    webhook_endpoints: Collection = field(default_factory=lambda: Collection("webhook endpoint"))
    usage: UsageBooks = field(default_factory=UsageBooks)
    outbox: Outbox = field(default_factory=Outbox)
    violations: Violations = field(default_factory=Violations)
    agenda: Agenda = field(default_factory=Agenda)
    clock_agendas: dict[str, Agenda] = field(default_factory=dict)
    cause: Cause = field(default_factory=Cause)
    arrivals: int = 0
    """How many requests there were, one that is being answered included."""
    sessions: dict[str, Session] = field(default_factory=dict)
    alerts_of: dict[str, list[Object]] = field(default_factory=dict)
    """Alerts by meter: every counted event looks here."""
    thresholds_of: dict[str, set[str]] = field(default_factory=dict)
    """Subscriptions with billing thresholds, by customer: every counted event looks here."""
    alerts_fired: set[tuple[str, str]] = field(default_factory=set)
    settling: list[tuple[float, int, str, str, Entry, int]] = field(default_factory=list)
    """Accepted and not yet counted, a heap: when, order, meter, customer, entry, sign."""
    cancelled_unsettled: set[int] = field(default_factory=set)
    """Sequences of events that were cancelled before they counted."""
    reports: ErrorReports = field(default_factory=ErrorReports)
    moment: int | None = None
    counters: dict[str, int] = field(default_factory=dict)

    def second(self) -> int:
        """Return the second things happen in.

        While due work is caught up, that is the second it was due in.
        """
        return self.clock.second() if self.moment is None else self.moment

    def now_for(self, customer: Object | None) -> int:
        """Return the second it is for this customer: its test clock's, or everyone's."""
        clock_id = customer.get("test_clock") if customer else None
        if clock_id is None:
            return self.clock.second()
        clock = self.test_clocks.find(clock_id)
        return int(clock["frozen_time"]) if clock else self.clock.second()

    def second_for(self, customer: Object | None) -> int:
        """Return the second things happen in for this customer, due work included."""
        return self.now_for(customer) if self.moment is None else self.moment

    def agenda_for(self, customer: Object) -> Agenda:
        """Return the agenda of the time line this customer lives on."""
        clock_id = customer.get("test_clock")
        return self.clock_agendas.setdefault(clock_id, Agenda()) if clock_id else self.agenda

    def count(self, name: str) -> int:
        """Return 1, 2, 3 … for each name."""
        self.counters[name] = self.counters.get(name, 0) + 1
        return self.counters[name]

    def find(self, field_name: str, object_id: str) -> Object | None:
        """Return what an expandable field points at."""
        collection: Any = getattr(self, _EXPANDABLE[field_name])
        found: Object | None = collection.find(object_id)
        return found


_EXPANDABLE = {
    "customer": "customers",
    "product": "products",
    "default_price": "prices",
    "price": "prices",
    "subscription": "subscriptions",
    "latest_invoice": "invoices",
    "invoice": "invoices",
    "pending_setup_intent": "setup_intents",
    "setup_intent": "setup_intents",
    "test_clock": "test_clocks",
    "meter": "meters",
    "credit_balance_transaction": "credit_transactions",
    "credit_grant": "credit_grants",
}
EXPANDABLE_FIELDS = frozenset(_EXPANDABLE)
