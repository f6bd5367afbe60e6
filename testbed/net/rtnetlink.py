"""Messages of the routing family: links, addresses, routes, neighbours.

Owns their layout (<linux/rtnetlink.h>, <linux/if_link.h>, <linux/neighbour.h>). Pure: values in, messages
out; a `NetlinkSocket` sends them. Must not know namespaces' roles.

Devices are given their index by whoever makes them, so that a whole batch can refer to a device which its
first message creates. Addresses are text, IPv4 or IPv6; the family follows from the text.
"""

from __future__ import annotations

import socket
import struct
from dataclasses import dataclass

from testbed.net.netlink import (
    NLM_F_CREATE,
    NLM_F_EXCL,
    NLM_F_REPLACE,
    Message,
    attribute,
    nested,
    text,
    u8,
    u32,
)

RTM_NEWLINK, RTM_DELLINK = 16, 17
RTM_NEWADDR = 20
RTM_NEWROUTE = 24
RTM_NEWNEIGH, RTM_DELNEIGH = 28, 29

LOOPBACK_INDEX = 1

_IFF_UP = 0x1
_IFLA_ADDRESS, _IFLA_IFNAME, _IFLA_MASTER, _IFLA_LINKINFO = 1, 3, 10, 18
_IFLA_NET_NS_FD, _IFLA_NUM_TX_QUEUES, _IFLA_NUM_RX_QUEUES = 28, 31, 32
_IFLA_INFO_KIND, _IFLA_INFO_DATA = 1, 2
_IFLA_BR_MCAST_SNOOPING = 23
_VETH_INFO_PEER = 1

_IFA_ADDRESS, _IFA_LOCAL = 1, 2
_IFA_F_NODAD = 0x2

_RTA_DST, _RTA_OIF, _RTA_GATEWAY = 1, 4, 5
_RT_TABLE_MAIN, _RTPROT_STATIC, _RTN_UNICAST = 254, 4, 1
_RT_SCOPE_UNIVERSE, _RT_SCOPE_LINK = 0, 253
_RTNH_F_ONLINK = 0x4

_NDA_DST, _NDA_LLADDR = 1, 2
_NUD_NOARP, _NUD_PERMANENT = 0x40, 0x80
_NTF_MASTER = 0x4

_LINK = struct.Struct("=BxHiII")
_ADDRESS = struct.Struct("=BBBBi")
_ROUTE = struct.Struct("=8BI")
_NEIGHBOUR = struct.Struct("=BxxxiHBB")

_NEW = NLM_F_CREATE | NLM_F_EXCL
# A veth's default is a queue for each CPU: 64 CPUs would make a pod's memory grow tenfold for nothing.
_ONE_QUEUE = u32(_IFLA_NUM_TX_QUEUES, 1) + u32(_IFLA_NUM_RX_QUEUES, 1)


@dataclass(frozen=True, slots=True)
class End:
    """One end of a veth pair: `mac` is 6 bytes, or empty for one of the kernel's choice."""

    name: str
    index: int
    mac: bytes = b""


def link_bridge(end: End) -> Message:
    """A bridge, up, with an address that does not change with its ports and no multicast timers."""
    kind = text(_IFLA_INFO_KIND, "bridge") + nested(_IFLA_INFO_DATA, u8(_IFLA_BR_MCAST_SNOOPING, 0))
    body = _link(end.index, up=True) + _named(end) + nested(_IFLA_LINKINFO, kind)
    return Message(RTM_NEWLINK, _NEW, body, f"add bridge {end.name}")


def link_veth(near: End, *, master: int, peer: End, peer_netns_fd: int) -> Message:
    """A veth pair: `near` here, up, a port of the bridge `master`; `peer`, down, born in another namespace.

    The peer cannot be made up in the same message: the kernel answers ENOTCONN.
    """
    born_there = _link(peer.index) + _named(peer) + u32(_IFLA_NET_NS_FD, peer_netns_fd) + _ONE_QUEUE
    pair = nested(_IFLA_INFO_DATA, nested(_VETH_INFO_PEER, born_there))
    body = b"".join(
        (
            _link(near.index, up=True),
            _named(near),
            u32(_IFLA_MASTER, master),
            _ONE_QUEUE,
            nested(_IFLA_LINKINFO, text(_IFLA_INFO_KIND, "veth"), pair),
        )
    )
    return Message(RTM_NEWLINK, _NEW, body, f"add veth {near.name} with peer {peer.name}")


def link_up(index: int) -> Message:
    """Bring a device up."""
    return Message(RTM_NEWLINK, 0, _link(index, up=True), f"set device {index} up")


def link_delete(index: int) -> Message:
    """Delete a device (and its peer). Costs the kernel about 20 ms: never in a loop."""
    return Message(RTM_DELLINK, 0, _link(index), f"delete device {index}")


def address_add(index: int, address: str) -> Message:
    """Give a device an address with its prefix length (`10.1.0.1/24`), usable at once."""
    return Message(RTM_NEWADDR, _NEW, _address(index, address), f"add address {address}")


def route_add(destination: str, *, index: int, gateway: str | None = None, onlink: bool = False) -> Message:
    """A route to a network (`10.1.0.0/16`), through a gateway or (without one) directly on the device.

    `onlink` accepts a gateway that no address of the device's contains, as pods with a /32 need.
    """
    network, _, prefix_length = destination.partition("/")
    family, packed = pack_address(network)
    scope = _RT_SCOPE_UNIVERSE if gateway or family == socket.AF_INET6 else _RT_SCOPE_LINK
    flags = _RTNH_F_ONLINK if onlink else 0
    header = _ROUTE.pack(
        family, int(prefix_length), 0, 0, _RT_TABLE_MAIN, _RTPROT_STATIC, scope, _RTN_UNICAST, flags
    )
    body = header + attribute(_RTA_DST, packed) + u32(_RTA_OIF, index)
    if gateway:
        body += attribute(_RTA_GATEWAY, pack_address(gateway)[1])
    return Message(RTM_NEWROUTE, _NEW, body, f"add route {destination} via {gateway or f'device {index}'}")


def neighbour_add(index: int, address: str, mac: bytes) -> Message:
    """A permanent neighbour: no ARP, no expiry, and not counted against gc_thresh3."""
    body = _neighbour(index, address, _NUD_PERMANENT) + attribute(_NDA_LLADDR, mac)
    return Message(RTM_NEWNEIGH, NLM_F_CREATE | NLM_F_REPLACE, body, f"add neighbour {address}")


def neighbour_delete(index: int, address: str) -> Message:
    """Forget a neighbour, permanent or not."""
    return Message(RTM_DELNEIGH, 0, _neighbour(index, address, 0), f"delete neighbour {address}")


def bridge_station_add(port: int, mac: bytes) -> Message:
    """Tell a bridge which port an address is behind, so that its first packet does not flood every port."""
    header = _NEIGHBOUR.pack(socket.AF_BRIDGE, port, _NUD_NOARP, _NTF_MASTER, 0)
    body = header + attribute(_NDA_LLADDR, mac)
    return Message(RTM_NEWNEIGH, NLM_F_CREATE | NLM_F_REPLACE, body, f"add {mac.hex(':')} to port {port}")


def mac_of(address: str) -> bytes:
    """The MAC of whoever has this IPv4 address: 0a:58 (locally administered) and its four bytes."""
    return b"\x0a\x58" + socket.inet_pton(socket.AF_INET, address)


def pack_address(address: str) -> tuple[int, bytes]:
    """Family and bytes of an address; raises OSError if it is none."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    return family, socket.inet_pton(family, address)


def _link(index: int, *, up: bool = False) -> bytes:
    flags = _IFF_UP if up else 0
    return _LINK.pack(socket.AF_UNSPEC, 0, index, flags, flags)


def _named(end: End) -> bytes:
    return text(_IFLA_IFNAME, end.name) + (attribute(_IFLA_ADDRESS, end.mac) if end.mac else b"")


def _address(index: int, address: str) -> bytes:
    host, _, prefix_length = address.partition("/")
    family, packed = pack_address(host)
    flags = _IFA_F_NODAD if family == socket.AF_INET6 else 0
    header = _ADDRESS.pack(family, int(prefix_length), flags, 0, index)
    return header + attribute(_IFA_LOCAL, packed) + attribute(_IFA_ADDRESS, packed)


def _neighbour(index: int, address: str, state: int) -> bytes:
    family, packed = pack_address(address)
    return _NEIGHBOUR.pack(family, index, state, 0, 0) + attribute(_NDA_DST, packed)
