"""What others ask of billing's tables."""

from __future__ import annotations

from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from datetime import datetime, timedelta
from types import MappingProxyType

from django.db.models import Q
from django.utils import timezone

from billing.enums import Aggregation
from billing.models import Customer, MeterVersion
from billing.remembered import Remembered

LATEST_USAGE = timedelta(days=35)
"""How late usage may come. Source: Stripe's API, `timestamp` of a meter event."""


@dataclass(frozen=True, slots=True)
class ValueRule:
    """What a meter asks of the `data` of an event that occurred in [`from`, `until`).

    The property holds a number with at most `scale` decimals, or with `is_name` what is told
    apart; only where `required` must it be there.
    """

    meter: str
    value_property: str
    required: bool
    scale: int
    is_name: bool
    effective_from: datetime
    effective_until: datetime | None

    def binds(self, occurred_at: datetime) -> bool:
        """Return whether it holds for an event that occurred at this instant."""
        return self.effective_from <= occurred_at and (
            self.effective_until is None or occurred_at < self.effective_until
        )


def unknown_customers(external_ids: AbstractSet[str]) -> frozenset[str]:
    """Return which of these are nobody's external id."""
    known = Customer.objects.filter(external_id__in=external_ids)
    return frozenset(external_ids - set(known.values_list("external_id", flat=True)))


def value_rules() -> Mapping[str, tuple[ValueRule, ...]]:
    """Return the rules of each event type some meter reads, by type.

    A type fed to count meters only has none and maps to an empty tuple; a type nobody reads any
    more is absent. A rule binds the events that occurred while it holds: those about to begin are
    in, and those that are over as long as usage of their time may still come late. The answer may
    be BILLING_REFERENCE_CACHE_SECONDS old.
    """
    return _rules.get(None) or {}


def _load(_: None) -> Mapping[str, tuple[ValueRule, ...]] | None:
    now = timezone.now()
    versions = list(
        MeterVersion.objects.select_related("meter")
        .filter(Q(effective_until=None) | Q(effective_until__gt=now - LATEST_USAGE))
        .order_by("meter__slug", "effective_from")
    )
    rules: dict[str, tuple[ValueRule, ...]] = {
        version.event_type: ()
        for version in versions
        if version.effective_until is None or version.effective_until > now
    }
    for version in versions:
        found = rules.get(version.event_type)
        if found is not None and version.meter.aggregation != Aggregation.COUNT:
            rules[version.event_type] = (
                *found,
                ValueRule(
                    meter=version.meter.slug,
                    value_property=version.value_property,
                    required=version.required,
                    scale=version.meter.scale,
                    is_name=version.meter.aggregation == Aggregation.UNIQUE,
                    effective_from=version.effective_from,
                    effective_until=version.effective_until,
                ),
            )
    # An empty catalogue is not remembered: its first sync counts at once.
    return MappingProxyType(rules) if rules else None


_rules = Remembered(_load)
