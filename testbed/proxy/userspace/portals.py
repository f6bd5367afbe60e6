"""The iptables rules that lead a Service's traffic to its proxy port: pure rendering.

Owns the text of the portal chains. Must not know sockets, nor how rules are applied.

    nat PREROUTING ──► KUBE-PORTALS-CONTAINER   VIP:port from pods and from outside: REDIRECT
    nat OUTPUT     ──► KUBE-PORTALS-HOST        VIP:port from the node itself: DNAT to the node
    nat PREROUTING ──► KUBE-NODEPORT-CONTAINER  last, for local addresses: node ports
    nat OUTPUT     ──► KUBE-NODEPORT-HOST       the same from the node itself
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple, TypeVar

from testbed.proxy.iptables.restore import Jump
from testbed.proxy.model import ServicePort

K = TypeVar("K")

PORTALS_CONTAINER = "KUBE-PORTALS-CONTAINER"
PORTALS_HOST = "KUBE-PORTALS-HOST"
NODEPORT_CONTAINER = "KUBE-NODEPORT-CONTAINER"
NODEPORT_HOST = "KUBE-NODEPORT-HOST"
CHAINS = (PORTALS_CONTAINER, PORTALS_HOST, NODEPORT_CONTAINER, NODEPORT_HOST)

ANCHOR = "KUBE-PORTALS-ANCHOR"
"""A chain that no packet meets, with one rule that needs connection tracking.

The kernel stops tracking connections in a namespace when the last rule that needs it goes. Without the anchor
the deletion of the last Service would cut the connections that were made through it.
"""

ANCHOR_RULE = f"-A {ANCHOR} -m conntrack --ctstate ESTABLISHED -j RETURN"

ANY_ADDRESS = "0.0.0.0"  # noqa: S104

_PORTALS_COMMENT = "handle ClusterIPs; NOTE: this must be before the NodePort rules"
_NODEPORT_COMMENT = "handle service NodePorts; NOTE: this must be the last rule in the chain"


class Portal(NamedTuple):
    """One Service port and where its traffic must arrive; `listen_address` is the proxy port's own."""

    service: ServicePort
    proxy_port: int
    listen_address: str
    node_address: str


def jumps(nodeport_cidrs: Sequence[str] = ()) -> tuple[Jump, ...]:
    """The jumps from the built-in chains; node ports are served on `nodeport_cidrs`, empty for everywhere."""
    local = [f"-d {cidr} -m addrtype --dst-type LOCAL" for cidr in nodeport_cidrs]
    return (
        Jump("nat", "PREROUTING", PORTALS_CONTAINER, _PORTALS_COMMENT),
        Jump("nat", "OUTPUT", PORTALS_HOST, _PORTALS_COMMENT),
        *(
            Jump("nat", chain, target, _NODEPORT_COMMENT, match, last=True)
            for chain, target in (("PREROUTING", NODEPORT_CONTAINER), ("OUTPUT", NODEPORT_HOST))
            for match in local or ["-m addrtype --dst-type LOCAL"]
        ),
    )


def rules(portal: Portal) -> tuple[str, ...]:
    """The rules of one portal, each as `CHAIN matches -j target`: what follows `-A` or `-D`."""
    service = portal.service
    common = f'-p {service.protocol} -m comment --comment "{service.name}"'
    here = f"-j REDIRECT --to-ports {portal.proxy_port}"
    if portal.listen_address == ANY_ADDRESS:
        node = f"-j DNAT --to-destination {portal.node_address}:{portal.proxy_port}"
    else:
        here = node = f"-j DNAT --to-destination {portal.listen_address}:{portal.proxy_port}"
    lines = []
    for vip in dict.fromkeys((service.cluster_ip, *service.external_ips, *service.load_balancer_ips)):
        match = f"-d {vip}/32 {common} --dport {service.port}"
        lines += [f"{PORTALS_CONTAINER} {match} {here}", f"{PORTALS_HOST} {match} {node}"]
    if service.node_port:
        match = f"{common} --dport {service.node_port}"
        lines += [f"{NODEPORT_CONTAINER} {match} {here}", f"{NODEPORT_HOST} {match} {node}"]
    return tuple(lines)


def whole(portals: Iterable[Sequence[str]]) -> list[str]:
    """Lines of a nat section that replace all portal chains; takes what `rules` gave for each portal."""
    declared = [f":{chain} - [0:0]" for chain in (*CHAINS, ANCHOR)]
    return [*declared, ANCHOR_RULE] + [f"-A {rule}" for portal in portals for rule in portal]


def difference(before: Mapping[K, Sequence[str]], after: Mapping[K, Sequence[str]]) -> list[str]:
    """Lines of a nat section that lead from the rules of some portals to other rules of them.

    The order of portals means nothing: no two match the same packet.
    """
    names = dict.fromkeys((*before, *after))
    old = {name: before.get(name, ()) for name in names}
    new = {name: after.get(name, ()) for name in names}
    gone = [f"-D {rule}" for name in names for rule in old[name] if rule not in new[name]]
    come = [f"-A {rule}" for name in names for rule in new[name] if rule not in old[name]]
    return gone + come
