"""The first process of a session: `python -m testbed.kernel.supervisor FD`, started afresh by the launcher.

    launcher ─► supervisor ─► pid 1 of the sandbox ─► the job, or linux.uml ─► pid 1 of the guest ─► the job

Owns the way from a plan to a running job, and that nothing outlives the launcher: each arrow is tied by the
kernel (PDEATHSIG) and by the lifeline. Being a fresh process of one thread, it can fork and enter namespaces
whatever its launcher is.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

from testbed.errors import ProcessDied, TestbedError
from testbed.kernel.init import ensure_standard_streams, fork, run_until_done, wait_for_end
from testbed.kernel.job import CRASHED, enter_place, pack_error, run_entry
from testbed.kernel.line import Line
from testbed.kernel.plan import Plan
from testbed.net import sandbox
from testbed.net.lifeline import Lifeline


def main(argv: Sequence[str]) -> int:
    """Carry out the plan in descriptor `argv[0]`; the exit status is the job's."""
    ensure_standard_streams()
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT):
        signal.signal(number, signal.SIG_DFL)
    plan = Plan.from_fd(int(argv[0]))
    for fd in (plan.lifeline_fd, plan.line_fd):
        os.set_inheritable(fd, False)
    control = Line(plan.control_fd, name="the launcher")
    lifeline = Lifeline.of_launcher(plan.lifeline_fd, plan.launcher_pid)
    sandbox.raise_limits()
    if plan.guest is not None and plan.guest.storage is not None:
        from testbed.kernel.unprotected import supervise_unprotected

        guest, storage = plan.guest, Path(plan.guest.storage)
        return _telling(control, lambda: supervise_unprotected(plan, guest, storage, control, lifeline))
    return _telling(control, lambda: supervise(plan, control, lifeline))


def supervise(plan: Plan, control: Line, lifeline: Lifeline) -> int:
    """Fork pid 1 of a new sandbox, and be there until it ends or the launcher does."""
    own_pidfd = os.pidfd_open(os.getpid())
    sandbox.enter_private_pids()
    watched = Lifeline((*lifeline.fds, own_pidfd))
    child = fork(lambda: _telling(control, lambda: be_pid_1(plan, control, watched)))
    os.close(plan.line_fd)
    control.close()
    return wait_for_end(child, lifeline)


def be_pid_1(plan: Plan, control: Line, lifeline: Lifeline) -> int:
    """Build the sandbox around this process and run in it what the plan says."""
    sandbox.build(
        sandbox.FileTree(
            writable=tuple(Path(path) for path in plan.writable),
            kept=tuple(Path(path) for path in plan.kept),
            private_storage_mb=plan.private_storage_mb,
        )
    )
    if plan.guest is not None:
        from testbed.kernel.boot import boot

        return boot(plan, plan.guest, lifeline, control, sandbox.RUN / "testbed")
    status = run_until_done(lambda: run_job(plan, control), lifeline, control)
    control.send({"exit": status})
    return status


def run_job(plan: Plan, control: Line) -> int:
    """Be the job's process: its environment, its line, its entry."""
    enter_place(plan.environment, plan.directory)
    line = Line(plan.line_fd, name="the launcher")
    return run_entry(plan.entry, plan.arguments, line, control.send)


def _telling(control: Line, work: Callable[[], int]) -> int:
    """Do the work, and tell the launcher, who raises it again, of an error in it."""
    try:
        return work()
    except BaseException as error:  # noqa: BLE001 - nobody else is left to tell of it
        with suppress(ProcessDied):
            control.send({"error": pack_error(error)})
        return error.exit_status if isinstance(error, TestbedError) else CRASHED


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
