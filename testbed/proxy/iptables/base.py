"""The part of iptables mode that does not depend on any Service: base chains, their rules and the jumps.

Owns what a full sync writes besides the Services. Must not run anything.
"""

from __future__ import annotations

from testbed.proxy.iptables import names
from testbed.proxy.iptables.restore import Jump
from testbed.proxy.model import Family
from testbed.proxy.nodeports import node_port_addresses, node_port_networks
from testbed.proxy.proxier import ProxySettings

_NEW = "-m conntrack --ctstate NEW"

JUMPS = (
    Jump("filter", "INPUT", names.EXTERNAL_SERVICES, "kubernetes externally-visible service portals", _NEW),
    Jump("filter", "FORWARD", names.EXTERNAL_SERVICES, "kubernetes externally-visible service portals", _NEW),
    Jump("filter", "INPUT", names.NODEPORTS, "kubernetes health check service ports"),
    Jump("filter", "FORWARD", names.SERVICES, "kubernetes service portals", _NEW),
    Jump("filter", "OUTPUT", names.SERVICES, "kubernetes service portals", _NEW),
    Jump("filter", "FORWARD", names.FORWARD, "kubernetes forwarding rules"),
    Jump("filter", "INPUT", names.PROXY_FIREWALL, "kubernetes load balancer firewall", _NEW),
    Jump("filter", "OUTPUT", names.PROXY_FIREWALL, "kubernetes load balancer firewall", _NEW),
    Jump("filter", "FORWARD", names.PROXY_FIREWALL, "kubernetes load balancer firewall", _NEW),
    Jump("filter", "INPUT", names.FIREWALL),
    Jump("filter", "OUTPUT", names.FIREWALL),
    Jump("nat", "OUTPUT", names.SERVICES, "kubernetes service portals"),
    Jump("nat", "PREROUTING", names.SERVICES, "kubernetes service portals"),
    Jump("nat", "POSTROUTING", names.POSTROUTING, "kubernetes postrouting rules"),
)
"""How packets get from the built-in chains into ours; each is put first, so the last of a chain wins."""

CHAINS = {
    "filter": (
        names.SERVICES,
        names.EXTERNAL_SERVICES,
        names.FORWARD,
        names.NODEPORTS,
        names.PROXY_FIREWALL,
        names.FIREWALL,
    ),
    "nat": (names.SERVICES, names.NODEPORTS, names.POSTROUTING, names.MARK_MASQ),
}
"""The chains of each table that are there whatever Services exist."""


def forward_rules(settings: ProxySettings) -> list[str]:
    """KUBE-FORWARD: let Service traffic pass, but INVALID packets, which would reset connections, never."""
    mark = f"0x{settings.masquerade_mark:x}"
    allow = '-m comment --comment "kubernetes forwarding rules"'
    keep = '-m comment --comment "kubernetes forwarding conntrack rule"'
    return [
        f"-A {names.FORWARD} -m conntrack --ctstate INVALID -j DROP",
        f"-A {names.FORWARD} {allow} -m mark --mark {mark}/{mark} -j ACCEPT",
        f"-A {names.FORWARD} {keep} -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT",
    ]


def firewall_rules(settings: ProxySettings) -> list[str]:
    """KUBE-FIREWALL: route_localnet, which NodePorts on 127.0.0.1 need, must not open it to neighbours."""
    if settings.family is Family.IPV6:
        return []
    return [
        f'-A {names.FIREWALL} -m comment --comment "block incoming localnet connections" -d 127.0.0.0/8'
        " ! -s 127.0.0.0/8 -m conntrack ! --ctstate RELATED,ESTABLISHED,DNAT -j DROP"
    ]


def postrouting_rules(settings: ProxySettings) -> list[str]:
    """KUBE-POSTROUTING and KUBE-MARK-MASQ: masquerade what was marked, and unmark it for further rounds."""
    mark = f"0x{settings.masquerade_mark:x}"
    return [
        f"-A {names.POSTROUTING} -m mark ! --mark {mark}/{mark} -j RETURN",
        f"-A {names.POSTROUTING} -j MARK --xor-mark {mark}",
        f'-A {names.POSTROUTING} -m comment --comment "kubernetes service traffic requiring SNAT"'
        " -j MASQUERADE --random-fully",
        f"-A {names.MARK_MASQ} -j MARK --or-mark {mark}",
    ]


def nodeports_rules(settings: ProxySettings) -> list[str]:
    """The end of KUBE-SERVICES: what is for an address of this node may be for a NodePort."""
    comment = (
        '-m comment --comment "kubernetes service nodeports; NOTE: this must be the last rule in this chain"'
    )
    start = f"-A {names.SERVICES} {comment}"
    if node_port_networks(settings) is not None:
        addresses = node_port_addresses(settings, settings.node_ips)
        return [f"{start} -d {address} -j {names.NODEPORTS}" for address in addresses]
    if settings.family is Family.IPV6:
        local = " ! -d ::1/128"  # the kernel never translates ::1
    else:
        local = "" if settings.localhost_nodeports else " ! -d 127.0.0.0/8"
    return [f"{start} -m addrtype --dst-type LOCAL{local} -j {names.NODEPORTS}"]
