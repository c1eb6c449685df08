"""Closed sets of words stored in billing's tables."""

from django.db import models


class Aggregation(models.TextChoices):
    """How a meter makes a quantity of many events. Both are deltas to a Stripe `sum` meter."""

    SUM = "sum", "sum"
    COUNT = "count", "count"


class PriceKind(models.TextChoices):
    BASE = "base", "base fee"
    METERED = "metered", "metered"


class Scope(models.TextChoices):
    """What an API key may do."""

    INGEST = "ingest", "report usage"
    READ = "read", "read"
    MANAGE = "manage", "manage customers and subscriptions"


class WebhookKind(models.TextChoices):
    SNAPSHOT = "snapshot", "snapshot"
    THIN = "thin", "thin"


class WebhookState(models.TextChoices):
    PENDING = "pending", "pending"
    PROCESSED = "processed", "processed"
    IGNORED = "ignored", "ignored"
    FAILED = "failed", "failed"


class CaseKind(models.TextChoices):
    """Why a person is needed. Each kind has a runbook entry."""

    REJECTED = "rejected", "Stripe refused a submission"
    UNPROVEN = "unproven", "outcome unknown for longer than Stripe remembers"
    EXPIRED = "expired", "too old for Stripe to take"
    HELD = "held", "usage is held"
    DISCREPANCY = "discrepancy", "Stripe's books differ from ours"
    INVARIANT = "invariant", "our own tables contradict each other"
    WEBHOOK = "webhook", "a webhook cannot be handled"
    MISCONFIGURED = "misconfigured", "Stripe refuses our key or our set-up"
    QUARANTINE = "quarantine", "sending is stopped: the database is not the one it was"
    METER = "meter", "Stripe's meter cannot take what we would send"


class Endpoint(models.TextChoices):
    """What Stripe limits by the second, as far as we call it often."""

    METER_EVENTS = "meter_events", "meter events over v1, in calls"
    STREAM = "stream", "meter event stream: events in live mode, requests in test mode"
    READS = "reads", "reads, in calls"
    ACCOUNT = "account", "all of them together, in calls"
