"""The running values of max, unique and latest meters."""

import django.db.models.deletion
import django.utils.timezone
from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [
        ("billing", "0004_running_meters"),
        ("usage", "0008_error_reports"),
    ]

    operations = [
        migrations.AlterField(
            model_name="heldusage",
            name="reason",
            field=models.CharField(
                choices=[
                    ("unknown_customer", "no customer with this external id"),
                    ("customer_not_at_stripe", "the customer has no Stripe id yet"),
                    ("meter_not_at_stripe", "the meter has no Stripe id yet"),
                    ("late", "the invoice of its period is final"),
                    ("period_full", "no second is left in the period for another running value"),
                    ("ahead", "the next running value would be further ahead than Stripe takes"),
                ],
                max_length=30,
            ),
        ),
        migrations.CreateModel(
            name="RunningValue",
            fields=[
                (
                    "id",
                    models.BigAutoField(
                        auto_created=True, primary_key=True, serialize=False, verbose_name="ID"
                    ),
                ),
                (
                    "period_start",
                    models.DateTimeField(help_text="included; the epoch before the first boundary"),
                ),
                (
                    "value",
                    models.DecimalField(
                        decimal_places=0,
                        default=0,
                        help_text="in the meter's smallest unit; 0 without events",
                        max_digits=15,
                    ),
                ),
                (
                    "latest_at",
                    models.DateTimeField(
                        help_text="`occurred_at` of its latest event; empty without events",
                        null=True,
                    ),
                ),
                (
                    "latest_event_id",
                    models.BigIntegerField(
                        help_text="id of that event, which decides among those of one instant",
                        null=True,
                    ),
                ),
                (
                    "reached_at",
                    models.DateTimeField(
                        help_text="the latest instant that an event or submission of it has",
                        null=True,
                    ),
                ),
                (
                    "stale",
                    models.BooleanField(
                        default=False,
                        help_text="to be counted again: an event was taken back, or the period cut",
                    ),
                ),
                ("changed_at", models.DateTimeField(default=django.utils.timezone.now)),
                (
                    "customer",
                    models.ForeignKey(
                        db_index=False,
                        on_delete=django.db.models.deletion.PROTECT,
                        to="billing.customer",
                    ),
                ),
                (
                    "meter",
                    models.ForeignKey(
                        db_index=False,
                        on_delete=django.db.models.deletion.PROTECT,
                        to="billing.meter",
                    ),
                ),
            ],
            options={
                "ordering": ("customer", "meter", "period_start"),
            },
        ),
        migrations.CreateModel(
            name="RunningName",
            fields=[
                (
                    "pk",
                    models.CompositePrimaryKey(
                        "running_id",
                        "digest",
                        blank=True,
                        editable=False,
                        primary_key=True,
                        serialize=False,
                    ),
                ),
                ("digest", models.BinaryField(help_text="of the name's text", max_length=16)),
                (
                    "running",
                    models.ForeignKey(
                        db_index=False,
                        on_delete=django.db.models.deletion.CASCADE,
                        related_name="names",
                        to="usage.runningvalue",
                    ),
                ),
            ],
        ),
        migrations.AddIndex(
            model_name="runningvalue",
            index=models.Index(
                condition=models.Q(("stale", True)), fields=["id"], name="usage_running_stale"
            ),
        ),
        migrations.AddConstraint(
            model_name="runningvalue",
            constraint=models.UniqueConstraint(
                fields=("customer", "meter", "period_start"), name="usage_running_once"
            ),
        ),
    ]
