"""Small programs for the Procfiles of these tests, as shell lines."""

# ruff: noqa: T201 - programs that print and start children are what this is about

import inspect
import os
import shlex
import signal
import subprocess
import sys
import time


def line(program, *words):
    """Return the Procfile line that runs one of the functions below."""
    source = inspect.getsource(program) + f"\n{program.__name__}(*{list(words)!r})"
    header = "import os, signal, subprocess, sys, time\n"
    # Procfile lines are single lines; exec takes the program as one literal.
    return f"python -c {shlex.quote('exec(' + repr(header + source) + ')')}"


def sleeper():
    """Tells its number and sleeps."""
    print("pid", os.getpid(), flush=True)
    time.sleep(600)


def deaf():
    """Takes no notice of being asked to stop, nor do its child and the child that left its session."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    child = subprocess.Popen(["/bin/sleep", "600"])
    stranger = subprocess.Popen(["/bin/sleep", "600"], start_new_session=True)
    print("child", child.pid, flush=True)
    print("stranger", stranger.pid, flush=True)
    print("pid", os.getpid(), flush=True)
    time.sleep(600)


def warm():
    """Ends as Celery does: asked to stop, it lets its child finish first."""
    code = (
        "import signal, sys, time\n"
        "signal.signal(signal.SIGTERM, lambda *_: sys.exit(print('child was signalled')))\n"
        "print('child works', flush=True)\n"
        "sys.stdin.read()\n"
        "time.sleep(0.5)\n"
        "print('child finished', flush=True)\n"
    )
    child = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE)

    def finish(*_):
        print("asked to stop", flush=True)
        child.stdin.close()
        child.wait()
        print("stopped", flush=True)
        sys.exit(0)

    signal.signal(signal.SIGTERM, finish)
    print("pid", os.getpid(), flush=True)
    while True:
        time.sleep(1)


def broken():
    """Ends at once with a reason."""
    print("no such thing", flush=True)
    sys.exit(3)


def recording(path):
    """Adds a line to a file when asked to stop."""

    def note(*_):
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.write(descriptor, os.environ["ROLE"].encode() + b"\n")
        sys.exit(0)

    signal.signal(signal.SIGTERM, note)
    print("pid", os.getpid(), flush=True)
    while True:
        time.sleep(1)
