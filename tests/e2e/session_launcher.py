"""A user's program that starts one messy session and waits: `session_launcher.py KERNEL NAME WRITABLE`."""

from __future__ import annotations

import signal
import sys
from pathlib import Path

from testbed.kernel import HostKernel, Job, QemuKernel, UmlKernel


def main(kernel: str, name: str, writable: str) -> None:
    # A shell starts background programs with SIGINT ignored.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    job = Job("session_jobs:make_a_mess", {"name": name}, writable=Path(writable), memory_mb=256)
    with {"host": HostKernel, "uml": UmlKernel, "qemu": QemuKernel}[kernel]().start(job) as session:
        assert session.line.receive() == {"event": "messy"}
        print("messy", flush=True)
        session.wait()


if __name__ == "__main__":
    main(*sys.argv[1:])
