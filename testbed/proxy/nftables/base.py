"""The table of nftables mode without any Service: maps, base chains, and how a packet passes them.

    prerouting -110  firewall-check                          may this source use this load balancer?
    nat prerouting, output -100  services                    @service-ips, @service-nodeports: the verdict
    maps input, forward -110  *-endpoints-check, cluster-ips-check    reject, or drop, what nothing
    translated nat postrouting 100  masquerading                        what was marked

Owns kube-proxy's names of all these. Must not know Services.
"""

from __future__ import annotations

from collections.abc import Iterator

from testbed.proxy.model import Family
from testbed.proxy.nodeports import node_port_addresses
from testbed.proxy.proxier import ProxySettings

TABLE = "kube-proxy"
SERVICES = "services"
MARK = "mark-for-masquerade"
REJECT = "goto reject-chain"
DROP = "drop"

SERVICE_IPS = "service-ips"
NO_ENDPOINT_SERVICES = "no-endpoint-services"
FIREWALL_IPS = "firewall-ips"
SERVICE_NODEPORTS = "service-nodeports"
NO_ENDPOINT_NODEPORTS = "no-endpoint-nodeports"
CLUSTER_IPS = "cluster-ips"
NODEPORT_IPS = "nodeport-ips"

CONTAINERS = {
    CLUSTER_IPS: "set",
    SERVICE_IPS: "map",
    NO_ENDPOINT_SERVICES: "map",
    FIREWALL_IPS: "map",
    SERVICE_NODEPORTS: "map",
    NO_ENDPOINT_NODEPORTS: "map",
}
"""What holds elements of Services, by name."""

SERVICES_USES = 4
"""Uses of the chain `services` as the kernel counts them: its two rules and the two jumps to it."""


def ip(family: Family) -> str:
    """What nft calls the family: `ip` or `ip6`."""
    return "ip" if family is Family.IPV4 else "ip6"


def table(family: Family) -> str:
    """The table as commands name it."""
    return f"{ip(family)} {TABLE}"


def render_removal(family: Family) -> str:
    """Commands that remove the table, be it there or not."""
    return f"add table {table(family)}\ndelete table {table(family)}\n"


def render_base(settings: ProxySettings) -> Iterator[str]:
    """Commands that make the table, or put it right where it is there already; Services in it stay."""
    name = table(settings.family)
    yield f'add table {name} {{ comment "rules for kube-proxy" ; }}'
    for kind, container, declaration in _containers(settings.family):
        yield f"add {kind} {name} {container} {{ {declaration} ; }}"
    chains = list(_chains(settings))
    for chain, declaration, _ in chains:
        yield (
            f"add chain {name} {chain} {{ {declaration} ; }}" if declaration else f"add chain {name} {chain}"
        )
    for chain, _, rules in chains:
        yield f"flush chain {name} {chain}"
        for rule in rules:
            yield f"add rule {name} {chain} {rule}"
    yield f"flush set {name} {NODEPORT_IPS}"
    if addresses := node_port_ips(settings):
        yield f"add element {name} {NODEPORT_IPS} {{ {', '.join(addresses)} }}"


def count_base(settings: ProxySettings) -> int:
    """How many rules and elements the table has without any Service."""
    return sum(len(rules) for _, _, rules in _chains(settings)) + len(node_port_ips(settings))


def node_port_ips(settings: ProxySettings) -> list[str]:
    """The addresses on which NodePorts listen: the primary one, or as `nodeport_addresses` says."""
    if not settings.nodeport_addresses:
        return list(settings.node_ips[:1])
    return node_port_addresses(settings, settings.node_ips)


def _containers(family: Family) -> Iterator[tuple[str, str, str]]:
    """`set` or `map`, name and declaration."""
    address = "ipv4_addr" if family is Family.IPV4 else "ipv6_addr"
    place, port = f"{address} . inet_proto . inet_service", "inet_proto . inet_service"
    yield "set", CLUSTER_IPS, f'type {address} ; comment "Active ClusterIPs"'
    yield "set", NODEPORT_IPS, f'type {address} ; comment "IPs that accept NodePort traffic"'
    maps = (
        (NO_ENDPOINT_SERVICES, place, "vmap to drop or reject packets to services with no endpoints"),
        (
            NO_ENDPOINT_NODEPORTS,
            port,
            "vmap to drop or reject packets to nodeports with no endpoints",
        ),
        (FIREWALL_IPS, place, "destinations that are subject to LoadBalancerSourceRanges"),
        (SERVICE_IPS, place, "ClusterIP, ExternalIP and LoadBalancer IP traffic"),
        (SERVICE_NODEPORTS, port, "NodePort traffic"),
    )
    for name, key, comment in maps:
        yield "map", name, f'type {key} : verdict ; comment "{comment}"'


def _chains(settings: ProxySettings) -> Iterator[tuple[str, str, tuple[str, ...]]]:
    """Name, hook (empty for a regular chain) and rules."""
    family, mark = ip(settings.family), f"{settings.masquerade_mark:#x}"
    place = f"{family} daddr . meta l4proto . th dport vmap"
    node_port = f"{family} daddr @{NODEPORT_IPS} meta l4proto . th dport vmap"
    new = "ct state new jump"
    yield "filter-prerouting", _hook("filter", "prerouting", -110), (f"{new} firewall-check",)
    checks = (f"{new} nodeport-endpoints-check", f"{new} service-endpoints-check")
    yield "filter-input", _hook("filter", "input", -110), checks
    dead_ends = (f"{new} service-endpoints-check", f"{new} cluster-ips-check")
    yield "filter-forward", _hook("filter", "forward", -110), dead_ends
    yield "filter-output", _hook("filter", "output", -110), (f"{new} firewall-check",)
    yield (
        "filter-output-post-dnat",
        _hook("filter", "output", -90),
        (f"{new} nodeport-endpoints-check", *dead_ends),
    )
    yield "nat-prerouting", _hook("nat", "prerouting", -100), (f"jump {SERVICES}",)
    yield "nat-output", _hook("nat", "output", -100), (f"jump {SERVICES}",)
    yield "nat-postrouting", _hook("nat", "postrouting", 100), ("jump masquerading",)
    yield "firewall-check", "", (f"{place} @{FIREWALL_IPS}",)
    yield "service-endpoints-check", "", (f"{place} @{NO_ENDPOINT_SERVICES}",)
    yield "nodeport-endpoints-check", "", (f"{node_port} @{NO_ENDPOINT_NODEPORTS}",)
    yield "cluster-ips-check", "", (f"{family} daddr @{CLUSTER_IPS} {REJECT}",)
    yield SERVICES, "", (f"{place} @{SERVICE_IPS}", f"{node_port} @{SERVICE_NODEPORTS}")
    unmark = (
        f"mark and {mark} == 0 return",
        f"mark set mark xor {mark}",
        "masquerade fully-random",
    )
    yield "masquerading", "", unmark
    yield MARK, "", (f"mark set mark or {mark}",)
    yield "reject-chain", "", ("reject",)


def _hook(kind: str, hook: str, priority: int) -> str:
    return f"type {kind} hook {hook} priority {priority}"
