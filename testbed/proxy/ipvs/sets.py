"""The ipsets of IPVS mode: their names, their types and what they are for.

Owns kube-proxy's set names and comments. Must not know Services, nor how sets are written.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from typing import NamedTuple

from testbed.proxy.model import Family

MAX_MEMBERS = 1 << 20
"""`maxelem` of the hash sets that we create; it costs nothing until used. (kube-proxy stops at 65,536.)"""

_MAX_NAME = 31  # IPSET_MAXNAMELEN without the terminating zero

PORT = "bitmap:port"
ADDRESS = "hash:ip"
ADDRESS_PORT = "hash:ip,port"
ADDRESS_PORT_ADDRESS = "hash:ip,port,ip"
ADDRESS_PORT_NET = "hash:ip,port,net"


class SetKind(NamedTuple):
    """One of the sets: its name without the family's prefix, its type, and what it is for."""

    name: str
    type: str
    purpose: str


LOOP_BACK = SetKind("LOOP-BACK", ADDRESS_PORT_ADDRESS, "endpoints dst ip:port, source ip for hairpin")
CLUSTER_IP = SetKind("CLUSTER-IP", ADDRESS_PORT, "service cluster ip + port for masquerade purpose")
EXTERNAL_IP = SetKind(
    "EXTERNAL-IP", ADDRESS_PORT, "service external ip + port for masquerade and filter purpose"
)
EXTERNAL_IP_LOCAL = SetKind("EXTERNAL-IP-LOCAL", ADDRESS_PORT, "service external ip + port with policy local")
LOAD_BALANCER = SetKind("LOAD-BALANCER", ADDRESS_PORT, "service lb portal")
LOAD_BALANCER_FW = SetKind(
    "LOAD-BALANCER-FW", ADDRESS_PORT, "service load balancer ip + port with source ranges"
)
LOAD_BALANCER_LOCAL = SetKind(
    "LOAD-BALANCER-LOCAL", ADDRESS_PORT, "service load balancer ip + port, policy local"
)
LOAD_BALANCER_SOURCE_IP = SetKind(
    "LOAD-BALANCER-SOURCE-IP",
    ADDRESS_PORT_ADDRESS,
    "service load balancer ip + port + source ip that may pass",
)
LOAD_BALANCER_SOURCE_CIDR = SetKind(
    "LOAD-BALANCER-SOURCE-CIDR",
    ADDRESS_PORT_NET,
    "service load balancer ip + port + source cidr that may pass",
)
NODE_PORT_TCP = SetKind("NODE-PORT-TCP", PORT, "nodeport TCP port for masquerade purpose")
NODE_PORT_UDP = SetKind("NODE-PORT-UDP", PORT, "nodeport UDP port for masquerade purpose")
NODE_PORT_SCTP = SetKind("NODE-PORT-SCTP-HASH", ADDRESS_PORT, "nodeport SCTP port for masquerade purpose")
NODE_PORT_LOCAL_TCP = SetKind("NODE-PORT-LOCAL-TCP", PORT, "nodeport TCP port with policy local")
NODE_PORT_LOCAL_UDP = SetKind("NODE-PORT-LOCAL-UDP", PORT, "nodeport UDP port with policy local")
NODE_PORT_LOCAL_SCTP = SetKind(
    "NODE-PORT-LOCAL-SCTP-HASH", ADDRESS_PORT, "nodeport SCTP port with policy local"
)
HEALTH_CHECK_NODE_PORT = SetKind("HEALTH-CHECK-NODE-PORT", PORT, "health check node port")
IPVS_IPS = SetKind("IPVS-IPS", ADDRESS, "addresses of the ipvs device")

KINDS = (
    LOOP_BACK,
    CLUSTER_IP,
    EXTERNAL_IP,
    EXTERNAL_IP_LOCAL,
    LOAD_BALANCER,
    LOAD_BALANCER_FW,
    LOAD_BALANCER_LOCAL,
    LOAD_BALANCER_SOURCE_IP,
    LOAD_BALANCER_SOURCE_CIDR,
    NODE_PORT_TCP,
    NODE_PORT_UDP,
    NODE_PORT_SCTP,
    NODE_PORT_LOCAL_TCP,
    NODE_PORT_LOCAL_UDP,
    NODE_PORT_LOCAL_SCTP,
    HEALTH_CHECK_NODE_PORT,
    IPVS_IPS,
)
NODE_PORT_SETS: Mapping[str, tuple[SetKind, SetKind]] = {
    "TCP": (NODE_PORT_TCP, NODE_PORT_LOCAL_TCP),
    "UDP": (NODE_PORT_UDP, NODE_PORT_LOCAL_UDP),
    "SCTP": (NODE_PORT_SCTP, NODE_PORT_LOCAL_SCTP),
}
"""By protocol: the set of all NodePorts, and of those whose external traffic policy is Local."""


def set_name(kind: SetKind, family: Family) -> str:
    """The set's full name, cut as kube-proxy cuts it; a set holds one family, so IPv6 has sets of its own."""
    prefix = "KUBE-" if family is Family.IPV4 else "KUBE-6-"
    return (prefix + kind.name)[:_MAX_NAME]


def source_nets(cidr: str) -> tuple[str, ...]:
    """A CIDR as members of a `net` set, which takes no prefix of length 0: everything is two halves."""
    network = ipaddress.ip_network(cidr, strict=False)
    halves = network.subnets() if network.prefixlen == 0 else (network,)
    return tuple(_as_ipset_prints(half) for half in halves)


def _as_ipset_prints(network: ipaddress.IPv4Network | ipaddress.IPv6Network) -> str:
    whole = network.prefixlen == network.max_prefixlen
    return str(network.network_address if whole else network)
