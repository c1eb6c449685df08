"""Catching up with time: what fell due is done in order, each at its own moment."""

from collections.abc import Callable

from stripe_emulator.core import error_reports, test_clocks
from stripe_emulator.core.agenda import Agenda
from stripe_emulator.core.billing import (
    checkout_sessions,
    credit_grants,
    cycle_invoices,
    finalization,
    payments,
    subscription_agenda,
    subscription_life,
    threshold_invoices,
)
from stripe_emulator.core.collection import Object
from stripe_emulator.core.settling import settle_due
from stripe_emulator.core.world import World


def catch_up(world: World) -> None:
    """Bring the account up to now. Customers on test clocks wait for theirs to be advanced."""
    now = world.clock.now()
    agenda = world.agenda
    while (entry := agenda.pop_due(now)) is not None:
        due_at, kind, subject = entry
        settle_due(world, due_at)
        world.moment = int(due_at)
        try:
            _act(world, agenda, kind, subject, due_at)
        finally:
            world.moment = None
    settle_due(world, now)


def _act(world: World, agenda: Agenda, kind: str, subject: str, due_at: float) -> None:
    if kind in _OF_CUSTOMERS:
        collection, act = _OF_CUSTOMERS[kind]
        if _lives_here(world, agenda, getattr(world, collection).find(subject)):
            act(world, subject, int(due_at))
    elif kind == checkout_sessions.AGENDA_KIND:
        checkout_sessions.fall_due(world, subject)
    elif kind == error_reports.AGENDA_KIND:
        error_reports.report(world, subject, due_at)
    elif kind == test_clocks.AGENDA_KIND:
        _advance(world, subject)
    elif kind == test_clocks.END_AGENDA_KIND:
        clock = world.test_clocks.find(subject)
        if clock is not None:
            test_clocks.remove(world, clock)
    else:
        raise LookupError(f"nobody owns agenda entries of kind {kind}")


def _finalize(world: World, invoice_id: str, at: int) -> None:
    """Finalize a draft, unless its moment was moved since it got this one."""
    invoice = world.invoices.find(invoice_id)
    if invoice is not None and finalization.is_due(world, invoice, at):
        cycle_invoices.finalize(world, invoice)


def _pay(world: World, invoice_id: str, at: int) -> None:
    invoice = world.invoices.find(invoice_id)
    if invoice is not None:
        payments.fall_due(world, invoice, at)


_OF_CUSTOMERS: dict[str, tuple[str, Callable[[World, str, int], None]]] = {
    subscription_agenda.AGENDA_KIND: ("subscriptions", subscription_life.fall_due),
    subscription_agenda.THRESHOLD_KIND: ("subscriptions", threshold_invoices.fall_due),
    finalization.AGENDA_KIND: ("invoices", _finalize),
    payments.AGENDA_KIND: ("invoices", _pay),
    credit_grants.AGENDA_KIND: ("credit_grants", credit_grants.fall_due),
}
"""What lives on a customer's time line, by kind: where it is kept, and what time does to it."""


def _lives_here(world: World, agenda: Agenda, obj: Object | None) -> bool:
    """Tell whether this time line moves the object.

    One attached to a clock later left the other.
    """
    if obj is None:
        return False
    clock_id = obj["test_clock"]
    return agenda is (world.clock_agendas.get(clock_id) if clock_id else world.agenda)


def _advance(world: World, clock_id: str) -> None:
    """Take a test clock to its target, through everything that is due on the way."""
    clock = world.test_clocks.find(clock_id)
    if clock is None:
        return
    target = clock["status_details"]["advancing"]["target_frozen_time"]
    agenda = world.clock_agendas[clock_id]
    moment = world.moment
    while (entry := agenda.pop_due(target)) is not None:
        due_at, kind, subject = entry
        clock["frozen_time"] = int(due_at)
        world.moment = int(due_at)
        _act(world, agenda, kind, subject, due_at)
    world.moment = moment
    test_clocks.arrived(world, clock)
