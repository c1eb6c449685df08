"""The planted bugs: mistakes that cost money, and the directed test that finds each (G11).

Random search is no gate: a model of this machine let four of eighteen mistakes pass twenty seeds.
So each mistake somebody may make stands here with a test that was written against it. A bug says
what is wrong, what that would cost, and by which words it is put in place; the test must fail.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from django.core.exceptions import ObjectDoesNotExist

from tests.planted.planting import Change, Value, Words
from usage.rejections import StillSending

DELIVERY = "tests/usage/test_delivery.py::test_"
STREAM = "tests/usage/test_delivery_stream.py::test_"
REPEATS = "tests/usage/test_delivery_repeats.py::test_"
LIMITS = "tests/usage/test_delivery_limits.py::test_"
FLUSH = "tests/usage/test_flush.py::test_"
FLUSH_RACES = "tests/usage/test_flush_races.py::test_"
STORING = "tests/usage/test_storing.py::test_"
SHARING = "tests/usage/test_commit_sharing.py::test_"
INGESTION = "tests/usage/test_ingestion.py::test_"
EVENTS_API = "tests/usage/test_events_api.py::test_"
LATENESS = "tests/usage/test_lateness.py::test_"
RECUTTING = "tests/usage/test_recutting.py::test_"
REJECTIONS = "tests/usage/test_rejections.py::test_"
REPLACING = "tests/usage/test_replacing.py::test_"
SETTLEMENT = "tests/usage/test_settlement.py::test_"
RUNNING = "tests/usage/test_running.py::test_"
VOIDING = "tests/usage/test_voiding.py::test_"
FENCE = "tests/usage/test_fence.py::test_"
METERS = "tests/billing/test_meter_checks.py::test_"
SWEEP = "tests/billing/test_webhook_sweep.py::test_"
FORGERIES = "tests/billing/test_webhook_forgeries.py::test_"
NO_FORGERY = "of_ten_thousand_forgeries_none_is_taken_and_the_genuine_ones_between_them_are"
RUNS = "tests/reconciliation/test_runs.py::test_"


@dataclass(frozen=True, slots=True)
class Bug:
    """A mistake: what is wrong, what it would cost, and the tests each of which must find it.

    A test finds it by an assertion, or by one of the errors in `shows_as`. `refusal` are words
    the database says when a guard of its own refuses the mistake before the test can look.
    """

    name: str
    wrong: str
    cost: str
    changes: tuple[Change, ...]
    tests: tuple[str, ...]
    shows_as: tuple[type[Exception], ...] = ()
    refusal: str = ""


def _everything(endpoint: Any, *, want: int, now: Any) -> int:
    return want


SENDING = (
    Bug(
        "new_identifier_per_retry",
        "Each attempt of a submission bears an identifier of its own.",
        "Double billing after every lost answer.",
        (
            Words(
                "usage.calling:_over_v1",
                "json.loads(claim.payload),",
                'json.loads(claim.payload) | {"identifier": f"{claim.attempt_number}"},',
            ),
        ),
        (DELIVERY + "a_lost_answer_is_a_doubt_and_the_repetition_proves_it_arrived[answer_lost]",),
    ),
    Bug(
        "accepted_before_the_call",
        "A submission is marked accepted when it is claimed, before its call.",
        "Loss of whatever a worker had claimed when it died.",
        (
            Words(
                "usage.claiming:_CLAIM",
                "state = 'sending', wire = %(wire)s,",
                "state = 'accepted', wire = %(wire)s,",
            ),
            Words("usage.claiming:_CLAIM", "lease_until = %(lease_until)s,", "lease_until = NULL,"),
        ),
        (DELIVERY + "a_worker_that_dies_before_the_call_leaves_a_doubt",),
        refusal="may not go from ready to accepted",
    ),
    Bug(
        "known_identifier_is_an_error",
        "Stripe's answer that it knows the identifier is taken for a refusal.",
        "Usage that is billed goes to a person as lost, who sends it again.",
        (
            Words(
                "billing.gateway.meter_events:send",
                "return Receipt(is_duplicate=True, request_id=known.request_id)",
                "raise errors.told_as(errors.Rejected, known) from known",
            ),
        ),
        (DELIVERY + "a_lost_answer_is_a_doubt_and_the_repetition_proves_it_arrived[answer_lost]",),
    ),
    Bug(
        "timeout_is_a_failure",
        "A call without an answer counts as not taken, so it may be superseded and sent anew.",
        "Double billing of every answer that was lost.",
        (
            Words(
                "usage.calling:_put_off",
                "Outcome.UNKNOWN, State.IN_DOUBT",
                "Outcome.NOT_ACCEPTED, State.RETRY",
            ),
        ),
        (
            DELIVERY
            + "a_lost_answer_is_a_doubt_and_the_repetition_proves_it_arrived[reset_mid_body]",
        ),
    ),
    Bug(
        "timeout_is_a_success",
        "A call without an answer counts as taken.",
        "Loss of every request that never got there.",
        (
            Words(
                "usage.calling:_put_off",
                "Outcome.UNKNOWN, State.IN_DOUBT",
                "Outcome.ACCEPTED, State.ACCEPTED",
            ),
        ),
        (DELIVERY + "a_request_that_got_nowhere_is_a_doubt_and_the_repetition_is_taken[503]",),
    ),
    Bug(
        "refused_for_now_is_for_good",
        "A 429 is taken for a final refusal.",
        "Loss, or work for a person, whenever the limit is met.",
        (
            Words(
                "usage.calling:_put_off",
                "Outcome.NOT_ACCEPTED, State.RETRY",
                "Outcome.REJECTED, State.REJECTED",
            ),
        ),
        (DELIVERY + "a_refusal_for_now_is_no_doubt[429]",),
    ),
    Bug(
        "refused_for_now_is_a_doubt",
        "A call known not to be taken starts the clock of a doubt.",
        "A day of refusals ends in cases and replacements instead of one more try.",
        (
            Words(
                "usage.calling:_put_off",
                "Outcome.NOT_ACCEPTED, State.RETRY",
                "Outcome.UNKNOWN, State.IN_DOUBT",
            ),
        ),
        (DELIVERY + "a_refusal_for_now_is_no_doubt[429]",),
    ),
    Bug(
        "unknown_refusal_is_for_good",
        "A 400 nobody has seen before counts as a final refusal.",
        "Usage that may be billed is taken for refused, and sent again by a person.",
        (
            Words(
                "billing.gateway.meter_events:send",
                "if refusal.message.startswith(FINAL_REFUSALS):",
                "if not refusal.message.startswith(NO_METER):",
            ),
        ),
        (DELIVERY + "a_refusal_nobody_knows_stays_in_doubt",),
    ),
    Bug(
        "refusal_decides_about_earlier_attempts",
        "A final refusal rejects a submission of which an earlier attempt is in doubt.",
        "Double billing, when a person sends again what the first attempt had brought.",
        (Words("usage.calling:_refused", "if claim.doubt_since is None", "if True"),),
        (DELIVERY + "a_refusal_after_a_doubt_proves_nothing",),
    ),
    Bug(
        "fixed_idempotency_key",
        "All attempts of a submission share an Idempotency-Key.",
        "A stall: Stripe replays a stored 500 for a day, and then the doubt is too old.",
        (
            Words(
                "billing.gateway.meter_events:new_idempotency_key",
                'f"{identifier}.{uuid.uuid4().hex}"',
                "identifier",
            ),
        ),
        (DELIVERY + "a_stored_500_does_not_come_back_for_ever",),
    ),
    Bug(
        "no_lease_check_before_the_write",
        "A worker that slept past its lease sends all the same.",
        "Double billing, when it wakes after the day in which Stripe knows the identifier.",
        (Words("usage.calling:_lease_of", "time.monotonic() >= claim.lease_ends", "False"),),
        (
            DELIVERY + "a_worker_that_sleeps_past_its_lease_does_not_send",
            STREAM + "a_worker_that_sleeps_past_its_lease_streams_nothing",
        ),
    ),
    Bug(
        "lease_counted_from_after_the_clock",
        "The lease is counted from after the instant was read by which doubts are judged.",
        "Double billing by a worker that was stopped between the two.",
        (
            Words(
                "usage.claiming:claim",
                "    now = clock()",
                "    now = clock()\n    lease_ends = time.monotonic() + settings.USAGE_LEASE_SECONDS",
            ),
        ),
        (DELIVERY + "a_worker_stopped_while_it_read_the_clock_does_not_send",),
    ),
    Bug(
        "late_outcome_unfenced",
        "An outcome is written although another attempt has begun since.",
        "A doubt of the newer attempt is overwritten: loss, or double billing by a person.",
        (
            Words(
                "usage.outcomes:_RECORD",
                "standing.state = 'sending' AND standing.attempt_count = news.number",
                "standing.state = 'sending'",
            ),
        ),
        (DELIVERY + "a_late_outcome_changes_nothing",),
    ),
    Bug(
        "late_outcome_ends_a_doubt",
        "An outcome is written although the sweep has given the claim up.",
        "A doubt is forgotten: the 23 hours are counted anew, and Stripe's memory is shorter.",
        (
            Words(
                "usage.outcomes:_RECORD",
                "standing.state = 'sending' AND standing.attempt_count = news.number",
                "standing.attempt_count = news.number",
            ),
        ),
        (DELIVERY + "a_late_outcome_does_not_end_a_doubt",),
        refusal="may not go from in_doubt to retry",
    ),
    Bug(
        "two_calls_of_one_pair_in_a_claim",
        "A claim takes several submissions of one customer and meter.",
        "A stall: Stripe refuses, and our own index, all but one of them.",
        (Words("usage.claiming:_TAKE", "DISTINCT ON (customer_id, meter_id)", ""),),
        (DELIVERY + "one_pair_has_one_call_in_flight_and_others_go_on",),
    ),
    Bug(
        "wire_changed_between_attempts",
        "A doubt of the stream is repeated over v1.",
        "Double billing, if the two do not know each other's identifiers.",
        (
            Words(
                "usage.delivery:_lanes",
                "Lane(Wire.STREAM, Wire.STREAM)",
                "Lane(Wire.STREAM, Wire.V1)",
            ),
        ),
        (STREAM + "a_doubt_on_the_stream_is_repeated_on_the_stream[answer_lost]",),
    ),
    Bug(
        "expired_session_is_a_doubt",
        "A refused session token is taken for a call whose outcome is unknown.",
        "A hundred doubts every quarter of an hour.",
        (
            Words(
                "billing.gateway.meter_event_stream:_post",
                "raise _Expired from error",
                'raise errors.Unavailable("the session is over") from error',
            ),
        ),
        (STREAM + "an_expired_session_is_renewed_and_nothing_is_sent_twice",),
    ),
    Bug(
        "payload_unchecked",
        "What is sent is not compared with what was frozen.",
        "One identifier with two values: which of them is billed is chance.",
        (
            Words(
                "usage.calling:call",
                "wire.fingerprint(each.payload) != each.payload_hash",
                "False",
            ),
        ),
        (
            DELIVERY + "a_changed_payload_is_not_sent",
            STREAM + "a_changed_payload_is_not_streamed_and_its_neighbours_are",
        ),
    ),
    Bug(
        "payload_rendered_at_send_time",
        "The payload is rendered again for each attempt, by the clock of the attempt.",
        "One identifier with two payloads, and usage in the period of the retry.",
        (
            Words(
                "usage.calling:_over_v1",
                "json.loads(claim.payload),",
                'json.loads(claim.payload) | {"timestamp": int(claim.started_at.timestamp())},',
            ),
        ),
        (REPEATS + "a_repetition_hours_later_is_the_same_event",),
    ),
    Bug(
        "no_breaker_in_a_pass",
        "A pass goes on however many calls meet silence.",
        "An outage puts the whole backlog in doubt.",
        (Value("usage.health:SILENCES_IN_A_ROW", 10**6),),
        (DELIVERY + "silences_in_a_row_end_the_pass",),
    ),
    Bug(
        "no_breaker_between_passes",
        "Each pass begins with first attempts, although the last calls all met silence.",
        "An outage puts a few more submissions in doubt with every pass, for hours.",
        (Words("usage.health:met_silence", "and all(met)", "and False"),),
        (DELIVERY + "hours_of_outage_put_no_more_into_doubt_than_its_first_pass[503]",),
    ),
    Bug(
        "rate_limit_ignored",
        "Delivery claims and sends without asking the shared limit.",
        "Stripe refuses calls of everybody on the account; delivery crawls.",
        (Value("billing.rate_limits:take", _everything),),
        (LIMITS + "a_pass_sends_no_faster_than_the_shared_limit",),
    ),
    Bug(
        "fence_ignored",
        "A database that was copied or brought back goes on sending.",
        "Double billing of all that was sent since the copy was made.",
        (
            Words("usage.fence:is_open", "return", "return True or"),
            Words("usage.fence:inspect", "here = identity()", "return True"),
        ),
        (
            FENCE + "another_database_or_deployment_sends_nothing_until_lifted"
            "[changed1-The timeline is 000000F2 and was ]",
        ),
    ),
    Bug(
        "modes_mixed",
        "Submissions made for test mode are sent with a live key.",
        "Customers are billed for tests.",
        (Words("usage.claiming:_TAKE", "AND submission.live_mode = %(live_mode)s", ""),),
        (REPEATS + "submissions_of_the_other_mode_stay_when_the_fence_is_lifted",),
    ),
    Bug(
        "formula_unchecked",
        "An hour's total is sent to a meter that counts events.",
        "Loss: a million tokens are billed as one.",
        (Words("billing.meter_checks:objection", "found.formula != formula", "False"),),
        (
            METERS + "a_meter_that_counts_otherwise_is_blocked_with_a_sentence"
            "[fields0-has the formula count; a meter of sum needs sum.]",
        ),
    ),
    Bug(
        "blocked_meter_is_sent_to",
        "What a check found wrong with a meter stops nothing.",
        "Loss, as if nothing had been checked.",
        (
            Words(
                "usage.claiming:_TAKE",
                "AND meter.checked_at IS NOT NULL AND meter.blocked = ''",
                "",
            ),
        ),
        (DELIVERY + "an_inactive_meters_usage_waits_until_it_is_active_again",),
    ),
)

DOUBTS = (
    Bug(
        "no_23_hour_guard",
        "A doubt of any age is claimed again.",
        "Double billing: after a day Stripe no longer knows the identifier.",
        (
            Words(
                "usage.claiming:_TAKE",
                "AND (due.doubt_since IS NULL OR due.doubt_since > %(doubt_ends)s)",
                "",
            ),
        ),
        (DELIVERY + "a_doubt_too_old_is_not_claimed_before_the_sweep_came_by",),
    ),
    Bug(
        "doubt_never_ends",
        "The sweep leaves doubts that are too old where they are.",
        "A stall: nobody asks Stripe's total about them, and no case tells.",
        (
            Words(
                "usage.sweeping:sweep",
                "timedelta(hours=settings.USAGE_DOUBT_HOURS)",
                "timedelta(days=999)",
            ),
        ),
        (DELIVERY + "a_doubt_older_than_stripes_memory_is_never_sent_again",),
    ),
    Bug(
        "doubt_counted_from_the_last",
        "The age of a doubt is counted from its last unknown outcome and not its first.",
        "Double billing, when the first attempt was taken and is forgotten by then.",
        (
            Words(
                "usage.outcomes:_RECORD",
                "coalesce(standing.doubt_since, news.started_at)",
                "news.started_at",
            ),
        ),
        (DELIVERY + "a_doubt_is_counted_from_the_first_unknown_outcome",),
    ),
    Bug(
        "doubt_counted_from_the_answer",
        "The age of a doubt is counted from the end of its call and not from the beginning.",
        "Double billing in the seconds in between, or the hours of a worker that slept.",
        (
            Words(
                "usage.outcomes:_RECORD",
                "coalesce(standing.doubt_since, news.started_at)",
                "coalesce(standing.doubt_since, %(now)s)",
            ),
        ),
        (DELIVERY + "a_doubt_is_counted_from_the_calls_beginning",),
    ),
    Bug(
        "doubt_made_younger_by_a_death",
        "A worker that dies in an old doubt makes it a new one.",
        "Double billing, as long as workers die once a day.",
        (
            Words(
                "usage.sweeping:_STALLED",
                "coalesce(standing.doubt_since, attempt.started_at)",
                "attempt.started_at",
            ),
        ),
        (DELIVERY + "a_worker_that_dies_in_a_doubt_leaves_it_as_old_as_it_was",),
    ),
    Bug(
        "doubt_cleared_by_a_429",
        "A later attempt that is refused for now ends the doubt of an earlier one.",
        "Double billing: what may be there is cut again, or sent after a day.",
        (
            Words(
                "usage.outcomes:_RECORD",
                "WHEN 'accepted' THEN NULL ELSE",
                "WHEN 'accepted' THEN NULL WHEN 'retry' THEN NULL ELSE",
            ),
        ),
        (DELIVERY + "a_refusal_for_now_leaves_an_older_doubt_open",),
    ),
    Bug(
        "silent_expiry",
        "Usage that Stripe takes no more is closed without a case.",
        "Loss that nobody is told of.",
        (
            Words(
                "usage.sweeping:_give_to_a_person",
                "for standing in locked:",
                "for standing in locked if state != State.EXPIRED else ():",
            ),
        ),
        (DELIVERY + "usage_too_old_for_stripe_is_flagged_and_not_sent",),
        shows_as=(ObjectDoesNotExist,),
    ),
    Bug(
        "sent_when_too_old",
        "Usage older than Stripe takes is claimed and sent.",
        "Calls that can only be refused, in the last hour a person could still bill it.",
        (Words("usage.claiming:_TAKE", "submission.timestamp > %(too_old)s AND", ""),),
        (DELIVERY + "usage_too_old_is_not_claimed_before_the_sweep_came_by",),
    ),
    Bug(
        "hasty_replacement",
        "Absence from Stripe's total is believed after an hour.",
        "Double billing whenever totals lag longer than that.",
        (Value("usage.cells:ABSENCE_STABLE_HOURS", 1),),
        (REPLACING + "an_absence_is_not_believed_before_it_is_stable[30]",),
    ),
    Bug(
        "replaced_although_present",
        "What is in doubt is replaced although Stripe's total holds all of it.",
        "Double billing of every doubt that had arrived.",
        (
            Words(
                "usage.cells:Cell._final_decision",
                "return self._all_present()",
                "return Decision(Proof.ABSENT, doubtful)",
            ),
        ),
        (REPLACING + "what_stripe_has_is_never_replaced",),
    ),
    Bug(
        "part_of_it_replaced_whole",
        "Of several in doubt some are at Stripe, and all are sent anew.",
        "Double billing of those that had arrived.",
        (
            Words(
                "usage.cells:Cell._final_decision",
                "Decision(Proof.PARTIAL, doubtful, credit=extra)",
                "Decision(Proof.ABSENT, doubtful)",
            ),
        ),
        (REPLACING + "what_arrived_of_several_is_credited_and_the_rest_sent",),
    ),
    Bug(
        "hour_not_frozen",
        "Usage is added to an hour whose doubt only Stripe's total can settle.",
        "Double billing or loss: the total tells nothing any more.",
        (Words("usage.claiming:_TAKE", "frozen.state = 'unproven'", "frozen.state = 'none'"),),
        (STREAM + "an_hour_with_an_unproven_part_is_not_added_to",),
    ),
    Bug(
        "freeze_outlives_its_cause",
        "An hour once frozen stays so, as by a stored flag, when its doubt is settled (F88).",
        "A stall: the replacement itself is never sent, and no case tells.",
        (
            Words(
                "usage.claiming:_TAKE",
                "frozen.state = 'unproven'",
                "frozen.state IN ('unproven', 'superseded')",
            ),
        ),
        (REPLACING + "a_proven_absence_is_replaced_once_and_billed_once",),
    ),
    Bug(
        "stream_answer_is_proof",
        "A 200 of the stream counts as proof for each of its events.",
        "Loss of whatever Stripe dropped afterwards.",
        (
            Words(
                "usage.cells:Part.is_unverified",
                "return self.state == State.ACCEPTED and self.wire == Wire.STREAM",
                "return False",
            ),
        ),
        (REPLACING + "what_the_stream_dropped_is_replaced_after_36_hours",),
    ),
    Bug(
        "report_rejects_after_several_attempts",
        "An error report rejects a submission of which an earlier attempt may be counted.",
        "Double billing, when a person sends again what is there.",
        (
            Words(
                "usage.rejections:_effect",
                "arrived == [Outcome.ACCEPTED] and not standing.recount",
                "True",
            ),
        ),
        (
            REJECTIONS + "a_named_submission_goes_where_its_calls_allow"
            "[known_before-unproven-unproven-unproven]",
        ),
    ),
    Bug(
        "report_of_a_duplicate_rejects",
        "An error report of a known identifier rejects its submission.",
        "Double billing, when a person sends again what the report proves to be there.",
        (Words("usage.rejections:_is_duplicate", '"duplicate" in code.lower()', "False"),),
        (REJECTIONS + "a_report_of_a_duplicate_never_rejects[duplicate_meter_event]",),
        # For a refusal, but not for a proof, it waits until a call that is under way has ended.
        shows_as=(StillSending,),
    ),
)

FOLDING = (
    Bug(
        "no_dedup_at_ingest",
        "An event reported again is stored again, as with a time in its key.",
        "Double billing of every request a caller repeats.",
        (
            Words(
                "usage.storing:INSERT",
                "SELECT %(source)s, event_id, digest,",
                "SELECT %(source)s, event_id || '#' || batch.id, digest,",
            ),
            Words(
                "usage.storing:INSERT",
                "RETURNING event_id, digest",
                "RETURNING split_part(event_id, '#', 1) AS event_id, digest",
            ),
        ),
        (INGESTION + "a_repetition_is_a_duplicate_and_leaves_no_batch",),
    ),
    Bug(
        "conflict_overwrites",
        "A known id with another payload overwrites the first.",
        "The books change after the bill: what was sent is not what is stored.",
        (
            Words(
                "usage.storing:INSERT",
                "DO NOTHING",
                "DO UPDATE SET digest = EXCLUDED.digest, data = EXCLUDED.data",
            ),
        ),
        (
            INGESTION + "a_known_id_with_another_payload_is_a_conflict_and_the_first_stays"
            "[changed0]",
        ),
        refusal="usage_usageevent is insert-only",
    ),
    Bug(
        "conflict_unseen",
        "A known id with another payload is answered as a repetition.",
        "Loss: the caller believes that its second event is stored.",
        (
            Words(
                "usage.ingestion:accept",
                "if row.digest == before.get(row.event_id, rows[first].digest):",
                "if True:",
            ),
        ),
        (
            INGESTION + "a_known_id_with_another_payload_is_a_conflict_and_the_first_stays"
            "[changed0]",
        ),
    ),
    Bug(
        "copy_failure_overlooked",
        "A copy that met a known event, and wrote nothing, is taken for done.",
        "Loss of all new events of the request, which are answered as stored.",
        (Words("usage.storing:_copied", "return False", "return True"),),
        (STORING + "a_copy_with_one_known_event_stores_the_others_and_leaves_no_trace_of_itself",),
    ),
    Bug(
        "shared_failure_taken_for_stored",
        "Whoever shared a commit that failed is answered as if it had not.",
        "Loss of what its callers were told is stored.",
        (
            Words(
                "usage.commit_sharing:CommitSharing.store",
                "_store([request])[0] if request.outcomes is None",
                '["accepted"] * len(reports) if request.outcomes is None',
            ),
        ),
        (SHARING + "a_commit_that_fails_leaves_the_next_requests_to_be_stored",),
    ),
    Bug(
        "shared_outcomes_mixed_up",
        "Requests that share a commit are told each other's outcomes.",
        "Loss: a caller whose event was refused is told that it is stored.",
        (
            Words(
                "usage.commit_sharing:_store",
                "for index in indexes:",
                "for index in reversed(indexes):",
            ),
        ),
        (SHARING + "requests_that_come_during_a_commit_share_the_next",),
    ),
    Bug(
        "answered_before_the_commit",
        "A caller is answered while the outermost transaction may still be rolled back.",
        "Loss of what a caller was told is stored.",
        (Words("usage.commit_sharing:_store", "durable=True", "durable=False"),),
        (EVENTS_API + "no_answer_can_come_before_the_outermost_commit",),
    ),
    Bug(
        "watermark_instead_of_claim",
        "A flush takes the batches behind the largest id it has flushed.",
        "Loss of each batch that is committed after a later one.",
        (
            Words(
                "usage.flush:_claimable",
                "filter(run__isnull=True)",
                "filter(run__isnull=True, pk__gt=max(IngestBatch.objects.filter("
                'run__isnull=False).values_list("pk", flat=True), default=0))',
            ),
        ),
        (FLUSH_RACES + "a_batch_committed_late_is_not_passed_over",),
    ),
    Bug(
        "flush_waits_for_others",
        "A flush waits for batches that another run holds.",
        "A stall: one slow run stops everybody's.",
        (Words("usage.flush:_claimable", "skip_locked=True", ""),),
        (FLUSH_RACES + "a_batch_another_run_holds_is_skipped_and_not_waited_for",),
        refusal="canceling statement due to lock timeout",
    ),
    Bug(
        "run_not_stamped",
        "A run does not mark the batches it has folded.",
        "Double billing with every flush.",
        (Words("usage.flush:fold_batches", "update(run=run)", "count()"),),
        (FLUSH + "a_second_flush_finds_nothing",),
    ),
    Bug(
        "send_time_timestamp",
        "A submission bears the time of the flush and not of the use.",
        "Usage of the last hour of a period is billed in the next.",
        (
            Words(
                "usage.freezing:_submission",
                "timestamp = cell.latest.replace(microsecond=0)",
                "timestamp = now.replace(microsecond=0)",
            ),
        ),
        (FLUSH + "a_submission_is_frozen_as_stripe_will_get_it",),
    ),
    Bug(
        "hour_closed_at_its_end",
        "Usage at the first instant of an hour counts to the hour before.",
        "Usage of a period's first instant is billed in the one before.",
        (
            Words(
                "usage.folding:FED",
                "date_trunc('hour', event.occurred_at, 'UTC') AS window_start",
                "date_trunc('hour', event.occurred_at - interval '1 microsecond', 'UTC')"
                " AS window_start",
            ),
        ),
        (FLUSH + "cells_are_utc_hours_start_included[2026-11-20T12:00:00Z-2026-11-20T12:00:00Z]",),
    ),
    Bug(
        "not_cut_at_a_boundary",
        "An hour with a billing boundary inside is one submission.",
        "Usage of the old period is billed in the new one.",
        (
            Words(
                "usage.folding:FED", "CASE WHEN cuts.instants IS NULL THEN", "CASE WHEN true THEN"
            ),
        ),
        (FLUSH + "a_cell_is_cut_at_each_billing_boundary",),
    ),
    Bug(
        "not_cut_again",
        "Usage folded before its boundary was known stays in one submission.",
        "Usage of the old period is billed in the new one.",
        (
            Words(
                "usage.recutting:UNTOUCHED",
                "(boundary.at = date_trunc('hour', boundary.at, 'UTC') OR NOT EXISTS",
                "(true OR NOT EXISTS",
            ),
        ),
        (RECUTTING + "unsent_usage_is_cut_at_a_boundary_learned_late",),
    ),
    Bug(
        "sent_before_it_is_cut_again",
        "Usage across a boundary just learned is sent before it is cut there.",
        "Usage of the old period is billed in the new one.",
        (
            Words(
                "usage.lateness:MAY_BE_SENT", "ELSE boundary.recut_at IS NULL END", "ELSE false END"
            ),
        ),
        (LATENESS + "usage_across_a_boundary_waits_until_it_is_cut_there",),
    ),
    Bug(
        "sent_after_the_final_invoice",
        "Usage is sent into a period whose invoice is final.",
        "Loss: Stripe counts it, on no invoice.",
        (
            Words(
                "usage.lateness:MAY_BE_SENT",
                "THEN boundary.closed_at IS NOT NULL",
                "THEN false",
            ),
        ),
        (
            LATENESS + "usage_from_before_a_period_end_is_sent_only_while_its_invoice_takes_it"
            "[35-facts7-False]",
        ),
    ),
    Bug(
        "late_usage_not_held",
        "A flush makes submissions of usage whose invoice is final.",
        "Loss: nobody is told of usage that can be on no invoice.",
        (Words("usage.folding:FoldedCell.held_reason", "if self.is_late:", "if False:"),),
        (LATENESS + "a_flush_holds_what_comes_after_the_final_invoice",),
        shows_as=(ObjectDoesNotExist,),
    ),
    Bug(
        "value_not_split",
        "A total of more than 15 digits goes in one value.",
        "Loss: Stripe refuses it.",
        (Words("usage.quantities:split", "min(rest, Decimal(MAX_VALUE))", "rest"),),
        (FLUSH + "a_total_beyond_fifteen_digits_is_split",),
        refusal="must round to an absolute value less than 10^15",
    ),
    Bug(
        "void_counts_for_it",
        "A void adds its event's quantity once more.",
        "Double billing of just what a person has taken back.",
        (Words("usage.folding:FED", "THEN 1 ELSE -1 END AS sign", "THEN 1 ELSE 1 END AS sign"),),
        (VOIDING + "a_void_counts_minus_its_value_and_minus_one_call",),
    ),
    Bug(
        "void_in_the_hour_it_was_made",
        "A void bears the time of the correction and not of the use.",
        "The wrong period is credited.",
        (
            Words(
                "usage.voiding:INSERT",
                "void_digest, type, subject, occurred_at,",
                "void_digest, type, subject, %(now)s,",
            ),
        ),
        (VOIDING + "a_void_goes_to_its_originals_own_cell",),
    ),
    Bug(
        "voided_twice",
        "Voiding an event again takes it back again.",
        "Loss of as much as was billed rightly.",
        (
            Words(
                "usage.voiding:INSERT", "'void:' || original.id, void", "'void:' || batch.id, void"
            ),
            Words("usage.voiding:INSERT", "ON CONFLICT DO NOTHING", ""),
        ),
        (VOIDING + "voiding_again_adds_nothing_and_says_so",),
        refusal="usage_event_voided_once",
    ),
    Bug(
        "running_value_not_later",
        "A newer running value bears the second of its event, also when that is an older one.",
        "Loss: Stripe keeps the value with the latest time, which is not the newest.",
        (
            Words(
                "usage.running_freezing:next_timestamp",
                "at = max(at, previous + SECOND)",
                "at = at",
            ),
        ),
        (RUNNING + "a_late_event_raises_the_value_under_a_later_second",),
    ),
)

COMPARING = (
    Bug(
        "tolerance",
        "A difference of up to a hundred units counts as equal.",
        "Loss or double billing that no comparison ever shows.",
        (
            Words(
                "usage.cells:Cell.decision",
                "Decision(Proof.NOTHING if extra else Proof.COMPLETE)",
                "Decision(Proof.NOTHING if abs(extra) > 100 else Proof.COMPLETE)",
            ),
        ),
        (RUNS + "one_unit_in_one_of_many_cells_is_found",),
    ),
    Bug(
        "range_closed_at_its_end",
        "A comparison reads the hour after its range from our books, and not from Stripe's.",
        "Usage of that hour is called missing, and sent again by a person.",
        (
            Words(
                "usage.settlement:cells",
                "submission__window_start__lt=",
                "submission__window_start__lte=",
            ),
        ),
        (RUNS + "a_range_is_half_open",),
    ),
    Bug(
        "first_page_only",
        "Of Stripe's totals only the first page is read.",
        "Double billing: what is on the others counts as absent, and is replaced.",
        (Words("billing.gateway.meter_events:summaries", "page.auto_paging_iter()", "page.data"),),
        (RUNS + "hundreds_of_hours_are_read_to_the_last_page",),
    ),
    Bug(
        "only_known_usage_is_compared_after_a_restore",
        "After a restore only hours are compared in which something is known to have been sent.",
        "Wrong bills: what was forgotten may stand alone in its hour, and nobody is ever told.",
        (
            Words(
                "reconciliation.runs:reconcile_recent",
                "every_pair=forgotten is not None",
                "every_pair=False",
            ),
        ),
        (RUNS + "after_a_restore_hours_we_know_nothing_of_are_read_once_all_must_show",),
    ),
    Bug(
        "old_read_settles",
        "A total read before an hour's last attempt decides about that attempt.",
        "Double billing: it cannot hold what was sent after it was read.",
        (
            Words(
                "usage.cells:Cell.was_attempted_since",
                "self.last_attempt_at >= instant",
                "False",
            ),
        ),
        (
            SETTLEMENT + "a_read_that_began_before_the_last_attempt_ended_settles_nothing"
            "[after_read2-accepted]",
        ),
    ),
)

WEBHOOKS = (
    Bug(
        "future_webhooks_are_taken",
        "Only a signature's age is looked at, as Stripe's SDK does, and not that it lies ahead.",
        "A captured delivery stamped ahead stays good for longer.",
        (
            Words(
                "billing.gateway.notifications:verify",
                "abs(now.timestamp() - _signed_at(signature))",
                "now.timestamp() - _signed_at(signature)",
            ),
        ),
        (FORGERIES + NO_FORGERY,),
    ),
    Bug(
        "older_signatures_are_taken",
        "A signature is good for as long as its secret is.",
        "A captured delivery can be sent again for ever.",
        (Value("billing.gateway.notifications:TOLERANCE_SECONDS", 10**10),),
        (FORGERIES + NO_FORGERY,),
    ),
    Bug(
        "any_endpoints_secret",
        "A webhook is taken whoever's secret signed it.",
        "Whoever knows one endpoint's secret writes into the others.",
        (
            Words(
                "billing.webhooks.views:_take",
                "secrets=secrets",
                "secrets=settings.STRIPE_WEBHOOK_SECRETS + settings.STRIPE_THIN_WEBHOOK_SECRETS",
            ),
        ),
        (FORGERIES + NO_FORGERY,),
    ),
    Bug(
        "first_page_of_events_only",
        "Of Stripe's events only the first page is looked through for lost ones.",
        "After an outage of days ended periods and cancellations stay unknown.",
        (
            Words(
                "billing.gateway.events:_snapshots",
                'answer["has_more"] and bool(events)',
                "False",
            ),
        ),
        (
            SWEEP + "all_pages_of_both_lists_are_read",
            SWEEP + "a_sweep_that_stripe_interrupts_goes_on_from_its_last_page",
        ),
    ),
    Bug(
        "sweep_of_one_night",
        "A sweep lists the days of the setting, however long none has been made.",
        "Events of an outage that took the sweeps with it stay unknown.",
        (Words("billing.webhooks.sweep:_since", "if last is not None:", "if False:"),),
        (SWEEP + "where_no_sweep_has_been_for_longer_it_reaches_back_to_the_last_one",),
    ),
    Bug(
        "overtaken_page_counts_again",
        "A pass that another has overtaken moves the sweep back to where it was itself.",
        "Two passes at once send each other back, and a sweep never ends.",
        (
            Words(
                "billing.webhooks.sweep:_record",
                "finished_at=None, since=row.since, query=row.query, cursor=row.cursor",
                "",
            ),
        ),
        (SWEEP + "a_pass_that_another_overtook_changes_nothing",),
    ),
    Bug(
        "swept_events_are_handled_twice",
        "An event the sweep has fetched is put back in line when its webhook comes after all.",
        "None but work; where a handler were no refetch, its effect would be doubled.",
        (
            Words(
                "billing.webhooks.inbox:record",
                "except IntegrityError:\n        return False",
                "except IntegrityError:\n"
                "        WebhookEvent.objects.filter(stripe_event_id=notification.event_id)"
                ".update(state='pending')\n        return False",
            ),
        ),
        (SWEEP + "a_late_webhook_of_a_fetched_event_changes_nothing",),
    ),
)

BUGS: tuple[Bug, ...] = SENDING + DOUBTS + FOLDING + COMPARING + WEBHOOKS
