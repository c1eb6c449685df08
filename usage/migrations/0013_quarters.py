"""The read model of usage by quarter hours."""

import django.contrib.postgres.indexes
import django.db.models.deletion
from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [
        ("billing", "0006_key_limits"),
        ("usage", "0012_backfills_and_lists"),
    ]

    operations = [
        migrations.CreateModel(
            name="RunHour",
            fields=[
                (
                    "pk",
                    models.CompositePrimaryKey(
                        "hour",
                        "run_id",
                        blank=True,
                        editable=False,
                        primary_key=True,
                        serialize=False,
                    ),
                ),
                ("hour", models.DateTimeField(help_text="start of the UTC hour, included")),
                (
                    "run",
                    models.ForeignKey(
                        db_constraint=False,
                        db_index=False,
                        on_delete=django.db.models.deletion.DO_NOTHING,
                        to="usage.flushrun",
                    ),
                ),
            ],
        ),
        migrations.CreateModel(
            name="QuarterReading",
            fields=[
                (
                    "pk",
                    models.CompositePrimaryKey(
                        "subject",
                        "meter_id",
                        "quarter_start",
                        "model",
                        "number",
                        "name",
                        "event_id",
                        blank=True,
                        editable=False,
                        primary_key=True,
                        serialize=False,
                    ),
                ),
                (
                    "subject",
                    models.TextField(db_collation="C", help_text="the customer's external id"),
                ),
                (
                    "quarter_start",
                    models.DateTimeField(help_text="start of the UTC quarter hour, included"),
                ),
                (
                    "model",
                    models.TextField(
                        db_collation="C", help_text="`data.model`; empty when there is none"
                    ),
                ),
                (
                    "number",
                    models.DecimalField(
                        decimal_places=0,
                        help_text="in the meter's smallest unit; 0 for a name",
                        max_digits=40,
                    ),
                ),
                (
                    "name",
                    models.BinaryField(
                        help_text="of the name's text; empty for a number", max_length=16
                    ),
                ),
                (
                    "event_id",
                    models.BigIntegerField(
                        help_text="id of the event of a latest meter, void or not the original's; else 0"
                    ),
                ),
                (
                    "occurred_at",
                    models.DateTimeField(help_text="of that event; else empty", null=True),
                ),
                (
                    "event_count",
                    models.BigIntegerField(help_text="events that said it, less those voided"),
                ),
                (
                    "meter",
                    models.ForeignKey(
                        db_constraint=False,
                        db_index=False,
                        on_delete=django.db.models.deletion.DO_NOTHING,
                        to="billing.meter",
                    ),
                ),
            ],
            options={
                "indexes": [
                    django.contrib.postgres.indexes.BrinIndex(
                        autosummarize=True,
                        fields=["quarter_start"],
                        name="usage_reading_brin",
                        pages_per_range=32,
                    )
                ],
            },
        ),
        migrations.CreateModel(
            name="QuarterUsage",
            fields=[
                (
                    "pk",
                    models.CompositePrimaryKey(
                        "subject",
                        "meter_id",
                        "quarter_start",
                        "model",
                        blank=True,
                        editable=False,
                        primary_key=True,
                        serialize=False,
                    ),
                ),
                (
                    "subject",
                    models.TextField(
                        db_collation="C", help_text="the customer's external id, known to us or not"
                    ),
                ),
                (
                    "quarter_start",
                    models.DateTimeField(help_text="start of the UTC quarter hour, included"),
                ),
                (
                    "model",
                    models.TextField(
                        db_collation="C", help_text="`data.model`; empty when there is none"
                    ),
                ),
                (
                    "quantity",
                    models.DecimalField(
                        decimal_places=0, help_text="in the meter's smallest unit", max_digits=40
                    ),
                ),
                (
                    "event_count",
                    models.BigIntegerField(help_text="events that gave a value, less those voided"),
                ),
                (
                    "meter",
                    models.ForeignKey(
                        db_constraint=False,
                        db_index=False,
                        on_delete=django.db.models.deletion.DO_NOTHING,
                        to="billing.meter",
                    ),
                ),
            ],
            options={
                "indexes": [
                    django.contrib.postgres.indexes.BrinIndex(
                        autosummarize=True,
                        fields=["quarter_start"],
                        name="usage_quarter_brin",
                        pages_per_range=32,
                    )
                ],
            },
        ),
        # A busy row is written by each flush of its quarter: with room on its page that costs no
        # index.
        migrations.RunSQL(
            "ALTER TABLE usage_quarterusage SET (fillfactor = 80)",
            "ALTER TABLE usage_quarterusage RESET (fillfactor)",
        ),
    ]
