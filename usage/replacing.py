"""Replacing: submissions are taken out of the running, and new ones stand in for what is missing.

Whoever decides it has proven, under a lock of the rows, that Stripe will never count what is
replaced; `settlement` does so by Stripe's totals. Each decision is one `Replacement` (I4).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from datetime import datetime
from decimal import Decimal

from billing import periods
from usage.enums import ReplacementKind
from usage.folding import FoldedCell
from usage.freezing import freeze
from usage.holding import hold
from usage.lifecycle import State
from usage.models import Replacement, Submission, SubmissionState


def replace(
    members: Sequence[Submission],
    *,
    kind: ReplacementKind,
    credit: Decimal,
    reason: str,
    now: datetime,
) -> Replacement:
    """Supersede `members`, all of one pair's hour, and freeze what stands in for them.

    `credit` is what Stripe has of them; the rest of their sum is sent anew under new identifiers,
    for each segment and Stripe customer on its own, due at once; or held, where the invoice of its
    period is final. With a credit all of them are of
    one such group, since nothing tells which group the credit belongs to. Takes part in the
    caller's transaction, which holds locks of the members' standings.

    Raises:
        ValueError: the members are not of one hour, or a credit is to be divided.
    """
    groups: defaultdict[tuple[datetime, str], list[Submission]] = defaultdict(list)
    for member in sorted(members, key=lambda member: member.pk):
        groups[member.segment_start, member.stripe_customer_id].append(member)
    if credit and len(groups) > 1:
        raise ValueError("a credit cannot be divided between segments or customers")
    replacement = supersede(members, kind=kind, credit=credit, reason=reason, now=now)
    for group in groups.values():
        first = group[0]
        latest = max(member.timestamp for member in group)
        cell = FoldedCell(
            subject=first.customer.external_id,
            customer_id=first.customer_id,
            stripe_customer_id=first.stripe_customer_id,
            meter_id=first.meter_id,
            event_name=first.event_name,
            meter_is_at_stripe=True,
            window_start=first.window_start,
            segment_start=first.segment_start,
            event_count=sum(member.event_count for member in group),
            quantity=_sum(group) - credit,
            latest=latest,
            is_late=periods.is_final(customer_id=first.customer_id, timestamp=latest, now=now),
        )
        if cell.held_reason is None:
            freeze(first.run, [cell], now=now, replaces=replacement)
        else:
            hold(first.run, [cell], now=now, replaces=replacement)
    return replacement


def supersede(
    members: Sequence[Submission],
    *,
    kind: ReplacementKind,
    credit: Decimal = Decimal(0),
    reason: str,
    now: datetime,
) -> Replacement:
    """Write the decision and move `members`, all of one pair's hour, out of the running.

    What stands in for them is the caller's to write, in the same transaction, so that the sums
    agree (I4).

    Raises:
        ValueError: the members are not of one hour of one customer and meter.
    """
    cells = {(member.customer_id, member.meter_id, member.window_start) for member in members}
    if len(cells) != 1:
        raise ValueError(f"a decision is about one hour of one pair, not {len(cells)}")
    [(customer_id, meter_id, window_start)] = cells
    replacement = Replacement.objects.create(
        kind=kind,
        customer_id=customer_id,
        meter_id=meter_id,
        window_start=window_start,
        superseded=_sum(members),
        credit=credit,
        reason=reason,
        decided_at=now,
    )
    ids = [member.pk for member in members]
    # What may have been sent is unproven first: that is the only way out of a doubt.
    unprove(ids, states=(State.IN_DOUBT, State.RETRY, State.ACCEPTED), now=now)
    moved = SubmissionState.objects.filter(pk__in=ids).update(
        state=State.SUPERSEDED,
        replaced_by=replacement,
        doubt_since=None,
        next_action_at=None,
        reason=reason,
        changed_at=now,
    )
    if moved != len(ids):
        raise ValueError(f"{len(ids)} submissions were to be superseded, and {moved} stand")
    return replacement


def unprove(submission_ids: Iterable[int], *, states: Iterable[State], now: datetime) -> None:
    """Move those of the submissions that stand in `states` to UNPROVEN."""
    SubmissionState.objects.filter(pk__in=submission_ids, state__in=states).update(
        state=State.UNPROVEN, next_action_at=None, changed_at=now
    )


def _sum(members: Iterable[Submission]) -> Decimal:
    return sum((member.value for member in members), Decimal(0))
