"""The one door through which programs are started.

Owns how a child is born (namespace, mounts, log, session, death with its parent) and what is left of it when
it ends. Must not know what the programs do. Tools come from `tools`, which knows private installations.

    run     a short command; its output is the result
    spawn   a long-lived program, by a fresh exec
    fork    a long-lived function of this program, sharing what is already imported
    popen   a program that somebody talks to through pipes
"""

from __future__ import annotations

import contextlib
import gc
import os
import signal
import subprocess
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from select import POLLIN, poll
from types import TracebackType
from typing import NoReturn, Self

from testbed.errors import CommandFailed, ProcessDied, WaitTimeout
from testbed.net import syscalls
from testbed.net.namespace import Namespace
from testbed.net.tools import find_tool, tool_environment

_START_TIMEOUT_S = 120.0
_RESET_SIGNALS = (
    signal.SIGINT,
    signal.SIGTERM,
    signal.SIGHUP,
    signal.SIGQUIT,
    signal.SIGCHLD,
    signal.SIGPIPE,
)


@dataclass(frozen=True)
class Completed:
    """A command that has ended; `exit_status` is negative when a signal (its number) ended it."""

    argv: tuple[str, ...]
    exit_status: int
    stdout: str
    stderr: str


def run(
    argv: Sequence[str],
    *,
    namespace: Namespace | None = None,
    input: str | bytes | None = None,
    env: Mapping[str, str] | None = None,
    timeout_s: float = 60.0,
    check: bool = True,
) -> Completed:
    """Run a command to its end, inside `namespace` if one is given.

    `env` is added to this process's environment; standard input is `input` or empty.
    Raises MachineLacks if the tool is not installed (naming the package), CommandFailed if it exits non-zero
    and `check` is set, or if it is still running after `timeout_s` (it is then killed, status -9).
    """
    command = [find_tool(argv[0]), *argv[1:]]
    payload = input.encode() if isinstance(input, str) else input
    source = subprocess.DEVNULL if payload is None else None

    def to_the_end() -> tuple[int, bytes, bytes]:
        try:
            done = subprocess.run(
                command, input=payload, stdin=source, capture_output=True, env=_environment(env),
                timeout=timeout_s, check=False,
            )  # fmt: skip
        except subprocess.TimeoutExpired as late:
            evidence = (late.stderr or b"") + f"\nstill running after {timeout_s:g} s".encode()
            return -signal.SIGKILL, late.stdout or b"", evidence
        return done.returncode, done.stdout, done.stderr

    status, stdout, stderr = namespace.run(to_the_end) if namespace else to_the_end()
    completed = Completed(
        tuple(argv), status, stdout.decode(errors="replace"), stderr.decode(errors="replace")
    )
    if check and status != 0:
        raise CommandFailed(argv, status, completed.stderr, namespace.name if namespace else None)
    return completed


class Child:
    """A long-lived child process; leaving the `with` block kills it.

    `log_path` is where its output goes, or None if it shares this process's.
    """

    def __init__(self, name: str, pid: int, log_path: Path | None) -> None:
        self.name = name
        self.pid = pid
        self.pidfd = os.pidfd_open(pid)
        self.log_path = log_path
        self._status: int | None = None

    @property
    def status(self) -> int | None:
        """None while it runs, then its exit status (negative: the signal that ended it)."""
        if self._status is None and self.pidfd >= 0:
            ended = os.waitid(os.P_PIDFD, self.pidfd, os.WEXITED | os.WNOHANG)
            if ended is not None:
                self._status = ended.si_status if ended.si_code == os.CLD_EXITED else -ended.si_status
        return self._status

    def alive(self) -> bool:
        """Whether it still runs."""
        return self.status is None

    def check(self) -> None:
        """Raise ProcessDied, with the end of its log, if it no longer runs."""
        if not self.alive():
            raise ProcessDied(self.name, self.status, self.evidence())

    def evidence(self, most_bytes: int = 4000) -> str:
        """The end of its log."""
        if self.log_path is None:
            return ""
        with self.log_path.open("rb") as log:
            log.seek(max(0, log.seek(0, os.SEEK_END) - most_bytes))
            return log.read().decode(errors="replace")

    def wait(self, timeout_s: float | None = None) -> int | None:
        """Its status once it has ended, or None if that takes longer than `timeout_s`."""
        if self.alive():
            waiter = poll()
            waiter.register(self.pidfd, POLLIN)
            waiter.poll(None if timeout_s is None else timeout_s * 1000)
        return self.status

    def terminate(self, grace_s: float = 5.0) -> int:
        """Ask it to end (SIGTERM), insist after `grace_s` (SIGKILL to its whole session); its status."""
        if self.alive():
            signal.pidfd_send_signal(self.pidfd, signal.SIGTERM)
        if self.wait(grace_s) is None:
            self.kill()
        return self._ended()

    def kill(self) -> int:
        """End it and its process group at once; its status."""
        if self.alive():
            os.killpg(self.pid, signal.SIGKILL)
            self.wait()
        return self._ended()

    def close(self) -> None:
        """Kill it if it runs and let go of its pidfd; harmless when done twice."""
        if self.pidfd >= 0:
            self.kill()
            os.close(self.pidfd)
            self.pidfd = -1

    def _ended(self) -> int:
        if self._status is None:
            raise RuntimeError(f"{self.name} was closed before it ended")
        return self._status

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def spawn(
    argv: Sequence[str],
    *,
    name: str,
    namespace: Namespace | None = None,
    mounts: Mapping[Path, Path] | None = None,
    env: Mapping[str, str] | None = None,
    log: Path | None = None,
    pass_fds: Sequence[int] = (),
) -> Child:
    """Start a program that runs beside this one and dies with the calling thread.

    `mounts` binds files over others (source -> target) in a mount namespace of the child's own; `log`
    receives its output (appended; None: it shares ours); `pass_fds` stay open in it under the same numbers.
    Returns once the program itself runs. Raises MachineLacks if it is not installed, CommandFailed if it
    cannot be started. The calling thread must outlive the child, so call it from the main thread.
    """
    command = [find_tool(argv[0]), *argv[1:]]
    environment = _environment(env)

    def execute(_started: int) -> int:
        for fd in pass_fds:
            os.set_inheritable(fd, True)
        os.execve(command[0], command, environment)  # noqa: S606 - no shell is the point

    return _start(execute, argv, name, namespace, mounts, log)


def fork(
    main: Callable[[], int],
    *,
    name: str,
    namespace: Namespace | None = None,
    mounts: Mapping[Path, Path] | None = None,
    log: Path | None = None,
) -> Child:
    """Run `main` in a forked child that keeps everything already imported and never returns to our stack.

    Its result is the exit status; an exception is written to the log and gives status 1. The child leads
    a session of its own and dies with the calling thread, which must therefore outlive it. Open descriptors
    are shared. Returns once the child is inside its namespace; raises CommandFailed if it cannot get there.
    """

    def call_main(started: int) -> int:
        os.close(started)
        signal.signal(signal.SIGPIPE, signal.SIG_IGN)  # as in any fresh interpreter
        gc.freeze()  # the collector would touch, and so copy, every page shared with the parent
        sys.stdin, sys.stdout, sys.stderr = (
            os.fdopen(fd, mode, buffering=1, closefd=False) for fd, mode in ((0, "r"), (1, "w"), (2, "w"))
        )
        try:
            return main()
        except SystemExit as ending:
            return ending.code if isinstance(ending.code, int) else int(ending.code is not None)
        except BaseException:  # noqa: BLE001 - the log is where it is told
            traceback.print_exc()
            return 1
        finally:
            sys.stdout.flush()

    return _start(call_main, [name], name, namespace, mounts, log)


def popen(
    argv: Sequence[str],
    *,
    namespace: Namespace,
    mounts: Mapping[Path, Path] | None = None,
    env: Mapping[str, str] | None = None,
) -> subprocess.Popen[bytes]:
    """Start a program whose three streams are pipes to the caller, in a session of its own.

    `mounts` as for `spawn`. Raises MachineLacks or FileNotFoundError if there is no such program.
    """
    command = [argv[0] if "/" in argv[0] else find_tool(argv[0]), *argv[1:]]

    def start() -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=_environment(env),
            start_new_session=True,
            preexec_fn=(lambda: _bind_privately(mounts)) if mounts else None,
        )

    return namespace.run(start)


def _start(
    body: Callable[[int], int],
    argv: Sequence[str],
    name: str,
    namespace: Namespace | None,
    mounts: Mapping[Path, Path] | None,
    log: Path | None,
) -> Child:
    """Fork, settle the child, and call `body` there with the descriptor whose closing says it has started."""
    with contextlib.ExitStack() as ours:
        parent = _closing(ours, os.pidfd_open(os.getpid()))
        output = _closing(ours, os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)) if log else None
        report = _closing(ours, (pipe := os.pipe())[0])
        sys.stdout.flush()
        sys.stderr.flush()
        pid = os.fork()
        if pid == 0:
            _be_child(body, parent, namespace, mounts or {}, output, started=pipe[1])
        os.close(pipe[1])
        child = Child(name, pid, log)
        if not _readable(report, _START_TIMEOUT_S):
            child.close()
            raise WaitTimeout(f"{name} to start", _START_TIMEOUT_S)
        with os.fdopen(report, "rb", closefd=False) as reader:
            failure = reader.read().decode(errors="replace")
    if failure:
        child.close()
        raise CommandFailed(argv, 126, failure, namespace.name if namespace else None)
    return child


def _readable(fd: int, timeout_s: float) -> bool:
    waiter = poll()
    waiter.register(fd, POLLIN)
    return bool(waiter.poll(timeout_s * 1000))


def _be_child(
    body: Callable[[int], int],
    parent: int,
    namespace: Namespace | None,
    mounts: Mapping[Path, Path],
    output: int | None,
    started: int,
) -> NoReturn:
    """The child's whole life after fork(2): nothing here may return or raise into the parent's code."""
    status = 126
    try:
        syscalls.die_with_parent(parent)
        os.setsid()
        for number in _RESET_SIGNALS:
            signal.signal(number, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_SETMASK, ())
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        if output is not None:
            os.dup2(output, 1)
            os.dup2(output, 2)
        if namespace is not None:
            syscalls.setns(namespace.fd, syscalls.CLONE_NEWNET)
        if mounts:
            _bind_privately(mounts)
        status = body(started)
    except BaseException as error:  # noqa: BLE001 - told to the parent, which raises it
        os.write(started, str(error).encode())
    finally:
        os._exit(status)


def _bind_privately(mounts: Mapping[Path, Path]) -> None:
    """Show each source file in place of its target, to this process and its children only."""
    syscalls.unshare(syscalls.CLONE_NEWNS)
    syscalls.mount("none", "/", flags=syscalls.MS_REC | syscalls.MS_PRIVATE)
    for source, target in mounts.items():
        syscalls.mount(str(source), str(target), flags=syscalls.MS_BIND)


def _environment(additions: Mapping[str, str] | None) -> dict[str, str]:
    return {**os.environ, **tool_environment(), **(additions or {})}


def _closing(stack: contextlib.ExitStack, fd: int) -> int:
    stack.callback(os.close, fd)
    return fd
