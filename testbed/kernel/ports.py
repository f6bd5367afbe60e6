"""The guest's ends of the lines that lead out of it.

Owns where a guest finds them and how they want to be treated. Must not know what goes over them.

    name      user-mode Linux    emulated machine
    line      /dev/tty1          the virtio port of that name
    control   /dev/tty2              "
    output    /dev/tty3              "
    error     /dev/tty4              "
"""

from __future__ import annotations

import os
import select
import termios
import tty
from pathlib import Path
from typing import Protocol

from testbed.net.wait import wait_until

NAMES = ("line", "control", "output", "error")
_PORTS = Path("/sys/class/virtio-ports")
_PORT_TIMEOUT_S = 10.0


class Ports(Protocol):
    """The lines out of a guest."""

    @property
    def pacing(self) -> bool:
        """Whether the reader has to say what it took; see `testbed.kernel.line`."""

    def open(self, name: str) -> int:
        """Open the line called `name`, one of NAMES; at most once at a time."""

    def drain(self, fd: int) -> None:
        """Wait until all that was written has left the guest."""


class SerialPorts:
    """Terminals of user-mode Linux."""

    pacing = True

    def open(self, name: str) -> int:
        """Open the terminal for `name`, so that it passes bytes as they are."""
        fd = os.open(f"/dev/tty{NAMES.index(name) + 1}", os.O_RDWR | os.O_NOCTTY)
        tty.setraw(fd)
        return fd

    def drain(self, fd: int) -> None:
        """Wait until the driver has nothing left."""
        termios.tcdrain(fd)


class VirtioPorts:
    """Ports of the emulated machine's virtio-serial device."""

    pacing = False

    def open(self, name: str) -> int:
        """Open the port that the machine calls `name`; it tells the names soon after boot."""
        found: list[str] = []

        def look() -> bool:
            ports = _PORTS.iterdir() if _PORTS.is_dir() else ()
            found.extend(port.name for port in ports if _says(port / "name", name))
            return bool(found)

        wait_until(look, f"the virtio port {name}", _PORT_TIMEOUT_S)
        return os.open(f"/dev/{found[0]}", os.O_RDWR)

    def drain(self, fd: int) -> None:
        """Wait until the machine has taken everything: only then does a port accept more."""
        poll = select.poll()
        poll.register(fd, select.POLLOUT)
        poll.poll()


def _says(file: Path, text: str) -> bool:
    try:
        return file.read_text().strip() == text
    except OSError:
        return False
