"""When a draft finalizes itself, and when an invoice is due."""

from typing import Any

from stripe_emulator.core.billing.periods import shifted
from stripe_emulator.core.errors import invalid
from stripe_emulator.core.settings import DAY_SECONDS

FURTHEST_YEARS = 5
"""How far ahead finalization can be put.

Source: stripe-python, `InvoiceUpdateParams.automatically_finalizes_at`.
"""


def finalizes_at(
    params: dict[str, Any], *, advances: bool, former: int | None, now: int, delay: int
) -> int | None:
    """Return the moment asked for, the former one, or one after the usual delay.

    Only a draft that advances by itself has one.
    """
    asked: int | None = params.get("automatically_finalizes_at")
    if asked is None:
        return (former or now + delay) if advances else None
    if not advances:
        raise invalid(
            "`automatically_finalizes_at` needs `auto_advance=true`.",
            param="automatically_finalizes_at",
        )
    if not now < asked <= shifted(now, "year", FURTHEST_YEARS):
        raise invalid(
            "`automatically_finalizes_at` must be in the future, and at most "
            f"{FURTHEST_YEARS} years ahead.",
            param="automatically_finalizes_at",
        )
    return asked


def due_date(
    params: dict[str, Any], method: str, *, created: int, former: int | None = None
) -> int | None:
    """Return when an invoice that is sent is due; one that is charged has no such date."""
    asked = [name for name in ("days_until_due", "due_date") if name in params]
    if method != "send_invoice":
        if asked:
            raise invalid(
                f"`{asked[0]}` is for invoices with `collection_method=send_invoice` only.",
                param=asked[0],
            )
        return None
    if len(asked) > 1:
        raise invalid("`days_until_due` and `due_date` exclude each other.", param="due_date")
    if not asked and former is None:
        raise invalid(
            "`days_until_due` or `due_date` is needed with `collection_method=send_invoice`.",
            param="days_until_due",
        )
    if "days_until_due" in params:
        return created + int(params["days_until_due"]) * DAY_SECONDS
    if "due_date" not in params:
        return former
    if params["due_date"] < created:
        raise invalid("`due_date` must not lie before the invoice.", param="due_date")
    return int(params["due_date"])
