"""The lifeline: how the processes of a session learn that the one that started them is gone.

PR_SET_PDEATHSIG fires when the parent *thread* ends, and a pipe stays open while any forked copy of its
owner lives. So the session's first process watches a pipe that the launcher holds and the launcher's pidfd,
and every process below it is tied to its parent by the kernel and watches the same descriptors itself.
"""

from __future__ import annotations

import os
import select
from collections.abc import Iterable


class Lifeline:
    """What must stay alive: pipes (at end of file) and pidfds (readable) tell the end."""

    def __init__(self, fds: Iterable[int]) -> None:
        self.fds = tuple(fds)

    @classmethod
    def of_launcher(cls, pipe_fd: int, launcher_pid: int) -> Lifeline:
        """Watch the process `launcher_pid`, our parent, which holds the other end of the pipe.

        A launcher that has ended already is no longer our parent: then the lifeline is born broken.
        """
        try:
            pidfd = os.pidfd_open(launcher_pid)
        except ProcessLookupError:
            return cls((_ended_pipe(),))
        if os.getppid() != launcher_pid:
            os.close(pidfd)
            return cls((_ended_pipe(),))
        return cls((pipe_fd, pidfd))

    def watch(self, poll: select.poll) -> None:
        """Register everything with a poll object."""
        for fd in self.fds:
            poll.register(fd, select.POLLIN)

    def broken(self) -> bool:
        """Whether the launcher is gone."""
        poll = select.poll()
        self.watch(poll)
        return bool(poll.poll(0))


def _ended_pipe() -> int:
    reader, writer = os.pipe()
    os.close(writer)
    return reader
