"""Usage's tables: facts that are only inserted, and the small rows that move."""

from usage.models.backfill import Backfill
from usage.models.error_report import ErrorReport, ErrorReportSample, ErrorReportType
from usage.models.event import EventConflict, FlushRun, IngestBatch, UsageEvent
from usage.models.fence import Fence
from usage.models.held import HeldUsage
from usage.models.observation import Observation
from usage.models.quarter import QuarterReading, QuarterUsage, RunHour
from usage.models.replacement import Replacement
from usage.models.running import RunningName, RunningValue
from usage.models.submission import Attempt, Submission, SubmissionState
from usage.models.void import Cancellation, Void

__all__ = [
    "Attempt",
    "Backfill",
    "Cancellation",
    "ErrorReport",
    "ErrorReportSample",
    "ErrorReportType",
    "EventConflict",
    "Fence",
    "FlushRun",
    "HeldUsage",
    "IngestBatch",
    "Observation",
    "QuarterReading",
    "QuarterUsage",
    "Replacement",
    "RunHour",
    "RunningName",
    "RunningValue",
    "Submission",
    "SubmissionState",
    "UsageEvent",
    "Void",
]
