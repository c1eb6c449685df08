"""Closed sets of words stored in reconciliation's tables."""

from reconciliation.comparison import Reason

REASON_CHOICES = [(reason.value, reason.label) for reason in Reason if reason.value]
