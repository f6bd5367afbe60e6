"""Which schedulers this kernel has, found by asking it for each.

Asking loads the scheduler's module where the kernel may load modules. It is done in a network namespace made
for it and gone with it, so nothing of the node is touched. Must not know Services.
"""

from __future__ import annotations

import errno
from collections.abc import Iterable

from testbed.errors import MachineLacks, NetlinkRefused
from testbed.net import syscalls
from testbed.net.namespace import in_own_thread
from testbed.proxy.ipvs.model import SCHEDULERS, Balancing, VirtualServer
from testbed.proxy.ipvs.table import IpvsTable

_THROW_AWAY = VirtualServer("TCP", "192.0.2.1", 1)  # TEST-NET-1


def available_schedulers() -> frozenset[str]:
    """Names of the schedulers that this kernel has or can load; empty without IPVS.

    Raises OSError if this process may not make a network namespace.
    """
    try:
        return _accepted(SCHEDULERS)
    except MachineLacks:
        return frozenset()


def require_scheduler(name: str) -> None:
    """Raise MachineLacks unless this kernel has the scheduler; the remedy names those that it has."""
    if _accepted([name]):
        return
    present = ", ".join(sorted(available_schedulers())) or "none"
    raise MachineLacks(
        f"this kernel has no IPVS scheduler {name!r}",
        f"choose one that it has ({present}), or load its module (modprobe ip_vs_{name})",
    )


def _accepted(names: Iterable[str]) -> frozenset[str]:
    """Those of `names` with which a virtual server can be made."""

    def probe() -> frozenset[str]:
        syscalls.unshare(syscalls.CLONE_NEWNET)
        with IpvsTable() as table:
            return frozenset(name for name in names if _works(table, name))

    return in_own_thread(probe)


def _works(table: IpvsTable, name: str) -> bool:
    try:
        table.add_servers([(_THROW_AWAY, Balancing(name))])
    except NetlinkRefused as refused:
        if refused.errno != errno.ENOENT:
            raise
        return False
    table.delete_servers([_THROW_AWAY])
    return True
