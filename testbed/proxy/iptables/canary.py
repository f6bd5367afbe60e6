"""Has somebody flushed our rules? A chain with one harmless rule in every table tells.

Owns the canary chain and the cheap ways to see that a table has not changed since it was last looked at,
which matter because a look makes the legacy variant read the whole table: 0.3 s for 160,000 rules. Must not
know what to do about a flush.
"""

from __future__ import annotations

import ctypes
import socket
import struct
from collections.abc import Sequence

from testbed.errors import NetlinkRefused
from testbed.net import netlink
from testbed.net.netlink import Message, NetlinkSocket, attributes
from testbed.proxy.iptables.restore import Iptables
from testbed.proxy.model import Family

CHAIN = "KUBE-PROXY-CANARY"
RULE = f"-A {CHAIN} -j RETURN"

# <linux/netfilter_ipv4/ip_tables.h>, <linux/netfilter_ipv6/ip6_tables.h>: name, hooks, entry points,
# underflows, number of entries, size
_GETINFO = struct.Struct("=32s I 5I 5I I I")
_SO_GET_INFO = 64
_IPPROTO_LEVEL = {
    Family.IPV4: (socket.AF_INET, socket.IPPROTO_IP),
    Family.IPV6: (socket.AF_INET6, socket.IPPROTO_IPV6),
}
# <linux/netfilter/nf_tables.h>
_NFT_MSG_GETGEN = 10 << 8 | 16
_NFTA_GEN_ID = 1
_libc = ctypes.CDLL(None, use_errno=True)
_NFGENMSG = struct.pack("=BBH", socket.AF_UNSPEC, 0, 0)


class Canary:
    """Watches some tables of one family in the caller's network namespace.

    `rule`, as `iptables -S` prints it, is the only one of `chain`.
    """

    def __init__(
        self, iptables: Iptables, tables: Sequence[str], *, chain: str = CHAIN, rule: str = RULE
    ) -> None:
        self._iptables = iptables
        self._tables = tables
        self._chain = chain
        self._rule = rule
        self._seen: dict[str, bytes] = {}

    def flushed(self) -> list[str]:
        """The tables that have lost their canary since it was written."""
        return [table for table in self._tables if not self._sings(table)]

    def _sings(self, table: str) -> bool:
        state = self._state(table)
        if state and state == self._seen.get(table):
            return True
        self._seen.pop(table, None)
        listed = self._iptables.call(table, "-S", self._chain, check=False)
        sings = listed.exit_status == 0 and self._rule in listed.stdout.splitlines()
        if sings:
            self._seen[table] = state  # taken before the look: what changed after it is looked at again
        return sings

    def _state(self, table: str) -> bytes:
        """Differs after every flush; empty where the kernel does not tell."""
        try:
            return _generation() if self._iptables.variant == "nft" else self._legacy_state(table)
        except (OSError, NetlinkRefused):
            return b""

    def _legacy_state(self, table: str) -> bytes:
        """Entry points, number of entries and size of a table."""
        inet, level = _IPPROTO_LEVEL[self._iptables.family]
        request = _GETINFO.pack(table.encode(), *[0] * 13)
        with socket.socket(inet, socket.SOCK_RAW, socket.IPPROTO_RAW) as kernel:
            return _getsockopt(kernel.fileno(), level, _SO_GET_INFO, request)


def _getsockopt(fd: int, level: int, option: int, request: bytes) -> bytes:
    """getsockopt(2) with input: Python's own passes none, and here it is the table's name."""
    buffer = ctypes.create_string_buffer(request, len(request))
    length = ctypes.c_uint(len(request))
    if _libc.getsockopt(fd, level, option, buffer, ctypes.byref(length)) != 0:
        raise OSError(ctypes.get_errno(), "getsockopt")
    return buffer.raw


def _generation() -> bytes:
    """The number of changes to the namespace's nf_tables rules so far."""
    with NetlinkSocket(netlink.NETLINK_NETFILTER) as kernel:
        reply = kernel.request(Message(_NFT_MSG_GETGEN, 0, _NFGENMSG, "generation of the nf_tables rules"))
    return attributes(reply.body, len(_NFGENMSG))[_NFTA_GEN_ID]
