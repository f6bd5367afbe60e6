"""Runs test code inside a private sandbox (user, pid, mount and net namespaces), one process for each.

Owns the two forks and the pipe that brings results out. `tests/conftest.py` sends whole tests through it;
`Puppet` is for code that stays outside and has single calls made inside, as benchmarks do.
"""

from __future__ import annotations

import gc
import os
import signal
import tempfile
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection, Pipe
from pathlib import Path
from types import TracebackType
from typing import Any, NoReturn, ParamSpec, Self, TypeVar

from testbed.net import syscalls
from testbed.net.sandbox import FileTree, build, enter_private_pids, raise_limits

P = ParamSpec("P")
T = TypeVar("T")


class CalledInside(Exception):
    """What a call inside the sandbox raised; the text is its traceback there."""


class Sandboxed:
    """A process in a sandbox of its own that runs `body` with one end of a pipe; `line` is the other end."""

    def __init__(self, body: Callable[[Connection], None]) -> None:
        self.line, theirs = Pipe()
        here = os.pidfd_open(os.getpid())
        self.pid = os.fork()
        if self.pid == 0:
            self.line.close()
            _live(body, theirs, here)
        theirs.close()
        os.close(here)

    def receive(self, timeout_s: float) -> Any:
        """What the body sent; raises EOFError if it ended, TimeoutError if nothing came."""
        if not self.line.poll(timeout_s):
            raise TimeoutError(f"nothing came out of the sandbox for {timeout_s:g} s")
        return self.line.recv()

    def close(self) -> int:
        """Kill everything inside; the wait status of the outermost process."""
        os.kill(self.pid, signal.SIGKILL)
        return os.waitpid(self.pid, 0)[1]


class Puppet:
    """Calls functions inside one sandbox, one after another, in the same process."""

    def __init__(self) -> None:
        self._sandboxed = Sandboxed(_serve_calls)

    def call(self, fn: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Call a module-level function inside and return its (picklable) result."""
        self._sandboxed.line.send((fn, args, kwargs))
        outcome, value = self._sandboxed.receive(timeout_s=300)
        if outcome == "raised":
            raise CalledInside(value)
        return value  # type: ignore[no-any-return]

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._sandboxed.close()


def _live(body: Callable[[Connection], None], line: Connection, parent: int) -> NoReturn:
    """Become the sandbox: this process only waits for pid 1, which runs the body."""
    gc.freeze()  # the collector would touch, and so copy, every page shared with the parent
    try:
        syscalls.die_with_parent(parent)
        enter_private_pids()
        outer = os.pidfd_open(os.getpid())
        inner = os.fork()
        if inner:
            line.close()
            os._exit(os.waitstatus_to_exitcode(os.waitpid(inner, 0)[1]) & 0xFF)
        syscalls.die_with_parent(outer)
        build(FileTree(writable=(Path(tempfile.gettempdir()),)))
        raise_limits()
        body(line)
        os._exit(0)
    except BaseException:  # noqa: BLE001 - sent to the other side
        line.send(("raised", traceback.format_exc()))
    finally:
        os._exit(1)


def _serve_calls(line: Connection) -> None:
    while True:
        try:
            fn, args, kwargs = line.recv()
        except EOFError:
            return
        try:
            answer = ("returned", fn(*args, **kwargs))
        except BaseException:  # noqa: BLE001 - sent to the other side
            answer = ("raised", traceback.format_exc())
        line.send(answer)
