"""When a draft is finalized. What finalizing does to it stands in `cycle_invoices`."""

from stripe_emulator.core.collection import Object
from stripe_emulator.core.settings import LONGEST_GRACE_SECONDS
from stripe_emulator.core.world import World

AGENDA_KIND = "invoice"


def schedule(world: World, draft: Object, at: int | None) -> None:
    """Set when a draft finalizes itself, or that it does not."""
    draft["automatically_finalizes_at"] = at
    if at is not None:
        world.agenda_for(draft).add(at, AGENDA_KIND, draft["id"])


def schedule_finalization(world: World, draft: Object, at: int | None) -> None:
    """Set a moment somebody asked for, which waits for no webhook.

    Source: docs.stripe.com/invoicing/scheduled-finalization.
    """
    draft["_waits_for_webhooks"] = False
    schedule(world, draft, at)


def told(draft: Object, created: Object) -> None:
    """Let a draft wait for the answers to its `invoice.created` event, if anybody hears of it.

    The delay counts from a 2xx answer of every endpoint that listens, and without one the draft
    waits 72 hours (docs.stripe.com/invoicing/integration/workflow-transitions). Until then it shows
    the earliest moment, that of an answer at once (inferred). Test clocks wait for nobody
    (inferred): they pass days in a moment.
    """
    draft["_created_event"] = created["id"]
    if not created["pending_webhooks"] or draft["test_clock"] is not None:
        draft["webhooks_delivered_at"] = draft["created"]


def delivered(world: World, event: Object) -> None:
    """Take note that every endpoint has answered an event: an invoice's delay may begin."""
    if event["type"] != "invoice.created":
        return
    invoice = world.invoices.find(event["data"]["object"]["id"])
    if (
        invoice is None
        or invoice["webhooks_delivered_at"] is not None
        or invoice.get("_created_event") != event["id"]
    ):
        return
    now = invoice["webhooks_delivered_at"] = world.second_for(invoice)
    if _waiting(invoice):
        schedule(world, invoice, now + world.settings.finalization_delay_seconds)


def is_due(world: World, invoice: Object, at: int) -> bool:
    """Tell whether a draft is to be finalized at `at`; one nobody has answered for is put off."""
    if invoice["status"] != "draft" or invoice["automatically_finalizes_at"] != at:
        return False
    longest = invoice["created"] + LONGEST_GRACE_SECONDS
    if _waiting(invoice) and invoice["webhooks_delivered_at"] is None and at < longest:
        schedule(world, invoice, longest)
        return False
    return True


def _waiting(invoice: Object) -> bool:
    waits: bool = invoice.get("_waits_for_webhooks", True)
    return waits and invoice["automatically_finalizes_at"] is not None
