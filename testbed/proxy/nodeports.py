"""The node's own addresses, and those of them on which NodePorts listen.

Owns the reading of `--nodeport-addresses`, as kube-proxy reads it, and how addresses are asked of the kernel.
Must not know any mode.
"""

from __future__ import annotations

import ipaddress
import socket
import struct
from collections.abc import Sequence
from dataclasses import replace

from testbed.net.netlink import NETLINK_ROUTE, Message, NetlinkSocket, attributes
from testbed.proxy.model import Family
from testbed.proxy.proxier import ProxySettings

PRIMARY = "primary"
"""What `--nodeport-addresses` says for the first of the node's addresses."""

Network = ipaddress.IPv4Network | ipaddress.IPv6Network

# <linux/rtnetlink.h>, <linux/if_addr.h>
_RTM_GETADDR = 22
_IFA_ADDRESS, _IFA_LOCAL = 1, 2
_ADDRESS = struct.Struct("=BBBBI")
_INET = {Family.IPV4: socket.AF_INET, Family.IPV6: socket.AF_INET6}


def device_addresses(kernel: NetlinkSocket, family: Family) -> list[tuple[int, str]]:
    """Every address of this network namespace with the number of its device, in the order of the kernel."""
    inet = _INET[family]
    found = []
    dump = Message(_RTM_GETADDR, 0, _ADDRESS.pack(inet, 0, 0, 0, 0), "list addresses")
    for reply in kernel.dump(dump):
        of_family, _, _, _, device = _ADDRESS.unpack_from(reply.body)
        stated = attributes(reply.body, _ADDRESS.size)
        packed = stated.get(_IFA_LOCAL, stated.get(_IFA_ADDRESS))
        if of_family == inet and packed is not None:
            found.append((device, socket.inet_ntop(inet, packed)))
    return found


def reachable_addresses(family: Family) -> list[str]:
    """The addresses of the calling thread's namespace that others could use: no loopback, no link-local."""
    with NetlinkSocket(NETLINK_ROUTE) as kernel:
        addresses = [address for _, address in device_addresses(kernel, family)]
    return [address for address in dict.fromkeys(addresses) if is_reachable(address)]


def is_reachable(address: str) -> bool:
    """Whether others could use an address of this node."""
    parsed = ipaddress.ip_address(address)
    return not parsed.is_loopback and not parsed.is_link_local


def node_port_networks(settings: ProxySettings) -> list[Network] | None:
    """The ranges of this family on which NodePorts listen; None: on every address of the node.

    Ranges of the other family only leave this one without a limit.
    """
    chosen = settings.nodeport_addresses
    if PRIMARY in chosen:
        return [ipaddress.ip_network(address) for address in settings.node_ips[:1]]
    networks = [ipaddress.ip_network(cidr, strict=False) for cidr in chosen]
    version = 4 if settings.family is Family.IPV4 else 6
    networks = [network for network in networks if network.version == version]
    if not networks or any(network.prefixlen == 0 for network in networks):
        return None
    return networks


def node_port_addresses(settings: ProxySettings, addresses: Sequence[str]) -> list[str]:
    """Those of the node's `addresses` on which NodePorts listen."""
    networks = node_port_networks(settings)
    if networks is None:
        return list(addresses)
    return [
        address
        for address in addresses
        if any(ipaddress.ip_address(address) in network for network in networks)
    ]


def with_own_addresses(settings: ProxySettings) -> ProxySettings:
    """The settings with all of the node's addresses, its primary one first, if ranges choose among them."""
    if not settings.nodeport_addresses or PRIMARY in settings.nodeport_addresses:
        return settings
    addresses = (*settings.node_ips, *reachable_addresses(settings.family))
    return replace(settings, node_ips=tuple(dict.fromkeys(addresses)))
