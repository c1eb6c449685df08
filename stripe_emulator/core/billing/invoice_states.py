"""An invoice's statuses: which may follow which, and what may be done in each.

Draft, open, then paid, void or uncollectible; what is uncollectible can still be paid or voided.
"""

from typing import Literal

from stripe_emulator.core.collection import Object
from stripe_emulator.core.errors import invalid

Action = Literal[
    "attach_payment",
    "credit",
    "delete",
    "edit",
    "finalize",
    "mark_uncollectible",
    "pay",
    "send",
    "void",
]

_FOLLOWS = {
    "draft": {"open"},
    "open": {"paid", "void", "uncollectible"},
    "uncollectible": {"paid", "void"},
    "paid": set(),
    "void": set(),
}
_STAMPS = {
    "open": "finalized_at",
    "paid": "paid_at",
    "void": "voided_at",
    "uncollectible": "marked_uncollectible_at",
}
_ALLOWED: dict[Action, tuple[str, ...]] = {
    "attach_payment": ("open",),
    "credit": ("open", "paid", "uncollectible"),
    "delete": ("draft",),
    "edit": ("draft",),
    "finalize": ("draft",),
    "mark_uncollectible": ("open",),
    "pay": ("draft", "open", "uncollectible"),
    "send": ("draft", "open", "uncollectible", "paid"),
    "void": ("open", "uncollectible"),
}
_REFUSALS: dict[Action, str] = {
    "attach_payment": "You can only attach payments to open invoices.",
    "credit": "You can only create credit notes for finalized invoices that are not void.",
    "delete": "You can only delete draft invoices; a finalized one is voided instead.",
    "edit": "Finalized invoices can't be updated in this way.",
    "finalize": "This invoice is already finalized, you can't re-finalize a non-draft invoice.",
    "mark_uncollectible": "You can only mark open invoices as uncollectible.",
    "pay": "Only draft, open and uncollectible invoices can be paid.",
    "send": "A void invoice can't be sent.",
    "void": "You can only void open or uncollectible invoices.",
}


def check(invoice: Object, action: Action) -> None:
    """Refuse what cannot be done to an invoice in its status (the words are inferred)."""
    if invoice["status"] in _ALLOWED[action]:
        return
    if action == "pay" and invoice["status"] == "paid":
        raise invalid("Invoice is already paid")
    raise invalid(
        f"{_REFUSALS[action]} This invoice is {invoice['status']}.",
        code="invoice_not_editable" if action == "edit" else None,
    )


def move(invoice: Object, status: str, at: int) -> None:
    """Give an invoice its next status, and note when; a move that does not exist is an error."""
    if status not in _FOLLOWS[invoice["status"]]:
        raise ValueError(f"a {invoice['status']} invoice does not become {status}")
    invoice["status"] = status
    invoice["status_transitions"][_STAMPS[status]] = at
