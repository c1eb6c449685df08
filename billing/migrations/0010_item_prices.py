"""Which price an item had when; for those that are there, known from its present period on."""

import django.db.models.deletion
from django.db import migrations, models

KNOWN = """
INSERT INTO billing_itemprice (subscription_id, stripe_item_id, price_id, since, until)
SELECT subscription_id, stripe_item_id, price_id, current_period_start,
       -- By itself, greatest() would skip a NULL.
       CASE WHEN ended_at IS NOT NULL THEN greatest(ended_at, current_period_start) END
FROM billing_subscriptionitem item
JOIN billing_subscription subscription ON subscription.id = item.subscription_id
"""


class Migration(migrations.Migration):
    dependencies = [
        ("billing", "0009_webhook_sweeps"),
    ]

    operations = [
        migrations.AddField(
            model_name="subscription",
            name="billing_anchor",
            field=models.DateTimeField(
                blank=True,
                editable=False,
                help_text="what Stripe counts its billing periods from; empty until it is next asked",
                null=True,
            ),
        ),
        migrations.AddField(
            model_name="subscriptionitem",
            name="quantity",
            field=models.PositiveBigIntegerField(
                default=1,
                help_text="how many of a base fee; a metered price has none and stays at 1",
            ),
        ),
        migrations.CreateModel(
            name="ItemPrice",
            fields=[
                (
                    "id",
                    models.BigAutoField(
                        auto_created=True, primary_key=True, serialize=False, verbose_name="ID"
                    ),
                ),
                ("stripe_item_id", models.CharField(max_length=255)),
                ("since", models.DateTimeField(help_text="included")),
                (
                    "until",
                    models.DateTimeField(
                        blank=True, help_text="not included; empty while the item has it", null=True
                    ),
                ),
                (
                    "price",
                    models.ForeignKey(
                        on_delete=django.db.models.deletion.PROTECT,
                        related_name="item_prices",
                        to="billing.price",
                    ),
                ),
                (
                    "subscription",
                    models.ForeignKey(
                        on_delete=django.db.models.deletion.CASCADE,
                        related_name="item_prices",
                        to="billing.subscription",
                    ),
                ),
            ],
            options={
                "ordering": ("stripe_item_id", "since", "id"),
                "constraints": [
                    models.UniqueConstraint(
                        condition=models.Q(("until__isnull", True)),
                        fields=("stripe_item_id",),
                        name="billing_itemprice_one_in_force",
                    ),
                    models.CheckConstraint(
                        condition=models.Q(
                            ("until__isnull", True),
                            ("until__gte", models.F("since")),
                            _connector="OR",
                        ),
                        name="billing_itemprice_not_backwards",
                    ),
                ],
            },
        ),
        migrations.RunSQL(KNOWN, migrations.RunSQL.noop),
    ]
