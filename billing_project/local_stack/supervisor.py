"""Starts programs, passes on their lines, restarts the dead, and stops them in order.

One thread and one loop: fork happens only here, which is what makes `kernel.dying_with` sound.
Each program leads a session of its own, so a Ctrl-C at the terminal reaches only the launcher and a
stop signal only the leader: Celery's pool children finish their task (a signal to the whole group
would kill them half way).
"""

import contextlib
import os
import selectors
import signal
import subprocess
import time
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Self

from billing_project.local_stack import kernel
from billing_project.local_stack.leftovers import MARK_VARIABLE, ProcessRecord
from billing_project.local_stack.output import Output
from billing_project.local_stack.problems import (
    CannotStartError,
    StackFailedError,
    StopRequestedError,
)
from billing_project.local_stack.service import Service, Wave

CRASH_LIMIT = 5
CRASH_WINDOW_SECONDS = 60.0
"""A program that dies this often within the window is not restarted again."""

FIRST_BACK_OFF_SECONDS = 0.5
LONGEST_BACK_OFF_SECONDS = 10.0

_PATIENCE = (float("inf"), 3.0, 0.0)
"""Most we wait for a program that was asked to stop: at first, after a second Ctrl-C, a third."""

SWEEP_SECONDS = 10.0
"""How long killed descendants may take to be gone: the kernel may be writing for them."""

_TURN_SECONDS = 0.2
_READY_TURN_SECONDS = 0.05
_LINE_BYTES = 64 * 1024


@dataclass(slots=True)
class _Running:
    service: Service
    process: subprocess.Popen[bytes]
    restarts: bool
    buffer: bytes = b""


@dataclass(slots=True)
class _History:
    crashes: deque[float] = field(default_factory=deque)
    due_at: float | None = None


class Supervisor:
    """The processes of one run.

    Use as a context manager: leaving it stops everything that was started, in order, and returns
    only when no descendant of this process is left.
    """

    def __init__(
        self, *, output: Output, record: ProcessRecord, root: Path, environment: Mapping[str, str]
    ) -> None:
        self._output = output
        self._record = record
        self._root = root
        self.environment = {**environment, MARK_VARIABLE: record.mark, "PYTHONUNBUFFERED": "1"}
        self._running: dict[int, _Running] = {}
        self._histories: dict[str, _History] = {}
        self._services: dict[str, Service] = {}
        self._exit_codes: dict[int, int] = {}
        self._stop_requests = 0
        self._last_request = 0
        self._is_stopping = False
        self._selector = selectors.DefaultSelector()

    def __enter__(self) -> Self:
        kernel.become_subreaper()
        self._record.write()
        self._wake_reader, self._wake_writer = os.pipe()
        for end in (self._wake_reader, self._wake_writer):
            os.set_blocking(end, False)
        self._selector.register(self._wake_reader, selectors.EVENT_READ)
        signal.set_wakeup_fd(self._wake_writer, warn_on_full_buffer=False)
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            # nohup has SIGHUP ignored; whoever asked for that wants to outlive the terminal.
            if number is not signal.SIGHUP or signal.getsignal(number) is not signal.SIG_IGN:
                signal.signal(number, self._note_stop_request)
        signal.signal(signal.SIGCHLD, lambda *_: None)  # only to wake the loop
        return self

    def __exit__(self, *_: object) -> None:
        self._stop()
        self._sweep()
        self._record.forget()
        signal.set_wakeup_fd(-1)
        self._selector.close()
        os.close(self._wake_reader)
        os.close(self._wake_writer)

    def start(self, service: Service) -> None:
        """Start a program that is to live as long as the stack."""
        self._services[service.name] = service
        self._histories.setdefault(service.name, _History())
        self._spawn(service, restarts=True)

    def wait_until_ready(self, *services: Service) -> None:
        """Wait until each of the started services answers.

        Raises:
            StackFailedError: one died for good or took too long.
            StopRequestedError: somebody asked for a stop meanwhile.
        """
        waiting = {service.name: service for service in services if service.is_ready}
        started_at = time.monotonic()
        while waiting:
            self._turn(_READY_TURN_SECONDS)
            self._require_no_stop()
            for service in list(waiting.values()):
                if service.is_ready is None or service.is_ready():
                    del waiting[service.name]
                elif time.monotonic() - started_at > service.ready_seconds:
                    raise StackFailedError(
                        f"{service.name} did not answer within {service.ready_seconds:.0f} s; its "
                        f"last lines ({self._output.log_path(service.name)}):",
                        tail=self._output.tail(service.name),
                    )

    def run_to_end(self, service: Service) -> int:
        """Run a program that ends by itself, and return its exit code.

        Raises:
            StopRequestedError: somebody asked for a stop; the program is stopped with the rest.
        """
        running = self._spawn(service, restarts=False)
        while running.process.pid in self._running:
            self._turn(_TURN_SECONDS)
            self._require_no_stop()
        return self._exit_codes.pop(running.process.pid)

    def attend(self, command: list[str] | None = None, *, then_stay: bool = True) -> int:
        """Watch over the stack until a stop is asked for, and return the exit code to end with.

        `command` runs meanwhile in the foreground, with the terminal as its own. Its exit code is
        the one returned, in the shell's form, and without `then_stay` its end ends the watch.
        """
        code = 0
        if command:
            foreground = self._spawn_foreground(command)
            while foreground.process.pid in self._running and not self._stop_requests:
                self._turn(_TURN_SECONDS)
            self._stop_members([foreground])
            code = self._exit_codes.pop(foreground.process.pid)
            code = code if code >= 0 else 128 - code
            if not then_stay:
                return code
        while not self._stop_requests:
            self._turn(_TURN_SECONDS)
        return code

    # -- starting

    def _spawn(self, service: Service, *, restarts: bool) -> _Running:
        user, group = service.account or (None, None)
        try:
            process = subprocess.Popen(
                service.command,
                cwd=service.folder or self._root,
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                user=user,
                group=group,
                extra_groups=[] if service.account else None,
                # One thread only: see the module's docstring.
                preexec_fn=kernel.dying_with(os.getpid(), service.stop_signal),  # noqa: PLW1509
            )
        except OSError as error:
            raise CannotStartError(
                f"{service.name} cannot be started: {service.command[0]}: {error.strerror}."
            ) from None
        running = self._adopt(service, process, restarts=restarts)
        pipe = _pipe_of(process)
        os.set_blocking(pipe.fileno(), False)
        self._selector.register(pipe, selectors.EVENT_READ, running)
        return running

    def _spawn_foreground(self, command: list[str]) -> _Running:
        # In our session and group: a Ctrl-C reaches it, and the terminal lets it draw.
        process = subprocess.Popen(
            command,
            cwd=self._root,
            env=self.environment,
            preexec_fn=kernel.dying_with(os.getpid(), signal.SIGTERM),  # noqa: PLW1509  # as above
        )
        service = Service("foreground", tuple(command), stop_seconds=10)
        return self._adopt(service, process, restarts=False)

    def _adopt(
        self, service: Service, process: subprocess.Popen[bytes], *, restarts: bool
    ) -> _Running:
        running = _Running(service, process, restarts)
        self._running[process.pid] = running
        self._record.add(service.name, process.pid, service.stop_signal)
        return running

    # -- the loop

    def _turn(self, seconds: float) -> None:
        for key, _ in self._selector.select(seconds):
            if key.data is None:
                with contextlib.suppress(BlockingIOError):
                    os.read(self._wake_reader, 4096)
            else:
                self._read(key.data)
        self._reap()
        if not self._is_stopping:
            self._restart_due()

    def _read(self, running: _Running) -> None:
        pipe = _pipe_of(running.process)
        try:
            chunk = os.read(pipe.fileno(), _LINE_BYTES)
        except BlockingIOError:
            return
        lines = (running.buffer + chunk).split(b"\n")
        running.buffer = lines.pop()
        if running.buffer and (not chunk or len(running.buffer) > _LINE_BYTES):
            lines.append(running.buffer)
            running.buffer = b""
        for line in lines:
            self._output.line(running.service.name, line.rstrip(b"\r"))
        if not chunk:
            self._selector.unregister(pipe)
            pipe.close()

    def _reap(self) -> None:
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            if running := self._running.pop(pid, None):
                self._end(running, os.waitstatus_to_exitcode(status))

    def _end(self, running: _Running, exit_code: int) -> None:
        running.process.returncode = exit_code  # Popen would otherwise wait for it again
        pipe = running.process.stdout
        if pipe is not None:
            kernel.kill_session(running.process.pid)
            while not pipe.closed and self._has_output(pipe):
                self._read(running)
            if not pipe.closed:
                self._selector.unregister(pipe)
                pipe.close()
        if running.restarts and not self._is_stopping:
            self._note_crash(running.service, exit_code)
        else:
            self._exit_codes[running.process.pid] = exit_code

    @staticmethod
    def _has_output(pipe: IO[bytes]) -> bool:
        with selectors.DefaultSelector() as probe:
            probe.register(pipe, selectors.EVENT_READ)
            return bool(probe.select(0))

    def _note_crash(self, service: Service, exit_code: int) -> None:
        now = time.monotonic()
        history = self._histories[service.name]
        history.crashes.append(now)
        while history.crashes[0] < now - CRASH_WINDOW_SECONDS:
            history.crashes.popleft()
        count = len(history.crashes)
        if count >= CRASH_LIMIT:
            raise StackFailedError(
                f"{service.name} ended {count} times within a minute ({_describe(exit_code)}), so "
                f"the stack stops; its last lines ({self._output.log_path(service.name)}):",
                tail=self._output.tail(service.name),
            )
        back_off = min(FIRST_BACK_OFF_SECONDS * 2 ** (count - 1), LONGEST_BACK_OFF_SECONDS)
        history.due_at = now + back_off
        self._output.say(
            f"{service.name} ended ({_describe(exit_code)}); starting it again in {back_off:g} s"
        )

    def _restart_due(self) -> None:
        for name, history in self._histories.items():
            if history.due_at is not None and history.due_at <= time.monotonic():
                history.due_at = None
                self._spawn(self._services[name], restarts=True)

    # -- stopping

    def _note_stop_request(self, number: int, _: object) -> None:
        self._stop_requests += 1
        self._last_request = number

    def _require_no_stop(self) -> None:
        if self._stop_requests:
            raise StopRequestedError

    def _stop(self) -> None:
        self._is_stopping = True
        for wave in Wave:
            members = [each for each in self._running.values() if each.service.wave is wave]
            if members:
                self._output.say(f"stopping {', '.join(each.service.name for each in members)}")
                self._stop_members(members)

    def _stop_members(self, members: list[_Running]) -> None:
        """Ask each to stop and wait; a request to stop while we already do shortens the wait."""
        earlier = min(self._stop_requests, 1)
        started_at = time.monotonic()
        for each in members:
            if each.process.pid not in self._running:
                continue
            # The terminal's Ctrl-C went to the foreground too; told twice, it would not clean up.
            if each.process.stdout is not None or self._last_request != signal.SIGINT:
                kernel.send(each.process.pid, each.service.stop_signal)
        while waiting := [each for each in members if each.process.pid in self._running]:
            self._turn(_TURN_SECONDS)
            hurry = min(self._stop_requests - earlier, len(_PATIENCE) - 1)
            for each in waiting:
                limit = min(each.service.stop_seconds, _PATIENCE[hurry])
                if time.monotonic() - started_at >= limit and each.process.pid in self._running:
                    self._output.say(f"{each.service.name} did not stop in time; killing it")
                    self._kill(each)

    def _kill(self, running: _Running) -> None:
        kernel.send(running.process.pid, signal.SIGKILL)
        if running.process.stdout is not None:
            kernel.kill_session(running.process.pid)
        with contextlib.suppress(ChildProcessError):  # gone for certain before the next look
            os.waitid(os.P_PID, running.process.pid, os.WEXITED | os.WNOWAIT)

    def _sweep(self) -> None:
        """Kill and reap whatever is still below us, whoever forked it."""
        deadline = time.monotonic() + SWEEP_SECONDS
        while (left := kernel.descendants(os.getpid())) and time.monotonic() < deadline:
            for pid in left:
                kernel.send(pid, signal.SIGKILL)
            self._turn(_READY_TURN_SECONDS)
        self._reap()


def _pipe_of(process: subprocess.Popen[bytes]) -> IO[bytes]:
    if process.stdout is None:
        raise ValueError("the foreground has no pipe")
    return process.stdout


def _describe(exit_code: int) -> str:
    if exit_code < 0:
        with contextlib.suppress(ValueError):
            return f"killed by {signal.Signals(-exit_code).name}"
    return f"exit code {exit_code}"
