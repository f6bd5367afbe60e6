"""Removes UDP flows that conntrack would keep sending to where a Service no longer leads.

A UDP "connection" lives as long as its client keeps talking, so that without this a client would stay with a
deleted endpoint, or with none, for ever. Owns the ctnetlink messages. Must not know how rules are written.
TCP is never touched: established connections survive.
"""

from __future__ import annotations

import errno
import socket
import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from testbed.net import netlink
from testbed.net.netlink import Message, NetlinkSocket, attribute, attributes
from testbed.proxy.changes import Delta
from testbed.proxy.model import Endpoint, Family, ServicePort
from testbed.proxy.servicemap import ServiceMap

# <linux/netfilter/nfnetlink_conntrack.h>
_CT_GET = 1 << 8 | 1
_CT_DELETE = 1 << 8 | 2
_CTA_TUPLE_ORIG = 1
_CTA_TUPLE_REPLY = 2
_CTA_TUPLE_IP = 1
_CTA_TUPLE_PROTO = 2
_CTA_IP_SOURCE = {Family.IPV4: 1, Family.IPV6: 3}
_CTA_IP_DESTINATION = {Family.IPV4: 2, Family.IPV6: 4}
_CTA_PROTO_NUM = 1
_CTA_PROTO_SRC_PORT = 2
_CTA_PROTO_DST_PORT = 3
_NFGENMSG = struct.Struct("=BBH")
_INET = {Family.IPV4: socket.AF_INET, Family.IPV6: socket.AF_INET6}

Backend = tuple[bytes, int]
"""Packed address and port of an endpoint."""


@dataclass(frozen=True, slots=True)
class Frontends:
    """Where clients of some Services send to, each with the endpoints that are right for it now.

    `addresses` is keyed by packed address and port; `node_ports` by the port alone, since a NodePort is on
    every address of the node.
    """

    addresses: Mapping[tuple[bytes, int], frozenset[Backend]]
    node_ports: Mapping[int, frozenset[Backend]]

    def backends(self, address: bytes, port: int) -> frozenset[Backend] | None:
        """The right endpoints for a destination; None if it is none of these Services."""
        found = self.addresses.get((address, port))
        return found if found is not None else self.node_ports.get(port)


def udp_frontends(delta: Delta, services: ServiceMap, family: Family) -> Frontends:
    """The frontends of the UDP ports in `delta`, those that they had before it included."""
    addresses: dict[tuple[bytes, int], frozenset[Backend]] = {}
    node_ports: dict[int, frozenset[Backend]] = {}
    inet = _INET[family]
    for port, reachable in _udp_ports(delta, services):
        backends = frozenset((socket.inet_pton(inet, each.address), each.port) for each in reachable)
        for address in (port.cluster_ip, *port.external_ips, *port.load_balancer_ips):
            addresses[socket.inet_pton(inet, address), port.port] = backends
        if port.node_port:
            node_ports[port.node_port] = backends
    return Frontends(addresses, node_ports)


def remove_stale_flows(frontends: Frontends, family: Family) -> int:
    """Delete the UDP flows to `frontends` that are answered by anything but a right endpoint; their number.

    Raises NetlinkRefused where conntrack cannot be read or changed.
    """
    if not frontends.addresses and not frontends.node_ports:
        return 0
    header = _NFGENMSG.pack(_INET[family], 0, 0)
    with NetlinkSocket(netlink.NETLINK_NETFILTER) as kernel:
        flows = kernel.dump(Message(_CT_GET, 0, header, "list of tracked connections"))
        doomed = [
            Message(_CT_DELETE, 0, header + tuple_attribute, "deletion of a tracked connection")
            for reply in flows
            if (tuple_attribute := _stale(reply.body, frontends, family))
        ]
        kernel.send_batch(doomed, accept=(errno.ENOENT,))  # it may have expired meanwhile
    return len(doomed)


def _stale(body: bytes, frontends: Frontends, family: Family) -> bytes:
    """The attribute that names a flow, if the flow is stale; else nothing."""
    fields = attributes(body, _NFGENMSG.size)
    original = attributes(fields[_CTA_TUPLE_ORIG])
    protocol = attributes(original[_CTA_TUPLE_PROTO])
    if protocol[_CTA_PROTO_NUM][0] != socket.IPPROTO_UDP:
        return b""
    destination = attributes(original[_CTA_TUPLE_IP])[_CTA_IP_DESTINATION[family]]
    backends = frontends.backends(destination, int.from_bytes(protocol[_CTA_PROTO_DST_PORT], "big"))
    if backends is None:
        return b""
    reply = attributes(fields[_CTA_TUPLE_REPLY])
    source = attributes(reply[_CTA_TUPLE_IP])[_CTA_IP_SOURCE[family]]
    port = int.from_bytes(attributes(reply[_CTA_TUPLE_PROTO])[_CTA_PROTO_SRC_PORT], "big")
    if (source, port) in backends:
        return b""
    return attribute(_CTA_TUPLE_ORIG | netlink.NLA_F_NESTED, fields[_CTA_TUPLE_ORIG])


def _udp_ports(delta: Delta, services: ServiceMap) -> Iterable[tuple[ServicePort, tuple[Endpoint, ...]]]:
    """UDP ports of the delta with what they lead to.

    Their former state leads nowhere and comes first, so that the present one overrides it.
    """
    changed = [name for name in delta.changed if name.protocol == "UDP"]
    for name in changed:
        if name in delta.before:
            yield delta.before[name], ()
    for name in changed:
        if name in services:
            yield services[name], services.choice(name).reachable
