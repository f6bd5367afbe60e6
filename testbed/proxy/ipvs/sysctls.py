"""The kernel switches that IPVS mode needs.

Owns their names, values and the kernel versions they depend on. Must not know Services.
"""

from __future__ import annotations

import os
import re
from contextlib import suppress

from testbed.errors import MachineLacks, SysctlRefused
from testbed.net.namespace import sysctl_path, write_sysctl
from testbed.proxy.model import Family

# Through 5.8 the kernel delays a reused connection by a second unless reuse is off (kubernetes#81775).
_REUSE_REPAIRED = (5, 9)


def set_up_node(family: Family, strict_arp: bool) -> None:
    """Set the switches of this thread's network namespace.

    Raises MachineLacks where IPVS has no connection tracking (a kernel without it, or a network namespace
    that belongs to a user namespace on kernels that hide `net.ipv4.vs` there), SysctlRefused where a switch
    that exists keeps another value.
    """
    if not sysctl_path("net.ipv4.vs.conntrack").exists():
        raise MachineLacks(
            "IPVS mode needs the sysctl net.ipv4.vs.conntrack, which this network namespace does not have",
            "load the module (modprobe ip_vs) of a kernel built with CONFIG_IP_VS_NFCT, and run as root "
            "without a user namespace; the user-mode Linux kernel (--kernel uml) has it",
        )
    write_sysctl("net.ipv4.vs.conntrack", 1)
    if _kernel_version() < _REUSE_REPAIRED:
        write_sysctl("net.ipv4.vs.conn_reuse_mode", 0)
    write_sysctl("net.ipv4.vs.expire_nodest_conn", 1)
    write_sysctl("net.ipv4.vs.expire_quiescent_template", 1)
    write_sysctl("net.ipv4.ip_forward" if family is Family.IPV4 else "net.ipv6.conf.all.forwarding", 1)
    if strict_arp:
        write_sysctl("net.ipv4.conf.all.arp_ignore", 1)
        write_sysctl("net.ipv4.conf.all.arp_announce", 2)


def stop_estimation() -> bool:
    """Stop the timer that estimates rates of every virtual server every two seconds, which disturbs
    measurements; say whether this kernel has the switch (since 6.1)."""
    with suppress(SysctlRefused):
        write_sysctl("net.ipv4.vs.run_estimation", 0)
        return True
    return False


def _kernel_version() -> tuple[int, ...]:
    return tuple(int(number) for number in re.findall(r"\d+", os.uname().release)[:2])
