"""Linux kernels in which a job can run: the machine's own, and user-mode Linux."""

from __future__ import annotations

from typing import Protocol

from testbed.kernel.host import HostKernel
from testbed.kernel.job import Job
from testbed.kernel.line import Line
from testbed.kernel.session import Session
from testbed.kernel.uml import UmlKernel

__all__ = ["HostKernel", "Job", "Kernel", "Line", "Session", "UmlKernel"]


class Kernel(Protocol):
    """A Linux kernel in which a job can run."""

    @property
    def name(self) -> str: ...

    def start(self, job: Job) -> Session: ...
