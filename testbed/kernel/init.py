"""Pid 1, of a sandbox and of a guest: starts the job, reaps what is orphaned, ends with the job.

Owns the job process and its end. Must not know how the place around it was made.
"""

from __future__ import annotations

import os
import select
import signal
import sys
from collections.abc import Callable, Mapping
from contextlib import suppress

from testbed.errors import WaitTimeout
from testbed.kernel.line import Line
from testbed.net import syscalls
from testbed.net.lifeline import Lifeline

KILLED = 128 + signal.SIGKILL
_NOTHING: Mapping[int, int] = {}


def run_until_done(
    start: Callable[[], int],
    lifeline: Lifeline,
    control: Line | None = None,
    relays: Mapping[int, int] = _NOTHING,
) -> int:
    """Run `start` in a child and return its exit status as a shell would (128 + n for signal n).

    Orphans are reaped meanwhile. A `{"signal": n}` on the control line is passed on to the child. What
    arrives at a descriptor in `relays` is copied to the one it maps to. When the lifeline breaks this
    process ends at once, and with it, being pid 1, all others.
    """
    woken = _wake_on_sigchld()
    child = fork(start)
    poll = select.poll()
    lifeline.watch(poll)
    for fd in (woken, *relays):
        poll.register(fd, select.POLLIN)
    if control is not None:
        poll.register(control, select.POLLIN)
    while (status := _reap(child)) is None:
        ready = {fd for fd, _ in poll.poll()}
        if ready & set(lifeline.fds):
            os._exit(KILLED)
        if woken in ready:
            os.read(woken, 4096)
        for source in ready & relays.keys():
            if not _copy(source, relays[source]):
                poll.unregister(source)
        if control is not None and control.fileno() in ready and not _obey(control, child):
            poll.unregister(control)
            control = None
    for source, target in relays.items():
        _copy(source, target)
    return status


def fork(main: Callable[[], int]) -> int:
    """Fork a child that runs `main`, exits with what it returns and dies with this process; its pid.

    The child gets a session of its own and the signal handling that a fresh program expects.
    """
    own_pidfd = os.pidfd_open(os.getpid())
    child = os.fork()
    if child:
        os.close(own_pidfd)
        return child
    status = 1
    try:
        syscalls.die_with_parent(own_pidfd)
        os.close(own_pidfd)
        os.setsid()
        _handle_signals_afresh()
        status = main()
    except BaseException:  # noqa: BLE001 - the child must never return to its parent's stack
        sys.excepthook(*sys.exc_info())
    finally:
        with suppress(OSError):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(status & 0xFF)


def wait_for_end(child: int, lifeline: Lifeline) -> int:
    """Return the exit status of `child` once it ends; kill it when the lifeline breaks."""
    pidfd = os.pidfd_open(child)
    poll = select.poll()
    lifeline.watch(poll)
    poll.register(pidfd, select.POLLIN)
    if pidfd not in {fd for fd, _ in poll.poll()}:
        os.kill(child, signal.SIGKILL)
    return shell_status(os.waitpid(child, 0)[1])


def shell_status(wait_status: int) -> int:
    """Turn a status of waitpid(2) into what a shell calls it: 128 + n for signal n."""
    code = os.waitstatus_to_exitcode(wait_status)
    return code if code >= 0 else 128 - code


def ensure_standard_streams() -> None:
    """Open what is closed of descriptors 0 to 2, so that no other file is taken for one of them."""
    while (fd := os.open(os.devnull, os.O_RDWR)) <= 2:
        os.set_inheritable(fd, True)
    os.close(fd)


def _handle_signals_afresh() -> None:
    signal.set_wakeup_fd(-1)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    for number in (signal.SIGCHLD, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT):
        signal.signal(number, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)


def _wake_on_sigchld() -> int:
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    return reader


def _reap(child: int) -> int | None:
    """Collect every ended child; return the status of `child` once it is among them."""
    while True:
        pid, status = os.waitpid(-1, os.WNOHANG)
        if pid == 0:
            return None
        if pid == child:
            return shell_status(status)


def _copy(source: int, target: int) -> bool:
    """Copy what `source` (non-blocking) holds to `target`; False at its end."""
    while True:
        try:
            data = os.read(source, 1 << 16)
        except BlockingIOError:
            return True
        if not data:
            return False
        # Nobody reading our output any more is no reason to stop working.
        with suppress(OSError):
            while data:
                data = data[os.write(target, data) :]


def _obey(control: Line, child: int) -> bool:
    """Carry out what the launcher asks; False once it is gone."""
    try:
        while (message := control.receive(0)) is not None:
            if "signal" in message:
                os.kill(child, message["signal"])
    except WaitTimeout:
        return True
    return False
