"""The legal moves as they are with replacements and the stream; decisions are insert-only, too.

The table of moves is a copy of `usage.lifecycle.MOVES` as it was when this migration was written;
a later change of the moves needs a later migration, and a test holds the two equal.
"""

from django.db import migrations

MOVES = """
CREATE OR REPLACE FUNCTION usage_legal_move() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_OP = 'DELETE' OR NOT (
        NEW.state = OLD.state OR (OLD.state, NEW.state) IN (
            ('ready', 'sending'), ('ready', 'superseded'), ('ready', 'expired'),
            %s
            ('sending', 'accepted'), ('sending', 'retry'), ('sending', 'in_doubt'),
            ('sending', 'rejected'), ('sending', 'unproven'),
            ('retry', 'sending'), ('retry', 'unproven'), ('retry', 'expired'),
            ('in_doubt', 'sending'), ('in_doubt', 'unproven'),
            ('accepted', 'settled'), ('accepted', 'rejected'), ('accepted', 'unproven'),
            ('unproven', 'accepted'), ('unproven', 'superseded'), ('unproven', 'written_off'),
            ('rejected', 'superseded'), ('rejected', 'written_off'),
            ('expired', 'superseded'), ('expired', 'written_off')
        )
    ) THEN
        RAISE EXCEPTION 'submission %% may not go from %% to %%',
            OLD.submission_id, OLD.state, CASE WHEN TG_OP = 'DELETE' THEN 'nothing' ELSE NEW.state END
            USING ERRCODE = 'integrity_constraint_violation';
    END IF;
    RETURN NEW;
END $$;
"""

FORWARD = (
    MOVES % "('ready', 'unproven'), ('retry', 'superseded'),"
    + """
CREATE TRIGGER usage_replacement_insert_only BEFORE UPDATE OR DELETE ON usage_replacement
    FOR EACH ROW EXECUTE FUNCTION usage_refuse_change();
"""
)
BACKWARD = (
    MOVES % ""
    + """
DROP TRIGGER usage_replacement_insert_only ON usage_replacement;
"""
)


class Migration(migrations.Migration):
    dependencies = [("usage", "0003_delivery_in_full")]

    operations = [migrations.RunSQL(FORWARD, BACKWARD)]
