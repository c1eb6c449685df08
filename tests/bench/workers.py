"""Delivery workers as processes of their own: started before the clock, ended after it."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator, Mapping

from tests.bench import cpu, stack


class Workers:
    """Running workers that wait for the word."""

    def __init__(self, programs: list[subprocess.Popen[str]]) -> None:
        self._programs = programs

    def deliver(self) -> Counter[str]:
        """Let all begin, and return what they did together once the last has ended.

        Raises:
            BenchFailed: one ended before it said what it did.
        """
        for program in self._programs:
            assert program.stdin is not None
            program.stdin.write("deliver\n")
            program.stdin.flush()
        counts: Counter[str] = Counter()
        for program in self._programs:
            counts.update(json.loads(_line(program)))
        return counts

    def reading(self) -> cpu.Reading:
        """Read the CPU time of all."""
        return {
            pid: seconds
            for program in self._programs
            for pid, seconds in cpu.process_tree(program.pid).items()
        }


@contextlib.contextmanager
def started(count: int, *, environment: Mapping[str, str]) -> Iterator[Workers]:
    """Start so many workers with these variables besides our own; yield when all are connected.

    Raises:
        BenchFailed: one does not come up. What it wrote stands on standard error.
    """
    programs: list[subprocess.Popen[str]] = []
    try:
        programs.extend(_start(environment) for _ in range(count))
        for program in programs:
            _line(program)
        yield Workers(programs)
    finally:
        for program in programs:
            with contextlib.suppress(OSError):
                program.communicate(timeout=stack.STOP_SECONDS)
            if program.poll() is None:
                stack.stop(program)


def _start(environment: Mapping[str, str]) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "tests.bench.worker"],
        cwd=stack.ROOT,
        env={**os.environ, "LOG_LEVEL": "WARNING", **environment},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def _line(program: subprocess.Popen[str]) -> str:
    assert program.stdout is not None
    line = program.stdout.readline()
    if not line:
        raise stack.BenchFailed(f"A worker ended with {program.wait(stack.STOP_SECONDS)}.")
    return line
