"""A guest without a sandbox around it, where the machine forbids user namespaces to its user.

Owns what then takes the place of pid 1: a process that adopts whatever its descendants leave behind, and
kills all of it when the session ends. What it cannot do, the session says in a note.
"""

from __future__ import annotations

import os
import shutil
import signal
import tempfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from types import FrameType
from typing import NoReturn

from testbed.errors import MachineLacks
from testbed.kernel.boot import boot
from testbed.kernel.init import fork, wait_for_end
from testbed.kernel.line import Line
from testbed.kernel.plan import GuestPlan, Plan
from testbed.kernel.session import Session
from testbed.net import syscalls
from testbed.net.lifeline import Lifeline
from testbed.net.sandbox import SandboxForbidden

_CANDIDATES = ("/dev/shm", "/tmp", "/var/tmp")  # noqa: S108 - for a private directory inside
_MEGABYTE = 1 << 20


def make_storage(memory_mb: int) -> Path:
    """Make a private directory for a guest's memory, in the first place that is fit for it.

    Raises:
        MachineLacks: there is none; programs must be allowed to run from it, since a guest's memory is a file
            that is mapped executable.
    """
    places = dict.fromkeys((tempfile.gettempdir(), *_CANDIDATES))
    for place in map(Path, places):
        with suppress(OSError):
            found = os.statvfs(place)
            if not found.f_flag & os.ST_NOEXEC and found.f_bavail * found.f_frsize >= memory_mb * _MEGABYTE:
                return Path(tempfile.mkdtemp(prefix="testbed-guest-", dir=place))
    raise MachineLacks(
        f"none of {', '.join(places)} has {memory_mb} MB free and is mounted without noexec",
        "name a directory that does with TMPDIR=...",
    )


def start_unprotected(
    start: Callable[[Path, str], Session], storage_mb: int, forbidden: SandboxForbidden
) -> Session:
    """Start a guest that a sandbox was `forbidden` to; `start` gets its storage and the note to the user.

    Raises:
        MachineLacks: no place is fit for `storage_mb`; else what `start` raises.
    """
    storage = make_storage(storage_mb)
    note = (
        f"{forbidden.what}; the guest runs without one: files are protected from it only by their "
        "permissions, and a kill of its supervising process leaves helper processes behind. "
        f"For full protection: {forbidden.remedy}"
    )
    try:
        return start(storage, note)
    except BaseException:
        shutil.rmtree(storage, ignore_errors=True)
        raise


def supervise_unprotected(
    plan: Plan, guest: GuestPlan, storage: Path, control: Line, lifeline: Lifeline
) -> int:
    """Boot the guest in a child, and leave nothing of it when it ends or the launcher does."""
    syscalls.prctl(syscalls.PR_SET_CHILD_SUBREAPER, 1)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT):
        signal.signal(number, _leave)
    own_pidfd = os.pidfd_open(os.getpid())
    watched = Lifeline((*lifeline.fds, own_pidfd))
    try:
        child = fork(lambda: boot(plan, guest, watched, control, storage))
        os.close(plan.line_fd)
        control.close()
        return wait_for_end(child, lifeline)
    finally:
        kill_descendants()
        shutil.rmtree(storage, ignore_errors=True)


def kill_descendants() -> None:
    """Kill every child, and the orphans that become children by that, until there is none."""
    with suppress(ChildProcessError):
        while True:
            for pid in _children():
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            os.waitpid(-1, 0)


def _children() -> Iterator[int]:
    yield from map(int, Path(f"/proc/self/task/{os.getpid()}/children").read_text().split())


def _leave(number: int, frame: FrameType | None) -> NoReturn:
    raise SystemExit(128 + number)
