"""What a guest's kernel says on its console, kept in memory for when something goes wrong.

Owns the anonymous file that the console is written to, and which of it is worth showing.
"""

from __future__ import annotations

import os
import re

_SHOWN_BYTES = 8000
# Said at every boot, before the kernel's `quiet` acts.
_HARMLESS = ("SELinux: ", "mmapper_init - ", "Failed to initialize ubd device 0 ", "testbed: the kernel")
# What the kernel prints of itself when it panics: registers and the stack.
_DUMP = re.compile(r"CPU: \d|Stack:|Call Trace:| [0-9a-f]{8} | \[<[0-9a-f]+>\]|RIP: |R[A-Z0-9]{2}: ")


class Console:
    """The console's file; `fd` is what a guest writes to."""

    def __init__(self) -> None:
        self.fd = os.memfd_create("testbed-console")

    def close(self) -> None:
        """Forget what was said."""
        os.close(self.fd)

    def evidence(self) -> str:
        """Return the end of what was said, without what is said always; empty if there is nothing else."""
        size = os.fstat(self.fd).st_size
        text = os.pread(self.fd, _SHOWN_BYTES, max(0, size - _SHOWN_BYTES)).decode(errors="replace")
        lines = [line.rstrip() for line in text.splitlines()]
        told = [line for line in lines if line and not line.startswith(_HARMLESS) and not _DUMP.match(line)]
        return "\n".join(told)
