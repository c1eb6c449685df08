"""Running variants in turn and keeping what each repeat took."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Sequence

from tests.bench import cpu
from tests.bench.variants import Sample, Variant


def measure(
    variants: Sequence[Variant], *, repeats: int, on_sample: Callable[[Sample], None]
) -> list[Sample]:
    """Run every variant once per repeat, in turn, and return the samples in that order.

    What a variant prepared is cleaned also when its run fails.
    """
    samples: list[Sample] = []
    for repeat in range(1, repeats + 1):
        for variant in variants:
            variant.prepare()
            try:
                sample = _run(variant, repeat)
            finally:
                variant.clean()
            samples.append(sample)
            on_sample(sample)
    return samples


def _run(variant: Variant, repeat: int) -> Sample:
    gc.collect()
    roles = list(variant.meters)
    # The last meter is read next to the clock on both sides: list this process's own last, and
    # the reading of the others is not on its bill.
    before = {role: variant.meters[role]() for role in roles}
    started_at = time.perf_counter()
    variant.run()
    seconds = time.perf_counter() - started_at
    after = {role: variant.meters[role]() for role in reversed(roles)}
    variant.check()
    return Sample(
        variant=variant.name,
        repeat=repeat,
        events=variant.events,
        seconds=seconds,
        cpu_microseconds={
            role: _per_event(cpu.spent(before[role], after[role]), variant.events) for role in roles
        },
        figures=dict(variant.figures()),
    )


def _per_event(seconds: float | None, events: int) -> float | None:
    return None if seconds is None else seconds * 1_000_000 / events
