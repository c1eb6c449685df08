"""What must hold of Stripe's error reports (I20), in the form of `usage.invariants`."""

from __future__ import annotations

from usage.invariants.invariant import Invariant

REPORT_INVARIANTS = (
    Invariant(
        "I20",
        "What a report counts is what it names of ours and of others, and its unsampled rest.",
        """
        SELECT 'report ' || report.stripe_event_id
        FROM usage_errorreport report
        LEFT JOIN usage_errorreporttype type ON type.report_id = report.id
        LEFT JOIN usage_errorreportsample sample ON sample.type_id = type.id
        GROUP BY report.id
        HAVING report.error_count
                <> report.named_count + report.foreign_count + report.unsampled_count
            OR count(DISTINCT sample.submission_id) <> report.named_count
            OR count(DISTINCT sample.identifier)
                FILTER (WHERE sample.submission_id IS NULL AND sample.identifier <> '')
                <> report.foreign_count
            OR report.error_count < (
                SELECT coalesce(sum(each.error_count), 0) FROM usage_errorreporttype each
                WHERE each.report_id = report.id)
        """,
    ),
    Invariant(
        "I20a",
        "A webhook that told of a report has had its one effect: the report is stored.",
        """
        SELECT 'webhook ' || webhook.stripe_event_id
        FROM billing_webhookevent webhook
        WHERE webhook.state = 'processed'
          AND webhook.type IN ('v1.billing.meter.error_report_triggered',
                               'v1.billing.meter.no_meter_found')
          AND NOT EXISTS (SELECT FROM usage_errorreport report
                          WHERE report.stripe_event_id = webhook.stripe_event_id)
        """,
    ),
    Invariant(
        "I20b",
        "A submission that a report rejected counts as taken nowhere.",
        """
        SELECT 'submission ' || submission.identifier
        FROM usage_errorreportsample sample
        JOIN usage_submission submission ON submission.id = sample.submission_id
        JOIN usage_submissionstate standing ON standing.submission_id = submission.id
        WHERE sample.effect = 'rejected'
          AND standing.state NOT IN ('rejected', 'superseded', 'written_off')
        """,
    ),
    Invariant(
        "I20c",
        "A report is closed only when nothing it can mean is without an end.",
        """
        SELECT 'report ' || report.stripe_event_id
        FROM usage_errorreport report
        WHERE report.unsampled_count > 0 AND report.closed_at IS NOT NULL AND EXISTS (
            SELECT FROM usage_attempt attempt
            JOIN usage_submissionstate standing ON standing.submission_id = attempt.submission_id
            WHERE attempt.started_at >= report.attempts_from
              AND attempt.started_at < report.attempts_until
              AND (report.meter_id IS NULL OR standing.meter_id = report.meter_id)
              AND standing.state IN
                  ('ready', 'sending', 'retry', 'in_doubt', 'accepted', 'unproven'))
        """,
    ),
)
