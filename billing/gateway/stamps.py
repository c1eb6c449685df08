"""The stamp on what we create at Stripe, by which we leave other programs' objects alone."""

from __future__ import annotations

from collections.abc import Mapping

from django.conf import settings

DEPLOYMENT = "meterkeeper_deployment"
CUSTOMER = "meterkeeper_customer"
SUBSCRIPTION = "meterkeeper_subscription"


def stamped(**more: str) -> dict[str, str]:
    """Return metadata with this deployment's stamp, and with our own ids of the object."""
    return {DEPLOYMENT: settings.DEPLOYMENT} | {f"meterkeeper_{key}": more[key] for key in more}


def is_ours(metadata: Mapping[str, str]) -> bool:
    """Return whether this deployment made the object with this metadata."""
    return metadata.get(DEPLOYMENT) == settings.DEPLOYMENT
