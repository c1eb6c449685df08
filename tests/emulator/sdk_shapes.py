"""Holds answers against the SDK's typed classes, for what Stripe's description leaves out."""

import typing
from collections.abc import Iterator, Mapping
from typing import Any

import stripe
from stripe._credit_note import CreditNote
from stripe._credit_note_line_item import CreditNoteLineItem
from stripe._invoice_item import InvoiceItem
from stripe.billing._credit_balance_summary import CreditBalanceSummary

CLASSES = {
    "invoiceitem": InvoiceItem,
    "credit_note": CreditNote,
    "credit_note_line_item": CreditNoteLineItem,
    "billing.credit_balance_summary": CreditBalanceSummary,
}


def fields(cls: type) -> dict[str, Any]:
    """The fields an object of a class has, by their annotations; one that lives is not deleted."""
    return {
        name: kind
        for name, kind in cls.__annotations__.items()
        if typing.get_origin(kind) is not typing.ClassVar and name != "deleted"
    }


def check(cls: type, body: Mapping[str, Any], where: str = "") -> None:
    """Every field of the class must be there, with no other, down to its inner classes."""
    assert body.keys() == fields(cls).keys(), f"{where or cls.__name__}: {body.keys()}"
    for name, kind in fields(cls).items():
        for inner in _classes(kind):
            for each in body[name] if isinstance(body[name], list) else [body[name]]:
                if each is not None:
                    check(inner, each, f"{where}.{name}")


def expandable(cls: type, before: str = "") -> set[str]:
    """The paths that hold an id or the object it names."""
    found = set()
    for name, kind in fields(cls).items():
        if any(_is_reference(option) for option in _parts(kind)):
            found.add(before + name)
        for inner in _classes(kind):
            found |= expandable(inner, f"{before}{name}.")
    return found


def _classes(kind: Any) -> Iterator[type]:
    """The inner classes an annotation speaks of; metadata is a map and not one of them."""
    for part in _parts(kind):
        if isinstance(part, type) and issubclass(part, stripe.StripeObject):
            inner = part.__qualname__.count(".") > 0
            if inner:
                yield part


def _parts(kind: Any) -> Iterator[Any]:
    yield kind
    for each in typing.get_args(kind):
        yield from _parts(each)


def _is_reference(kind: Any) -> bool:
    options = typing.get_args(kind)
    return str in options and any(isinstance(each, typing.ForwardRef) for each in options)
