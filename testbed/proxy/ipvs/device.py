"""The door to `kube-ipvs0`, the dummy device that holds the service addresses, and to the node's addresses.

Owns the rtnetlink messages that this takes. The device is never set up: an address on it is the node's own
all the same, and nothing is ever sent through it. Must not know Services.
"""

from __future__ import annotations

import errno
import ipaddress
import socket
import struct
from collections.abc import Iterable, Sequence
from types import TracebackType
from typing import Self

from testbed.errors import MachineLacks, NetlinkRefused
from testbed.net.netlink import (
    NETLINK_ROUTE,
    NLM_F_CREATE,
    NLM_F_EXCL,
    Message,
    NetlinkSocket,
    attribute,
    nested,
    text,
    u32,
)
from testbed.proxy.ipvs.model import DEVICE
from testbed.proxy.model import Family
from testbed.proxy.nodeports import device_addresses, is_reachable

# <linux/rtnetlink.h>, <linux/if_link.h>, <linux/if_addr.h>
_RTM_NEWLINK, _RTM_DELLINK = 16, 17
_RTM_NEWADDR, _RTM_DELADDR = 20, 21
_IFLA_IFNAME, _IFLA_LINKINFO, _IFLA_INFO_KIND = 3, 18, 1
_IFA_ADDRESS, _IFA_LOCAL, _IFA_FLAGS = 1, 2, 8
_IFA_F_NODAD = 0x02

_LINK = struct.Struct("=BxHiII")
_ADDRESS = struct.Struct("=BBBBI")
_FAMILIES = {Family.IPV4: socket.AF_INET, Family.IPV6: socket.AF_INET6}


class ServiceDevice:
    """`kube-ipvs0` of the calling thread's network namespace, for one IP family."""

    def __init__(self, family: Family) -> None:
        self._family = family
        self._inet = _FAMILIES[family]
        self._socket = NetlinkSocket(NETLINK_ROUTE)

    def ensure(self) -> None:
        """Create the device unless it exists. Raises MachineLacks without the dummy driver."""
        body = _LINK.pack(socket.AF_UNSPEC, 0, 0, 0, 0) + text(_IFLA_IFNAME, DEVICE)
        body += nested(_IFLA_LINKINFO, text(_IFLA_INFO_KIND, "dummy"))
        message = Message(_RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL, body, f"create {DEVICE}")
        try:
            self._socket.send_batch([message], accept=(errno.EEXIST,))
        except NetlinkRefused as refused:
            if refused.errno != errno.EOPNOTSUPP:
                raise
            lacking = "this kernel has no dummy devices"
            raise MachineLacks(lacking, "load their module (modprobe dummy)") from refused

    def exists(self) -> bool:
        """Whether the device is there."""
        return _index() is not None

    def delete(self) -> None:
        """Delete the device with its addresses, if it is there."""
        body = _LINK.pack(socket.AF_UNSPEC, 0, 0, 0, 0) + text(_IFLA_IFNAME, DEVICE)
        self._socket.send_batch(
            [Message(_RTM_DELLINK, 0, body, f"delete {DEVICE}")], accept=(errno.ENODEV, errno.EINVAL)
        )

    def add(self, addresses: Iterable[str]) -> int:
        """Put addresses on the device; the number of messages. Raises NetlinkRefused."""
        messages = self._messages(_RTM_NEWADDR, NLM_F_CREATE | NLM_F_EXCL, addresses, "add")
        return len(self._socket.send_batch(messages, accept=(errno.EEXIST,)))

    def remove(self, addresses: Iterable[str]) -> int:
        """Take addresses off the device; the number of messages. Raises NetlinkRefused."""
        messages = self._messages(_RTM_DELADDR, 0, addresses, "remove")
        return len(self._socket.send_batch(messages, accept=(errno.EADDRNOTAVAIL, errno.ENODEV)))

    def addresses(self) -> tuple[set[str], list[str]]:
        """The addresses on the device, and the node's other ones that clients could use.

        Loopback and link-local addresses are nobody's way to a NodePort and left out; they are in the order
        of the kernel.
        """
        index = _index()
        bound: set[str] = set()
        node: list[str] = []
        for device, address in device_addresses(self._socket, self._family):
            if device == index:
                bound.add(address)
            elif is_reachable(address):
                node.append(address)
        if self._family is Family.IPV6:
            bound = {address for address in bound if not ipaddress.ip_address(address).is_link_local}
        return bound, list(dict.fromkeys(node))

    def close(self) -> None:
        """Close the socket; the device stays."""
        self._socket.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _messages(self, kind: int, flags: int, addresses: Iterable[str], verb: str) -> Sequence[Message]:
        index = _index() or 0
        head = _ADDRESS.pack(self._inet, self._family.bits, 0, 0, index)
        tail = u32(_IFA_FLAGS, _IFA_F_NODAD) if self._family is Family.IPV6 else b""
        messages = []
        for address in addresses:
            packed = socket.inet_pton(self._inet, address)
            body = head + attribute(_IFA_LOCAL, packed) + attribute(_IFA_ADDRESS, packed) + tail
            messages.append(Message(kind, flags, body, f"{verb} {address} on {DEVICE}"))
        return messages


def _index() -> int | None:
    try:
        return socket.if_nametoindex(DEVICE)
    except OSError:
        return None
