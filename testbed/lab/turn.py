"""One measurement at a time on a machine, whoever asks.

The lock is a `flock` on the root directory: every user can take it, nothing is created for it, and
the kernel lets go of it when its holder dies. Two containers have two roots and so two locks.
Measurements that others do not disturb share one turn, and have it never together with one that others do.
"""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Callable
from types import TracebackType
from typing import Self

_RETRY_S = 0.1


class Turn:
    """The right to measure on this machine; `take` waits for it, `give` hands it on."""

    def __init__(self, path: str = "/", *, shared: bool = False) -> None:
        self._path = path
        self._kind = fcntl.LOCK_SH if shared else fcntl.LOCK_EX

    def __enter__(self) -> Self:
        self._fd = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.close(self._fd)

    def take(self, on_wait: Callable[[], None]) -> None:
        """Return once the turn is ours; `on_wait` is called once if somebody else has it now."""
        waited = False
        while True:
            try:
                fcntl.flock(self._fd, self._kind | fcntl.LOCK_NB)
            except BlockingIOError:
                if not waited:
                    on_wait()
                waited = True
                time.sleep(_RETRY_S)
            else:
                return

    def give(self) -> None:
        """Let the next measurement have its turn."""
        fcntl.flock(self._fd, fcntl.LOCK_UN)
