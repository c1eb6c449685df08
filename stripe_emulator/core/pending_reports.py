"""Events refused after their 200, gathered until their report is due."""

from dataclasses import dataclass, field

Key = tuple[bool, str | None]
"""Mode, and the meter concerned or None where there is none."""


@dataclass(slots=True)
class Gathered:
    """The refusals of one meter since a report was last made."""

    since: float
    counts: dict[str, int] = field(default_factory=dict)
    samples: dict[str, list[tuple[str, str]]] = field(default_factory=dict)
    """By code: message and identifier, only so many as a report shows."""


@dataclass(slots=True)
class ErrorReports:
    """What `error_reports` turns into thin events."""

    gathered: dict[Key, Gathered] = field(default_factory=dict)
