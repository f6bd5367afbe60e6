"""Linux kernels in which a job can run: the machine's own, user-mode Linux, any distribution's in QEMU.

    choose ─► HostKernel | UmlKernel | QemuKernel ─► prepare: Job to Plan ─► session: the launcher's ends
                                                                                 │ exec
              supervisor ─► sandbox ─► init (pid 1) ─► the job                   ▼
                                          └─► boot: linux.uml, QEMU ─► guest (pid 1) ─► the job

Owns where a job runs and that nothing of it stays. Must not know what jobs do.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from testbed.kernel.choice import choose as choose
    from testbed.kernel.choice import kernels as kernels
    from testbed.kernel.choice import require_linux as require_linux
    from testbed.kernel.features import Features as Features
    from testbed.kernel.features import No as No
    from testbed.kernel.features import Yes as Yes
    from testbed.kernel.host import HostKernel as HostKernel
    from testbed.kernel.job import Job as Job
    from testbed.kernel.line import Line as Line
    from testbed.kernel.protocol import Kernel as Kernel
    from testbed.kernel.qemu import QemuKernel as QemuKernel
    from testbed.kernel.session import Session as Session
    from testbed.kernel.uml import UmlKernel as UmlKernel

_HOME = {
    "Features": "features",
    "HostKernel": "host",
    "Job": "job",
    "Kernel": "protocol",
    "Line": "line",
    "No": "features",
    "QemuKernel": "qemu",
    "Session": "session",
    "UmlKernel": "uml",
    "Yes": "features",
    "choose": "choice",
    "kernels": "choice",
    "require_linux": "choice",
}

__all__ = [*_HOME]


def __getattr__(name: str) -> Any:
    # Imported when first used: pid 1 of a guest, where imports are slow, needs next to none of it.
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
