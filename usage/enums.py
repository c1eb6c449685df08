"""Closed sets of words stored in usage's tables."""

from django.db import models

from usage.lifecycle import State

STATE_CHOICES = [(state.value, state.label) for state in State]


class Outcome(models.TextChoices):
    """How an attempt ended. None in the database: the call may be under way, or its end unknown."""

    ACCEPTED = "accepted", "accepted"
    DUPLICATE = "duplicate", "known already, so accepted before"
    NOT_ACCEPTED = "not_accepted", "not accepted"
    UNKNOWN = "unknown", "unknown"
    REJECTED = "rejected", "refused for good"


class Wire(models.TextChoices):
    """Which way to Stripe a submission goes."""

    V1 = "v1", "v1, one event a call"
    STREAM = "stream", "v2 stream"
    CANCEL = "cancel", "cancellation of the original"


class ReplacementKind(models.TextChoices):
    """Why submissions were superseded."""

    DOUBT = "doubt", "Stripe's total proved them absent, wholly or in part"
    RESTORE = "restore", "the database was restored, and Stripe's total told what is missing"
    REFOLD = "refold", "a billing-period boundary became known before they were sent"
    LATE = "late", "the invoice of their period became final before they were sent"
    RUNNING = "running", "a newer running value stands for them"


class ReportEffect(models.TextChoices):
    """What became of an event that an error report of Stripe's names."""

    REJECTED = "rejected", "rejected: it was not counted"
    UNPROVEN = "unproven", "unproven: an earlier attempt may be counted"
    CONTRADICTED = "contradicted", "left: it contradicts what we know"
    DUPLICATE = "duplicate", "left: only a repetition was refused"
    UNCHANGED = "unchanged", "left: nothing of it counted as taken"
    FOREIGN = "foreign", "not ours"


class HeldReason(models.TextChoices):
    """Why usage waits. Each has a runbook entry; release folds it again."""

    UNKNOWN_CUSTOMER = "unknown_customer", "no customer with this external id"
    CUSTOMER_NOT_AT_STRIPE = "customer_not_at_stripe", "the customer has no Stripe id yet"
    METER_NOT_AT_STRIPE = "meter_not_at_stripe", "the meter has no Stripe id yet"
    LATE = "late", "the invoice of its period is final"
    PERIOD_FULL = "period_full", "no second is left in the period for another running value"
    AHEAD = "ahead", "the next running value would be further ahead than Stripe takes"
