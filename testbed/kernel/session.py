"""A session, seen from the process that started it.

Owns the launcher's ends: the lifeline, the lines, the supervisor process. Must not know kernels: what is to
happen stands in the plan.
"""

from __future__ import annotations

import os
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from testbed.errors import ProcessDied, TestbedError, WaitTimeout
from testbed.kernel.console import Console
from testbed.kernel.init import ensure_standard_streams
from testbed.kernel.job import unpack_error
from testbed.kernel.line import Line
from testbed.kernel.plan import Plan

# How long a session may take to disappear; a thousand namespaces take one second.
_END_TIMEOUT_S = 10.0


# Held by this process and by none that it forks: a copy would keep its session alive.
_held_lifelines: set[int] = set()


def _let_go_of_lifelines() -> None:
    while _held_lifelines:
        os.close(_held_lifelines.pop())


os.register_at_fork(after_in_child=_let_go_of_lifelines)


class Session:
    """A job that runs in a kernel; everything about it dies with this object's process.

    Attributes:
        line: to the job, which has said hello.
        notes: what the user should know about the session, one sentence each.
    """

    def __init__(
        self,
        plan_for: Callable[[SessionFds], Plan],
        *,
        hello_timeout_s: float,
        paced: bool = False,
        notes: Sequence[str] = (),
    ) -> None:
        """Start the session of the plan that `plan_for` makes around the given descriptors, await the hello.

        Raises:
            TestbedError: as raised on the way to the job's first line, or in it before it said hello.
            ProcessDied: it ended without a word; the evidence is the guest's console.
            WaitTimeout: no hello within `hello_timeout_s`.
        """
        self.notes = tuple(notes)
        self._status: int | None = None
        self._error: TestbedError | None = None
        ensure_standard_streams()
        with ExitStack() as undo:
            self._console = Console()
            undo.callback(self._console.close)
            reader, self._lifeline = os.pipe()
            _held_lifelines.add(self._lifeline)
            undo.callback(self._cut_lifeline)
            own_line, its_line = socket.socketpair()
            own_control, its_control = socket.socketpair()
            self.line = Line(own_line.detach(), name="the job", paced=paced)
            undo.callback(self.line.close)
            self._control = Line(own_control.detach(), name="the session")
            undo.callback(self._control.close)
            with its_line, its_control, os.fdopen(reader):
                fds = SessionFds(reader, its_control.fileno(), its_line.fileno(), self._console.fd)
                self._process = _spawn(plan_for(fds), fds)
            undo.callback(self._kill)
            self._await_hello(hello_timeout_s)
            self._undo = undo.pop_all()

    @property
    def pid(self) -> int:
        """The first process of the session, outside the sandbox."""
        return self._process.pid

    def wait(self, timeout_s: float | None = None) -> int:
        """Wait for the job's end and return its exit status.

        What the job still says meanwhile stays to be received.

        Raises:
            TestbedError: the one that ended the job.
            ProcessDied: the session ended without telling a status.
            WaitTimeout: it did not end within `timeout_s`.
        """
        self._listen(lambda: self._control.closed or self._status is not None, timeout_s, "the job to end")
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(_END_TIMEOUT_S)
        if self._error is not None:
            raise self._error
        if self._status is None:
            raise self._died()
        return self._status

    def interrupt(self) -> None:
        """Send the job what Ctrl-C sends."""
        with suppress(ProcessDied):
            self._control.send({"signal": int(signal.SIGINT)})

    def close(self) -> None:
        """Kill whatever still runs, and wait until it is gone; safe to call again."""
        self._undo.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _await_hello(self, timeout_s: float) -> None:
        heard: list[dict[str, Any]] = []

        def greeted() -> bool:
            with suppress(WaitTimeout):
                if not heard and (message := self.line.receive(0)) is not None:
                    heard.append(message)
            return bool(heard) or self._control.closed

        self._listen(greeted, timeout_s, "the job's first sign of life")
        if heard:
            return
        if self._error is not None:
            raise self._error
        raise self._died()

    def _listen(self, done: Callable[[], bool], timeout_s: float | None, what: str) -> None:
        """Take in what arrives on both lines until `done`, so that nobody waits for us to read."""
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        while not done():
            poll = select.poll()
            for line in (self._control, self.line):
                if not line.closed:
                    poll.register(line, select.POLLIN)
            left_ms = None if deadline is None else max(0.0, deadline - time.monotonic()) * 1000
            if not poll.poll(left_ms):
                raise WaitTimeout(f"{what}{self._evidence()}", timeout_s or 0)
            self.line.collect()
            self._take_control_messages()

    def _take_control_messages(self) -> None:
        with suppress(WaitTimeout):
            while (message := self._control.receive(0)) is not None:
                match message:
                    case {"exit": int(status)}:
                        self._status = status
                    case {"error": packed}:
                        self._error = unpack_error(packed)
                    case {"note": str(note)}:
                        self.notes = (*self.notes, note)

    def _died(self) -> ProcessDied:
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(_END_TIMEOUT_S)
        status = self._process.returncode
        return ProcessDied("the session", status, self._evidence())

    def _evidence(self) -> str:
        told = self._console.evidence()
        return f"\nthe guest's console ended with:\n{told}" if told else ""

    def _cut_lifeline(self) -> None:
        if self._lifeline in _held_lifelines:
            _held_lifelines.remove(self._lifeline)
            os.close(self._lifeline)

    def _kill(self) -> None:
        self._cut_lifeline()
        for insist in (self._process.terminate, self._process.kill):
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(_END_TIMEOUT_S)
                return
            insist()
        self._process.wait()


@dataclass(frozen=True)
class SessionFds:
    """The descriptors that a session's processes inherit; see `Plan`."""

    lifeline: int
    control: int
    line: int
    console: int


def _spawn(plan: Plan, fds: SessionFds) -> subprocess.Popen[bytes]:
    plan_fd = plan.to_fd()
    try:
        return subprocess.Popen(
            [sys.executable, "-P", "-m", "testbed.kernel.supervisor", str(plan_fd)],
            stdin=subprocess.DEVNULL,
            pass_fds=(plan_fd, fds.lifeline, fds.control, fds.line, fds.console),
            env=os.environ | {"PYTHONPATH": plan.environment["PYTHONPATH"]},
            start_new_session=True,
        )
    finally:
        os.close(plan_fd)


def import_path() -> str:
    """Return a PYTHONPATH with which another interpreter imports what this one does."""
    return os.pathsep.join(str(Path(entry or ".").absolute()) for entry in sys.path)
