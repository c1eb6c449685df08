"""A customer tied to another one at Stripe keeps the ids it had: usage may have been sent there."""

import django.contrib.postgres.fields
from django.db import migrations, models

REMEMBER = """
CREATE FUNCTION billing_customer_remember_stripe_id() RETURNS trigger AS $$
BEGIN
    NEW.former_stripe_ids := OLD.former_stripe_ids;
    IF OLD.stripe_customer_id IS DISTINCT FROM NEW.stripe_customer_id
       AND OLD.stripe_customer_id IS NOT NULL THEN
        NEW.former_stripe_ids := array_append(
            array_remove(OLD.former_stripe_ids, OLD.stripe_customer_id), OLD.stripe_customer_id
        );
    END IF;
    RETURN NEW;
END
$$ LANGUAGE plpgsql;
CREATE TRIGGER billing_customer_remember_stripe_id BEFORE UPDATE ON billing_customer
    FOR EACH ROW EXECUTE FUNCTION billing_customer_remember_stripe_id();
"""
FORGET = """
DROP TRIGGER billing_customer_remember_stripe_id ON billing_customer;
DROP FUNCTION billing_customer_remember_stripe_id();
"""


class Migration(migrations.Migration):
    dependencies = [
        ("billing", "0007_key_spending"),
    ]

    operations = [
        migrations.AddField(
            model_name="customer",
            name="former_stripe_ids",
            field=django.contrib.postgres.fields.ArrayField(
                base_field=models.CharField(max_length=255),
                blank=True,
                default=list,
                editable=False,
                help_text="whom it was tied to at Stripe before, oldest first; kept by the database",
                size=None,
            ),
        ),
        migrations.RunSQL(REMEMBER, FORGET),
    ]
