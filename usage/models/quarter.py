"""The read model of usage: what quarter hours came to, and where the events of an hour went.

Written with each flush, read by questions about usage and never on the way to a bill; it can be
rebuilt from the events.
"""

from __future__ import annotations

from django.contrib.postgres.indexes import BrinIndex
from django.db import models

from billing.models import Meter
from usage.models.event import FlushRun


class QuarterUsage(models.Model):
    """What a subject used of a sum or count meter with one model in one UTC quarter hour.

    Of flushed events, those held included. A void counts with sign -1 in both figures, so a row
    may come to 0.
    """

    pk = models.CompositePrimaryKey("subject", "meter_id", "quarter_start", "model")
    subject = models.TextField(
        db_collation="C", help_text="the customer's external id, known to us or not"
    )
    meter = models.ForeignKey(
        Meter, on_delete=models.DO_NOTHING, db_constraint=False, db_index=False
    )
    quarter_start = models.DateTimeField(help_text="start of the UTC quarter hour, included")
    model = models.TextField(db_collation="C", help_text="`data.model`; empty when there is none")
    quantity = models.DecimalField(
        max_digits=40, decimal_places=0, help_text="in the meter's smallest unit"
    )
    event_count = models.BigIntegerField(help_text="events that gave a value, less those voided")

    class Meta:
        indexes = [
            BrinIndex(
                fields=("quarter_start",),
                name="usage_quarter_brin",
                pages_per_range=32,
                autosummarize=True,
            ),
        ]

    def __str__(self) -> str:
        return f"{self.subject} {self.meter_id} {self.quarter_start:%Y-%m-%d %H:%M} {self.model}"


class QuarterReading(models.Model):
    """What events of a max, unique or latest meter said in one UTC quarter hour, and how often.

    These do not add up, so every different value is kept: of a max meter each number, of a unique
    meter each name, of a latest meter each event. A value that was voided as often as it was said
    counts no more.
    """

    pk = models.CompositePrimaryKey(
        "subject", "meter_id", "quarter_start", "model", "number", "name", "event_id"
    )
    subject = models.TextField(db_collation="C", help_text="the customer's external id")
    meter = models.ForeignKey(
        Meter, on_delete=models.DO_NOTHING, db_constraint=False, db_index=False
    )
    quarter_start = models.DateTimeField(help_text="start of the UTC quarter hour, included")
    model = models.TextField(db_collation="C", help_text="`data.model`; empty when there is none")
    number = models.DecimalField(
        max_digits=40, decimal_places=0, help_text="in the meter's smallest unit; 0 for a name"
    )
    name = models.BinaryField(max_length=16, help_text="of the name's text; empty for a number")
    event_id = models.BigIntegerField(
        help_text="id of the event of a latest meter, void or not the original's; else 0"
    )
    occurred_at = models.DateTimeField(null=True, help_text="of that event; else empty")
    event_count = models.BigIntegerField(help_text="events that said it, less those voided")

    class Meta:
        indexes = [
            BrinIndex(
                fields=("quarter_start",),
                name="usage_reading_brin",
                pages_per_range=32,
                autosummarize=True,
            ),
        ]

    def __str__(self) -> str:
        return f"{self.subject} {self.meter_id} {self.quarter_start:%Y-%m-%d %H:%M} {self.number}"


class RunHour(models.Model):
    """A flush run folded events of this UTC hour: where to look for the events themselves."""

    pk = models.CompositePrimaryKey("hour", "run_id")
    hour = models.DateTimeField(help_text="start of the UTC hour, included")
    run = models.ForeignKey(
        FlushRun, on_delete=models.DO_NOTHING, db_constraint=False, db_index=False
    )

    def __str__(self) -> str:
        return f"{self.hour:%Y-%m-%d %H:00} run {self.run_id}"
