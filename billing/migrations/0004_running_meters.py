"""What a meter can make of many events."""

from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [
        ("billing", "0003_period_ends"),
    ]

    operations = [
        migrations.AlterField(
            model_name="meter",
            name="aggregation",
            field=models.CharField(
                choices=[
                    ("sum", "sum"),
                    ("count", "count"),
                    ("max", "largest"),
                    ("unique", "number of different ones"),
                    ("latest", "latest"),
                ],
                max_length=10,
            ),
        ),
        migrations.AlterField(
            model_name="meterversion",
            name="value_property",
            field=models.CharField(
                blank=True,
                help_text="the key of `data` that is read; empty for count",
                max_length=100,
            ),
        ),
    ]
