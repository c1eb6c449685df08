"""What others ask of billing's tables."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from types import MappingProxyType

from django.db.models import Q
from django.utils import timezone

from billing.enums import Aggregation
from billing.models import MeterVersion
from billing.remembered import Remembered


@dataclass(frozen=True, slots=True)
class ValueRule:
    """What a meter asks of the `data` of an event that occurred in [`from`, `until`).

    The property holds a number with at most `scale` decimals; only where `required` must it be
    there.
    """

    meter: str
    value_property: str
    required: bool
    scale: int
    effective_from: datetime
    effective_until: datetime | None


def value_rules() -> Mapping[str, tuple[ValueRule, ...]]:
    """Return the rules of each event type some meter reads, by type.

    A type fed to count meters only has none and maps to an empty tuple; a type nobody reads is
    absent. Definitions that are over are left out, those about to begin are in. The answer may be
    BILLING_REFERENCE_CACHE_SECONDS old.
    """
    return _rules.get(None) or {}


def _load(_: None) -> Mapping[str, tuple[ValueRule, ...]] | None:
    rules: dict[str, tuple[ValueRule, ...]] = {}
    versions = (
        MeterVersion.objects.select_related("meter")
        .filter(Q(effective_until=None) | Q(effective_until__gt=timezone.now()))
        .order_by("meter__slug", "effective_from")
    )
    for version in versions:
        found = rules.setdefault(version.event_type, ())
        if version.meter.aggregation == Aggregation.SUM:
            rules[version.event_type] = (
                *found,
                ValueRule(
                    meter=version.meter.slug,
                    value_property=version.value_property,
                    required=version.required,
                    scale=version.meter.scale,
                    effective_from=version.effective_from,
                    effective_until=version.effective_until,
                ),
            )
    # An empty catalogue is not remembered: its first sync counts at once.
    return MappingProxyType(rules) if rules else None


_rules = Remembered(_load)
