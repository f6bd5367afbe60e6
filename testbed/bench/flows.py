"""Forgetting the connections that conntrack remembers in a namespace.

Owns one ctnetlink message. Must not know why it is sent.
"""

from __future__ import annotations

import socket
import struct

from testbed.net.namespace import Namespace
from testbed.net.netlink import NETLINK_NETFILTER, Message, NetlinkSocket

# <linux/netfilter/nfnetlink_conntrack.h>: IPCTNL_MSG_CT_DELETE of NFNL_SUBSYS_CTNETLINK; without a tuple it
# means all of them.
_CT_DELETE = 1 << 8 | 2
_NFGENMSG = struct.pack("=BBH", socket.AF_INET, 0, 0)


def forget_flows(namespace: Namespace) -> None:
    """Empty a namespace's conntrack table. Raises NetlinkRefused where the kernel does not let us."""
    with NetlinkSocket(NETLINK_NETFILTER, namespace) as kernel:
        kernel.send_batch([Message(_CT_DELETE, 0, _NFGENMSG, "flush of tracked connections")])
