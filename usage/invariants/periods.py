"""What must hold around the ends of billing periods, asked of usage's tables."""

from __future__ import annotations

from usage.invariants.invariant import Invariant

PERIOD_INVARIANTS = (
    Invariant(
        "I13a",
        "No submission reaches across a boundary that was known, and cut at, before it was made.",
        # What replaced usage in doubt keeps the segment of what it replaced; that one had a case.
        """
        SELECT 'submission ' || submission.identifier
        FROM usage_submission submission
        JOIN usage_submissionstate standing ON standing.submission_id = submission.id
        JOIN billing_meter meter ON meter.id = submission.meter_id
        JOIN billing_periodboundary boundary
          ON boundary.customer_id = submission.customer_id
         AND boundary.at > submission.segment_start AND boundary.at <= submission.timestamp
         AND boundary.recut_at < submission.created_at
        LEFT JOIN usage_replacement replaced ON replaced.id = submission.replaces_id
        WHERE standing.state <> 'superseded' AND meter.aggregation IN ('sum', 'count')
          AND (submission.replaces_id IS NULL OR replaced.kind = 'refold')
        """,
    ),
    Invariant(
        "I18a",
        "No call was begun for usage of a period whose invoice was known to be final.",
        """
        SELECT 'submission ' || submission.identifier || ' attempt ' || attempt.number
        FROM usage_attempt attempt
        JOIN usage_submission submission ON submission.id = attempt.submission_id
        JOIN billing_periodboundary boundary
          ON boundary.customer_id = submission.customer_id
         AND boundary.at > submission.timestamp
         AND boundary.closed_at < attempt.started_at
        """,
    ),
    Invariant(
        "I18b",
        "Late usage is held with a case that is open, once both were reported.",
        """
        SELECT 'held row ' || held.id
        FROM usage_heldusage held
        JOIN billing_customer customer ON customer.external_id = held.subject
        JOIN billing_meter meter ON meter.id = held.meter_id
        WHERE held.released_at IS NULL AND held.reason = 'late'
          AND held.held_at < statement_timestamp() - interval '15 minutes'
          AND NOT EXISTS (
              SELECT FROM billing_case opened
              WHERE opened.kind = 'late' AND opened.closed_at IS NULL
                AND opened.reference
                    LIKE meter.slug || ' of customer ' || customer.id || ' until %%'
          )
        """,
    ),
)
"""I13a and I18a may be asked at any moment; I18b allows a flush pass to write its cases."""
