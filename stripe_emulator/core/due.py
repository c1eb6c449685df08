"""Catching up with time: what fell due is done in order, each at its own moment."""

from stripe_emulator.core import error_reports, invoices, subscriptions
from stripe_emulator.core.agenda import Agenda
from stripe_emulator.core.intake import settle_due
from stripe_emulator.core.world import World


def catch_up(world: World) -> None:
    """Bring the account up to now. Customers on test clocks wait for theirs to be advanced."""
    run_agenda(world, world.agenda, world.clock.now())
    settle_due(world, world.clock.now())


def run_agenda(world: World, agenda: Agenda, until: float) -> None:
    """Do everything on one time line that is due by `until`."""
    while (entry := agenda.pop_due(until)) is not None:
        due_at, kind, subject = entry
        if agenda is world.agenda:
            settle_due(world, due_at)
        world.moment = int(due_at)
        try:
            _act(world, kind, subject, due_at)
        finally:
            world.moment = None


def _act(world: World, kind: str, subject: str, due_at: float) -> None:
    if kind == subscriptions.AGENDA_KIND:
        subscriptions.fall_due(world, subject, int(due_at))
    elif kind == invoices.AGENDA_KIND:
        invoice = world.invoices.find(subject)
        if invoice is not None:
            invoices.finalize(world, invoice)
    elif kind == error_reports.AGENDA_KIND:
        error_reports.report(world, subject, due_at)
    else:
        raise LookupError(f"nobody owns agenda entries of kind {kind}")
