"""Kernel pipes for splice, kept for reuse: opening one costs more than moving a chunk through it.

Owns the pipes. Must not know connections.
"""

from __future__ import annotations

import errno
import fcntl
import os

PIPE_BYTES = 1 << 20  # fs.pipe-max-size, which an ordinary user may have
_KEPT = 32


class Pipe:
    """One empty pipe, both ends non-blocking."""

    __slots__ = ("reader", "writer")

    def __init__(self) -> None:
        self.reader, self.writer = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            fcntl.fcntl(self.writer, fcntl.F_SETPIPE_SZ, PIPE_BYTES)
        except OSError as error:
            if error.errno not in (errno.EPERM, errno.EBUSY):  # over the user's share: 64 KiB must do
                self.close()
                raise

    def close(self) -> None:
        """Drop the pipe and what is in it."""
        os.close(self.reader)
        os.close(self.writer)


class PipePool:
    """Lends empty pipes."""

    def __init__(self) -> None:
        self._free: list[Pipe] = []

    def take(self) -> Pipe | None:
        """An empty pipe, or None when the process has no descriptors left."""
        if self._free:
            return self._free.pop()
        try:
            return Pipe()
        except OSError:
            return None

    def give_back(self, pipe: Pipe) -> None:
        """Take back an empty pipe."""
        if len(self._free) < _KEPT:
            self._free.append(pipe)
        else:
            pipe.close()

    def close(self) -> None:
        """Close the pipes that are not lent."""
        while self._free:
            self._free.pop().close()
