"""Linux kernels in which a job can run: the machine's own, and user-mode Linux.

    choose ─► HostKernel | UmlKernel ─► prepare: Job to Plan ─► session: the launcher's ends
                                                                     │ exec
              supervisor ─► sandbox ─► init (pid 1) ─► the job       ▼
                                          └─► boot: linux.uml ─► guest (pid 1) ─► the job

Owns where a job runs and that nothing of it stays. Must not know what jobs do.
"""

from __future__ import annotations

from testbed.kernel.choose import choose, kernels, require_linux
from testbed.kernel.features import Features, No, Yes
from testbed.kernel.host import HostKernel
from testbed.kernel.job import Job
from testbed.kernel.line import Line
from testbed.kernel.protocol import Kernel
from testbed.kernel.session import Session
from testbed.kernel.uml import UmlKernel

__all__ = [
    "Features",
    "HostKernel",
    "Job",
    "Kernel",
    "Line",
    "No",
    "Session",
    "UmlKernel",
    "Yes",
    "choose",
    "kernels",
    "require_linux",
]
