"""What the database itself enforces: facts are never changed, states move legally, claims hold.

A rule kept here survives every bug and every hand in psql. The table of legal moves is a copy of
`usage.lifecycle.MOVES` as it was when this migration was written; a later change of the moves
needs a later migration, and a test holds the two equal.
"""

from django.db import migrations

FORWARD = """
-- The key (source_id, event_id) is the event table's only B-tree; lookups by id use the BRIN.
ALTER TABLE usage_usageevent DROP CONSTRAINT usage_usageevent_pkey;

CREATE FUNCTION usage_refuse_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION '% is insert-only: a correction is a new row', TG_TABLE_NAME
        USING ERRCODE = 'integrity_constraint_violation';
END $$;
CREATE TRIGGER usage_event_insert_only BEFORE UPDATE OR DELETE ON usage_usageevent
    FOR EACH ROW EXECUTE FUNCTION usage_refuse_change();
CREATE TRIGGER usage_submission_insert_only BEFORE UPDATE OR DELETE ON usage_submission
    FOR EACH ROW EXECUTE FUNCTION usage_refuse_change();

-- A batch belongs to at most one run, for ever; nothing else of it changes.
CREATE FUNCTION usage_batch_claimed_once() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_OP = 'DELETE' OR OLD.run_id IS NOT NULL
       OR (OLD.id, OLD.source_id, OLD.received_at, OLD.event_count, OLD.checksum)
          IS DISTINCT FROM (NEW.id, NEW.source_id, NEW.received_at, NEW.event_count, NEW.checksum)
    THEN
        RAISE EXCEPTION 'batch % is claimed once and never changed', OLD.id
            USING ERRCODE = 'integrity_constraint_violation';
    END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER usage_batch_claimed_once BEFORE UPDATE OR DELETE ON usage_ingestbatch
    FOR EACH ROW EXECUTE FUNCTION usage_batch_claimed_once();

-- An attempt's outcome is learned once; a late worker cannot overwrite it.
CREATE FUNCTION usage_attempt_ends_once() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_OP = 'DELETE' OR OLD.outcome IS NOT NULL
       OR (OLD.submission_id, OLD.number, OLD.started_at)
          IS DISTINCT FROM (NEW.submission_id, NEW.number, NEW.started_at)
    THEN
        RAISE EXCEPTION 'attempt % of submission % has ended', OLD.number, OLD.submission_id
            USING ERRCODE = 'integrity_constraint_violation';
    END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER usage_attempt_ends_once BEFORE UPDATE OR DELETE ON usage_attempt
    FOR EACH ROW EXECUTE FUNCTION usage_attempt_ends_once();

CREATE FUNCTION usage_legal_move() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_OP = 'DELETE' OR NOT (
        NEW.state = OLD.state OR (OLD.state, NEW.state) IN (
            ('ready', 'sending'), ('ready', 'superseded'), ('ready', 'expired'),
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
        RAISE EXCEPTION 'submission % may not go from % to %',
            OLD.submission_id, OLD.state, CASE WHEN TG_OP = 'DELETE' THEN 'nothing' ELSE NEW.state END
            USING ERRCODE = 'integrity_constraint_violation';
    END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER usage_legal_move BEFORE UPDATE OR DELETE ON usage_submissionstate
    FOR EACH ROW EXECUTE FUNCTION usage_legal_move();

-- Small rows that move often: room on their page for the new version, and an eager vacuum.
ALTER TABLE usage_submissionstate SET (fillfactor = 60, autovacuum_vacuum_scale_factor = 0.01);
ALTER TABLE usage_ingestbatch SET (fillfactor = 90, autovacuum_vacuum_scale_factor = 0.01);
"""

BACKWARD = """
ALTER TABLE usage_ingestbatch RESET (fillfactor, autovacuum_vacuum_scale_factor);
ALTER TABLE usage_submissionstate RESET (fillfactor, autovacuum_vacuum_scale_factor);
DROP FUNCTION usage_legal_move() CASCADE;
DROP FUNCTION usage_attempt_ends_once() CASCADE;
DROP FUNCTION usage_batch_claimed_once() CASCADE;
DROP FUNCTION usage_refuse_change() CASCADE;
ALTER TABLE usage_usageevent ADD CONSTRAINT usage_usageevent_pkey PRIMARY KEY (id);
"""


class Migration(migrations.Migration):
    dependencies = [("usage", "0001_initial")]

    operations = [migrations.RunSQL(FORWARD, BACKWARD)]
