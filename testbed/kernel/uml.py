"""User-mode Linux: a Linux kernel that is an ordinary program, booted inside the sandbox."""

from __future__ import annotations

import os

from testbed.kernel.job import Job
from testbed.kernel.plan import GuestPlan
from testbed.kernel.prepare import plan_job
from testbed.kernel.session import Session
from testbed.net.tools import find_tool, tools_root

# A loaded two-core machine took 20 s at worst.
_HELLO_TIMEOUT_S = 120.0
_MODULES = "usr/lib/uml/modules"


class UmlKernel:
    """The kernel in Debian's `user-mode-linux`, or the one that TESTBED_UML names."""

    name = "uml"

    def start(self, job: Job) -> Session:
        """Boot a guest and start a job in it.

        Raises:
            MachineLacks: no user-mode Linux here, or something that it needs is missing.
            BadResults: the job's writable directory cannot be written.
            ProcessDied: the guest's kernel ended before the job began; the evidence is its console.
        """
        program = os.environ.get("TESTBED_UML") or find_tool("linux.uml")
        return Session(
            lambda fds: plan_job(
                job,
                fds,
                GuestPlan(
                    program=program,
                    modules=_module_directories(),
                    modes=tuple(sorted(job.modes)),
                    memory_mb=job.memory_mb,
                    console_fd=fds.console,
                ),
            ),
            hello_timeout_s=_HELLO_TIMEOUT_S,
            paced=True,
            notes=(),
        )


def _module_directories() -> tuple[str, ...]:
    if named := os.environ.get("TESTBED_UML_MODULES"):
        return (os.path.abspath(named),)
    return (f"/{_MODULES}", str(tools_root() / _MODULES))
