"""The machine's directories as a guest mounts them.

Owns how a directory gets to its own path inside: the writable one, and those that private contents would
cover. Runs in the guest; the names by which an emulated machine offers directories are used outside too.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Protocol

from testbed.net import syscalls
from testbed.net.sandbox import RUN

ROOT_TAG, WRITABLE_TAG = "root", "writable"
# The largest message that the driver takes is 500 kB.
NINEP = "trans=virtio,version=9p2000.L,msize=512000"


class Shares(Protocol):
    """Directories of the machine."""

    def hold(self, covered: Iterable[str]) -> None:
        """Get ready, before private contents cover these."""

    def show(self, path: str) -> None:
        """Mount a directory that was covered at its path, read-only."""

    def mount_writable(self, path: str) -> None:
        """Mount the writable directory at its path."""


class HostfsShares:
    """By user-mode Linux's own file system, which reaches everything at any time."""

    def hold(self, covered: Iterable[str]) -> None:
        """Nothing to do."""

    def show(self, path: str) -> None:
        """Mount it afresh."""
        _mount(path, "none", "hostfs", syscalls.MS_RDONLY, path)

    def mount_writable(self, path: str) -> None:
        """Mount it afresh, writable."""
        _mount(path, "none", "hostfs", 0, path)


class NinepShares:
    """By 9p, from a machine that offers two directories: its root, read-only, and the writable one."""

    def __init__(self) -> None:
        self._held: dict[str, int] = {}

    def hold(self, covered: Iterable[str]) -> None:
        """Open them by a second view of the root, without the guest's own /dev; on /run, which is next."""
        syscalls.mount("/", str(RUN), flags=syscalls.MS_BIND)
        flags = os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC
        self._held = {path: os.open(f"{RUN}{path}", flags) for path in covered}

    def show(self, path: str) -> None:
        """Mount what was held."""
        fd = self._held.pop(path)
        _mount(path, f"/proc/self/fd/{fd}", "", syscalls.MS_BIND, "")
        os.close(fd)

    def mount_writable(self, path: str) -> None:
        """Mount the other directory; files may be mapped, and what is written is not held back."""
        _mount(path, WRITABLE_TAG, "9p", 0, f"{NINEP},cache=mmap")


def _mount(path: str, source: str, kind: str, flags: int, data: str) -> None:
    Path(path).mkdir(parents=True, exist_ok=True)
    syscalls.mount(source, path, kind, flags, data)
