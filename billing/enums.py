"""Closed sets of words stored in billing's tables."""

from django.db import models


class Aggregation(models.TextChoices):
    """How a meter makes a quantity of many events.

    SUM and COUNT add up, so Stripe is sent deltas. The others do not: Stripe is sent the value
    the billing period has come to so far, each time in place of the one before.
    """

    SUM = "sum", "sum"
    COUNT = "count", "count"
    MAX = "max", "largest"
    UNIQUE = "unique", "number of different ones"
    LATEST = "latest", "latest"

    @property
    def is_running(self) -> bool:
        """Whether Stripe is sent running values of the billing period, and not deltas."""
        return self in {Aggregation.MAX, Aggregation.UNIQUE, Aggregation.LATEST}

    @property
    def formula(self) -> str:
        """How the meter at Stripe must make one value of many."""
        return "last" if self.is_running else "sum"


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


class Arrival(models.TextChoices):
    """How an event of Stripe's got here."""

    WEBHOOK = "webhook", "webhook"
    SWEEP = "sweep", "sweep"


class CaseKind(models.TextChoices):
    """Why a person is needed. Each kind has a runbook entry."""

    REJECTED = "rejected", "Stripe refused a submission"
    UNPROVEN = "unproven", "outcome unknown for longer than Stripe remembers"
    EXPIRED = "expired", "too old for Stripe to take"
    HELD = "held", "usage is held"
    LATE = "late", "usage of a period whose invoice is final"
    BOUNDARY = "boundary", "usage was sent across a billing-period boundary"
    DISCREPANCY = "discrepancy", "Stripe's books differ from ours"
    INVARIANT = "invariant", "our own tables contradict each other"
    WEBHOOK = "webhook", "a webhook cannot be handled"
    WEBHOOKS_MISSING = "webhooks_missing", "webhooks do not arrive"
    MISCONFIGURED = "misconfigured", "Stripe refuses our key or our set-up"
    ERROR_REPORT = "error_report", "an error report of Stripe's is not cleared up"
    AGEING = "ageing", "usage grows old before Stripe has counted it"
    QUARANTINE = "quarantine", "sending is stopped: the database is not the one it was"
    METER = "meter", "Stripe's meter cannot take what we would send"
    UNBILLED = "unbilled", "usage that no subscription bills"
    STOPPED = "stopped", "usage of a subscription that bills no more"
    CUSTOMER_DELETED = "customer_deleted", "usage of a customer deleted at Stripe"
    BILLED_TWICE = "billed_twice", "a customer's usage is billed twice"
    FOREIGN_PRICE = "foreign_price", "usage is billed at a price that is not ours"


class Endpoint(models.TextChoices):
    """What Stripe limits by the second, as far as we call it often."""

    METER_EVENTS = "meter_events", "meter events over v1, in calls"
    STREAM = "stream", "meter event stream: events in live mode, requests in test mode"
    READS = "reads", "reads, in calls"
    ACCOUNT = "account", "all of them together, in calls"
