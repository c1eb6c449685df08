"""Usage's tables: facts that are only inserted, and the small rows that move."""

from usage.models.event import EventConflict, FlushRun, IngestBatch, UsageEvent
from usage.models.fence import Fence
from usage.models.held import HeldUsage
from usage.models.observation import Observation
from usage.models.replacement import Replacement
from usage.models.submission import Attempt, Submission, SubmissionState

__all__ = [
    "Attempt",
    "EventConflict",
    "Fence",
    "FlushRun",
    "HeldUsage",
    "IngestBatch",
    "Observation",
    "Replacement",
    "Submission",
    "SubmissionState",
    "UsageEvent",
]
