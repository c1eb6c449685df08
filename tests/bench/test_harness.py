"""The harness with made-up variants: no database, no server, no clock worth waiting for."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from tests.bench import cpu, harness, report
from tests.bench.variants import Sample, Variant

pytestmark = pytest.mark.unit


class Recorder:
    """Makes variants that write down when they are called."""

    def __init__(self) -> None:
        self.calls: list[str] = []

    def variant(self, name: str, **changes: object) -> Variant:
        def noted(step: str):
            return lambda: self.calls.append(f"{step} {name}")

        steps = {step: noted(step) for step in ("prepare", "run", "check", "clean")}
        return Variant(name=name, events=10, **(steps | changes))


def sample(variant: str, repeat: int, seconds: float, **cost: float | None) -> Sample:
    return Sample(
        variant=variant,
        repeat=repeat,
        events=100,
        seconds=seconds,
        cpu_microseconds=cost,
        figures={"p50 ms": seconds},
    )


def test_variants_are_repeated_in_turn():
    recorder = Recorder()
    told: list[Sample] = []

    samples = harness.measure(
        [recorder.variant("a"), recorder.variant("b")], repeats=2, on_sample=told.append
    )

    turn = [f"{step} {name}" for name in "ab" for step in ("prepare", "run", "check", "clean")]
    assert recorder.calls == turn * 2
    assert [(each.variant, each.repeat) for each in samples] == [
        ("a", 1),
        ("b", 1),
        ("a", 2),
        ("b", 2),
    ]
    assert told == samples


@pytest.mark.parametrize("step", ["run", "check"])
def test_failed_variant_is_cleaned_and_ends_the_run(step):
    recorder = Recorder()

    def fail() -> None:
        raise ArithmeticError

    with pytest.raises(ArithmeticError):
        harness.measure(
            [recorder.variant("a", **{step: fail}), recorder.variant("b")],
            repeats=2,
            on_sample=lambda _: None,
        )

    assert recorder.calls[-1] == "clean a"
    assert "run b" not in recorder.calls


def test_cpu_is_told_per_event_and_role():
    used = {"app": 1.0, "db": 2.0}

    def work() -> None:
        used["app"] += 0.000_5
        used["db"] += 0.000_2

    variant = Recorder().variant(
        "a",
        run=work,
        meters={
            "app": lambda: {1: used["app"]},
            "db": lambda: {2: used["db"], 3: 7.0},
            "elsewhere": lambda: None,
        },
        figures=lambda: {"p50 ms": 1.5},
    )

    (measured,) = harness.measure([variant], repeats=1, on_sample=lambda _: None)

    assert measured.cpu_microseconds == {
        "app": pytest.approx(50),
        "db": pytest.approx(20),
        "elsewhere": None,
    }
    assert measured.cost == pytest.approx(70)
    assert measured.figures == {"p50 ms": 1.5}
    assert measured.events == 10


@pytest.mark.parametrize(
    ("before", "after", "seconds"),
    [
        ({1: 1.0, 2: 5.0}, {1: 1.5, 2: 5.25}, 0.75),
        ({1: 1.0}, {1: 1.5, 2: 0.25}, 0.75),
        ({1: 1.0, 2: 5.0}, {1: 1.5}, None),
        (None, {1: 1.5}, None),
        ({1: 1.0}, None, None),
        ({}, {}, 0),
    ],
    ids=["plain", "one came", "one went", "unread before", "unread after", "nobody"],
)
def test_spent_adds_up_or_is_unknown(before, after, seconds):
    assert cpu.spent(before, after) == seconds


@pytest.mark.skipif(not cpu.PROC.is_dir(), reason="processes are read from /proc")
def test_cpu_of_a_process_tree_includes_its_children():
    # A shell that waits for a child which has used CPU, and says so.
    burn = "import time\nwhile time.process_time() < 0.1: pass\nprint(flush=True); input()"
    with subprocess.Popen(
        ["/bin/sh", "-c", '"$0" -c "$1"; :', sys.executable, burn],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as shell:
        shell.stdout.readline()
        tree = cpu.process_tree(shell.pid)
        shell.stdin.write(b"\n")
        shell.stdin.flush()

    assert shell.pid in tree
    assert len(tree) == 2
    assert 0.08 <= sum(tree.values()) < 5


@pytest.mark.skipif(not cpu.PROC.is_dir(), reason="processes are read from /proc")
def test_a_process_is_named_and_one_that_is_gone_is_left_out():
    assert cpu.program(os.getpid())
    assert cpu.program(2**22 + 1) is None
    assert cpu.processes([os.getpid(), 2**22 + 1]).keys() == {os.getpid()}


def test_rows_hold_medians_and_ratios_of_the_same_repeat():
    recorder = Recorder()
    variants = [
        recorder.variant("a", reference="b", meters={"app": dict, "db": dict, "load": dict}),
        recorder.variant("b", meters={"app": dict, "db": dict}),
    ]
    # The machine was twice as slow in the second repeat; the ratios do not mind.
    samples = [
        sample("a", 1, 2.0, app=30.0, db=10.0, load=3.0),
        sample("b", 1, 1.0, app=10.0, db=10.0),
        sample("a", 2, 4.0, app=60.0, db=20.0, load=6.0),
        sample("b", 2, 2.0, app=20.0, db=20.0),
        sample("a", 3, 3.0, app=30.0, db=None, load=3.0),
        sample("b", 3, 1.0, app=10.0, db=10.0),
    ]

    first, second = report.summarise(variants, samples)

    assert first.events_per_second == report.Spread(100 / 3, 25, 50)
    assert first.cpu_microseconds == {
        "app": report.Spread(30, 30, 60),
        "db": report.Spread(15, 10, 20),
        "load": report.Spread(3, 3, 6),
    }
    assert first.cost == report.Spread(60, 40, 80)
    assert first.rate_ratio == report.Spread(0.5, pytest.approx(1 / 3), 0.5)
    assert first.cost_ratio == report.Spread(2, 2, 2)
    assert second.rate_ratio is None
    assert second.cost_ratio is None


def test_database_that_cannot_be_read_leaves_its_cells_empty():
    variants = [Recorder().variant("a", reference="a", meters={"app": dict, "db": dict})]

    rows = report.summarise(variants, [sample("a", 1, 0.5, app=30.0, db=None)])

    assert rows[0].cpu_microseconds == {"app": report.Spread(30, 30, 30), "db": None}
    assert rows[0].cost is None
    assert report.table(rows).splitlines()[2].split("|")[4].strip() == "30.0 (30.0-30.0)"
    assert report.table(rows).splitlines()[2].split("|")[5].strip() == "-"


def test_results_are_a_table_and_json():
    variants = [Recorder().variant("fast", reference="slow"), Recorder().variant("slow")]
    samples = [sample("fast", 1, 0.001), sample("slow", 1, 0.002)]

    rows = report.summarise(variants, samples)

    lines = report.table(rows).splitlines()
    assert [cell.strip() for cell in lines[0].split("|")[1:-1]] == [
        "variant",
        "events",
        "events/s",
        "p50 ms",
        "reference",
        "x events/s",
        "x CPU (app + db)",
    ]
    assert lines[2].split("|")[3].strip() == "100,000 (100,000-100,000)"
    assert lines[2].split("|")[6].strip() == "2.00 (2.00-2.00)"
    assert {len(line) for line in lines} == {len(lines[0])}
    kept = json.loads(json.dumps(report.as_json(rows, samples)))
    assert kept["variants"][0]["rate_ratio"] == {"median": 2.0, "low": 2.0, "high": 2.0}
    assert [each["events_per_second"] for each in kept["samples"]] == [100_000, 50_000]
