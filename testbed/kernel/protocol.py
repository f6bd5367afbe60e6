"""What every kernel offers."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

from testbed.kernel.features import Features, No
from testbed.kernel.job import Job
from testbed.kernel.session import Session


class Kernel(Protocol):
    """A Linux kernel in which a job can run."""

    @property
    def name(self) -> str:
        """host, uml or qemu."""

    def features(self) -> Features:
        """What the kernel can do, tried out in it."""

    def lacking(self, modes: Iterable[str]) -> dict[str, No]:
        """Those of `modes` that it does not have, each with why and what to do."""

    def start(self, job: Job) -> Session:
        """Start a job; returns when it has begun."""
