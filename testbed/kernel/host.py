"""The machine's own kernel, used through a sandbox."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cached_property

from testbed.errors import MachineLacks
from testbed.kernel.features import PROBE, Features, No, hear_features
from testbed.kernel.job import Job, check_clock
from testbed.kernel.prepare import plan_job
from testbed.kernel.session import Session

_HELLO_TIMEOUT_S = 60.0
_ELSEWHERE = "use user-mode Linux: apt-get install user-mode-linux, then --kernel uml"


class HostKernel:
    """The kernel that this process runs on."""

    name = "host"

    def start(self, job: Job) -> Session:
        """Start a job in a new sandbox; returns when it has begun.

        Raises:
            SandboxForbidden: the machine does not let this user build a sandbox.
            MachineLacks: the job wants another clock than the machine's.
            BadResults: the job's writable directory cannot be written.
        """
        check_clock(job, self.name)
        return Session(lambda fds: plan_job(job, fds), hello_timeout_s=_HELLO_TIMEOUT_S)

    def features(self) -> Features:
        """Try out, in a sandbox, what this kernel can do (0.2 s); asked once.

        Raises:
            SandboxForbidden: the machine does not let this user build a sandbox.
        """
        return self._features

    def lacking(self, modes: Iterable[str]) -> dict[str, No]:
        """Those of `modes` that cannot run here, each with why and what to do."""
        wanted = list(modes)
        try:
            return self.features().lacking(wanted)
        except MachineLacks as forbidden:
            return dict.fromkeys(wanted, No(forbidden.what, forbidden.remedy))

    @cached_property
    def _features(self) -> Features:
        with self.start(Job(entry=PROBE, arguments={"elsewhere": _ELSEWHERE})) as session:
            return hear_features(self.name, session)
