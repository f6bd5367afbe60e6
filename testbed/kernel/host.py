"""The machine's own kernel, used through a sandbox."""

from __future__ import annotations

from testbed.kernel.job import Job
from testbed.kernel.prepare import plan_job
from testbed.kernel.session import Session

_HELLO_TIMEOUT_S = 60.0


class HostKernel:
    """The kernel that this process runs on."""

    name = "host"

    def start(self, job: Job) -> Session:
        """Start a job in a new sandbox.

        Raises:
            MachineLacks: the machine does not let this user build a sandbox.
            BadResults: the job's writable directory cannot be written.
        """
        return Session(lambda fds: plan_job(job, fds), hello_timeout_s=_HELLO_TIMEOUT_S, paced=False, notes=())
