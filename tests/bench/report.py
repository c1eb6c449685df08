"""Samples turned into medians and ratios, a table to read and JSON to keep."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from tests.bench.variants import Sample, Variant


@dataclass(frozen=True, slots=True)
class Spread:
    """The median of the repeats, the lowest and the highest."""

    median: float
    low: float
    high: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """What the repeats of one variant come to. Ratios are of repeat to the same repeat."""

    variant: str
    events: int
    reference: str | None
    events_per_second: Spread
    cpu_microseconds: dict[str, Spread | None]
    cost: Spread | None
    rate_ratio: Spread | None
    cost_ratio: Spread | None
    figures: dict[str, Spread | None]


def summarise(variants: Sequence[Variant], samples: Sequence[Sample]) -> list[Row]:
    """Return one row per variant, in their order."""
    by_variant = {
        variant.name: [sample for sample in samples if sample.variant == variant.name]
        for variant in variants
    }
    return [
        _row(variant, by_variant[variant.name], by_variant.get(variant.reference or "", []))
        for variant in variants
    ]


def as_json(rows: Iterable[Row], samples: Iterable[Sample]) -> dict[str, Any]:
    """Return a case's rows and all its samples as JSON takes them."""
    return {
        "variants": [asdict(row) for row in rows],
        "samples": [
            asdict(sample) | {"events_per_second": sample.events_per_second} for sample in samples
        ],
    }


def table(rows: Sequence[Row]) -> str:
    """Return the rows as a Markdown table, which also reads well in a terminal."""
    roles = list(dict.fromkeys(role for row in rows for role in row.cpu_microseconds))
    figures = list(dict.fromkeys(name for row in rows for name in row.figures))
    header = ["variant", "events", "events/s", *(f"{role} µs" for role in roles)]
    header += [*figures, "reference", "x events/s", "x CPU (app + db)"]
    body = [
        [
            row.variant,
            f"{row.events:,}",
            _shown(row.events_per_second),
            *(_shown(row.cpu_microseconds.get(role)) for role in roles),
            *(_shown(row.figures.get(name)) for name in figures),
            row.reference or "-",
            _shown(row.rate_ratio),
            _shown(row.cost_ratio),
        ]
        for row in rows
    ]
    widths = [max(map(len, column)) for column in zip(header, *body, strict=True)]
    lines = [header, ["-" * width for width in widths], *body]
    return "\n".join(
        "| "
        + " | ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True))
        + " |"
        for line in lines
    )


def _row(variant: Variant, samples: Sequence[Sample], references: Sequence[Sample]) -> Row:
    roles = list(variant.meters)
    names = list(dict.fromkeys(name for sample in samples for name in sample.figures))
    return Row(
        variant=variant.name,
        events=variant.events,
        reference=variant.reference,
        events_per_second=_certain_spread([sample.events_per_second for sample in samples]),
        cpu_microseconds={
            role: _spread([sample.cpu_microseconds[role] for sample in samples]) for role in roles
        },
        cost=_spread([sample.cost for sample in samples]),
        rate_ratio=_ratio(samples, references, lambda sample: sample.events_per_second),
        cost_ratio=_ratio(samples, references, lambda sample: sample.cost),
        figures={name: _spread([sample.figures.get(name) for sample in samples]) for name in names},
    )


def _ratio(
    samples: Sequence[Sample],
    references: Sequence[Sample],
    figure: Callable[[Sample], float | None],
) -> Spread | None:
    """Divide each repeat by the reference's same repeat, which ran under the same load."""
    ratios: list[float | None] = []
    for sample, reference in zip(samples, references, strict=False):
        ours, theirs = figure(sample), figure(reference)
        ratios.append(ours / theirs if ours is not None and theirs else None)
    return _spread(ratios)


def _spread(values: Iterable[float | None]) -> Spread | None:
    known = [value for value in values if value is not None]
    return _certain_spread(known) if known else None


def _certain_spread(values: Sequence[float]) -> Spread:
    return Spread(median=statistics.median(values), low=min(values), high=max(values))


def _shown(spread: Spread | None) -> str:
    if spread is None:
        return "-"
    return f"{_number(spread.median)} ({_number(spread.low)}-{_number(spread.high)})"


def _number(value: float) -> str:
    """Show three figures, and whole numbers from a hundred on."""
    if abs(value) >= 99.95:
        return f"{value:,.0f}"
    return f"{value:.1f}" if abs(value) >= 9.995 else f"{value:.2f}"
