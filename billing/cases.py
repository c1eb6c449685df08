"""Cases: opening, repeating and closing work for a person. Who sees them is the admin's."""

from __future__ import annotations

from collections.abc import Collection
from datetime import datetime
from decimal import Decimal

from django.utils import timezone

from billing.enums import CaseKind
from billing.models import Case


def open_case(
    *,
    kind: CaseKind,
    reference: str,
    reason: str,
    quantity: Decimal | int | None = None,
    deadline_at: datetime,
) -> Case:
    """Open a case, or bring the open one of this kind and reference up to date.

    A repetition renews reason and quantity and leaves owner, opening time and deadline alone, so a
    sweep may report the same trouble at every pass. A closed case stays closed: the same trouble
    coming back is a new one. Takes part in the caller's transaction, if there is one.
    """
    # One statement, because the partial index decides which of two openers wins; the ORM cannot
    # name a partial index in ON CONFLICT.
    [case] = Case.objects.raw(
        """
        INSERT INTO billing_case
            (kind, reference, reason, quantity, opened_at, deadline_at, resolution)
        VALUES (%s, %s, %s, %s, %s, %s, '')
        ON CONFLICT (kind, reference) WHERE closed_at IS NULL
        DO UPDATE SET reason = EXCLUDED.reason, quantity = EXCLUDED.quantity
        RETURNING *
        """,
        [kind.value, reference, reason, quantity, timezone.now(), deadline_at],
    )
    return case


def close_cases(kind: CaseKind, references: Collection[str], resolution: str) -> int:
    """Close the open cases of this kind and these references; return how many there were."""
    return Case.objects.filter(kind=kind, reference__in=references, closed_at__isnull=True).update(
        closed_at=timezone.now(), resolution=resolution
    )


def close_case(kind: CaseKind, reference: str, resolution: str) -> bool:
    """Close the open case of this kind and reference; return whether there was one."""
    return close_cases(kind, [reference], resolution) > 0
