"""The iptables rules of IPVS mode: a constant number of them, whatever the number of Services.

Owns kube-proxy's chain names for this mode and the pure rendering. Must not run anything nor know Services:
what differs between Services is in the ipsets that the rules match.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from testbed.proxy.iptables.restore import Jump, section
from testbed.proxy.ipvs import sets
from testbed.proxy.ipvs.sets import SetKind, set_name
from testbed.proxy.proxier import ProxySettings

NAT_CHAINS = (
    "KUBE-SERVICES",
    "KUBE-POSTROUTING",
    "KUBE-NODE-PORT",
    "KUBE-LOAD-BALANCER",
    "KUBE-MARK-MASQ",
)
FILTER_CHAINS = (
    "KUBE-FORWARD",
    "KUBE-NODE-PORT",
    "KUBE-PROXY-FIREWALL",
    "KUBE-SOURCE-RANGES-FIREWALL",
    "KUBE-IPVS-FILTER",
    "KUBE-IPVS-OUT-FILTER",
)
CHAINS: Mapping[str, Sequence[str]] = {"nat": NAT_CHAINS, "filter": FILTER_CHAINS}

OWN_CHAINS: Mapping[str, Sequence[str]] = {
    "nat": ("KUBE-NODE-PORT", "KUBE-LOAD-BALANCER"),
    "filter": ("KUBE-NODE-PORT", "KUBE-SOURCE-RANGES-FIREWALL", "KUBE-IPVS-FILTER", "KUBE-IPVS-OUT-FILTER"),
}
"""The chains that no other mode has."""

_PORTALS = "kubernetes service portals"
JUMPS = (
    Jump("nat", "OUTPUT", "KUBE-SERVICES", _PORTALS),
    Jump("nat", "PREROUTING", "KUBE-SERVICES", _PORTALS),
    Jump("nat", "POSTROUTING", "KUBE-POSTROUTING", "kubernetes postrouting rules"),
    Jump("filter", "FORWARD", "KUBE-FORWARD", "kubernetes forwarding rules"),
    Jump("filter", "INPUT", "KUBE-NODE-PORT", "kubernetes health check rules"),
    Jump("filter", "INPUT", "KUBE-PROXY-FIREWALL", "kube-proxy firewall rules"),
    Jump("filter", "FORWARD", "KUBE-PROXY-FIREWALL", "kube-proxy firewall rules"),
    Jump("filter", "INPUT", "KUBE-IPVS-FILTER", "kubernetes ipvs access filter"),
    Jump("filter", "OUTPUT", "KUBE-IPVS-OUT-FILTER", "kubernetes ipvs access filter"),
)
SHARED_CHAINS: Mapping[str, Sequence[str]] = {
    table: [chain for chain in chains if chain not in OWN_CHAINS[table]] for table, chains in CHAINS.items()
}
"""The chains that iptables mode has too, with other rules."""


def render_rules(settings: ProxySettings) -> str:
    """The restore input of both tables: all chains declared (and so emptied), then their rules."""
    writer = _Writer(settings)
    return section("nat", [*_declared(NAT_CHAINS), *writer.nat()]) + section(
        "filter", [*_declared(FILTER_CHAINS), *writer.filter()]
    )


def count_rules(text: str) -> dict[str, int]:
    """Rules of restore input, by table."""
    counts: dict[str, int] = {}
    table = ""
    for line in text.splitlines():
        if line.startswith("*"):
            table = line[1:]
        elif line.startswith("-A "):
            counts[table] = counts.get(table, 0) + 1
    return counts


def _declared(chains: Sequence[str]) -> list[str]:
    return [f":{chain} - [0:0]" for chain in chains]


class _Writer:
    """The rules of one family and one set of settings."""

    def __init__(self, settings: ProxySettings) -> None:
        self._family = settings.family
        self._cluster_cidr = settings.cluster_cidr
        self._masquerade_all = settings.masquerade_all
        self._mark = f"{settings.masquerade_mark:#x}"

    def nat(self) -> list[str]:
        """What gets masqueraded."""
        mark = self._mark
        return [
            *self._services(),
            self._rule("KUBE-LOAD-BALANCER", "RETURN", sets.LOAD_BALANCER_LOCAL),
            "-A KUBE-LOAD-BALANCER -j KUBE-MARK-MASQ",
            *self._node_ports(),
            self._rule("KUBE-POSTROUTING", "MASQUERADE", sets.LOOP_BACK, "dst,dst,src"),
            f"-A KUBE-POSTROUTING -m mark ! --mark {mark}/{mark} -j RETURN",
            f"-A KUBE-POSTROUTING -j MARK --xor-mark {mark}",
            "-A KUBE-POSTROUTING -j MASQUERADE --random-fully",
            f"-A KUBE-MARK-MASQ -j MARK --or-mark {mark}",
        ]

    def _services(self) -> list[str]:
        """Traffic to service addresses; what is accepted here does not pass for NodePort traffic below.

        A node that talks to an address of its own device carries that address as its source, which no other
        node could answer: even under policy Local such traffic is masqueraded.
        """
        own = "-m addrtype --src-type LOCAL"
        chain, masquerade = "KUBE-SERVICES", "KUBE-MARK-MASQ"
        return [
            self._rule(chain, masquerade, sets.LOAD_BALANCER_LOCAL, extra=own),
            self._rule(chain, "KUBE-LOAD-BALANCER", sets.LOAD_BALANCER),
            self._masqueraded_cluster_ips(),
            self._rule(chain, masquerade, sets.EXTERNAL_IP),
            self._rule(chain, masquerade, sets.EXTERNAL_IP_LOCAL, extra=own),
            *(
                self._rule(chain, "ACCEPT", kind)
                for kind in (sets.CLUSTER_IP, sets.LOAD_BALANCER, sets.EXTERNAL_IP, sets.EXTERNAL_IP_LOCAL)
            ),
            f"-A {chain} -m addrtype --dst-type LOCAL -j KUBE-NODE-PORT",
        ]

    def _masqueraded_cluster_ips(self) -> str:
        if self._masquerade_all:
            return self._rule("KUBE-SERVICES", "KUBE-MARK-MASQ", sets.CLUSTER_IP)
        if self._cluster_cidr:
            outside = f"! -s {self._cluster_cidr}"
            return self._rule("KUBE-SERVICES", "KUBE-MARK-MASQ", sets.CLUSTER_IP, extra=outside)
        return self._rule("KUBE-SERVICES", "KUBE-MARK-MASQ", sets.CLUSTER_IP, "src,dst")

    def _node_ports(self) -> list[str]:
        rules = []
        for protocol, (every, local) in sets.NODE_PORT_SETS.items():
            match = "dst" if every.type == sets.PORT else "dst,dst"
            only = f"-p {protocol.lower()}"
            rules.append(self._rule("KUBE-NODE-PORT", "RETURN", local, match, only))
            rules.append(self._rule("KUBE-NODE-PORT", "KUBE-MARK-MASQ", every, match, only))
        return rules

    def filter(self) -> list[str]:
        """What passes the node, and which ports of service addresses are no ports of the node's own."""
        mark = self._mark
        fenced, gate = "KUBE-PROXY-FIREWALL", "KUBE-SOURCE-RANGES-FIREWALL"
        return [
            f"-A KUBE-FORWARD -m mark --mark {mark}/{mark} -j ACCEPT",
            "-A KUBE-FORWARD -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT",
            self._rule("KUBE-NODE-PORT", "ACCEPT", sets.HEALTH_CHECK_NODE_PORT, "dst"),
            self._rule(fenced, gate, sets.LOAD_BALANCER_FW),
            self._rule(gate, "RETURN", sets.LOAD_BALANCER_SOURCE_CIDR, "dst,dst,src"),
            self._rule(gate, "RETURN", sets.LOAD_BALANCER_SOURCE_IP, "dst,dst,src"),
            f"-A {gate} -j DROP",
            *self._undefined_ports("KUBE-IPVS-FILTER"),
            *self._undefined_ports("KUBE-IPVS-OUT-FILTER"),
        ]

    def _undefined_ports(self, chain: str) -> list[str]:
        portals = (sets.LOAD_BALANCER, sets.CLUSTER_IP, sets.EXTERNAL_IP, sets.EXTERNAL_IP_LOCAL)
        return [
            *(self._rule(chain, "RETURN", kind) for kind in portals),
            self._rule(chain, "RETURN", sets.HEALTH_CHECK_NODE_PORT, "dst"),
            self._rule(chain, "REJECT", sets.IPVS_IPS, "dst", "-m conntrack --ctstate NEW"),
        ]

    def _rule(self, chain: str, target: str, kind: SetKind, match: str = "dst,dst", extra: str = "") -> str:
        comment = f'-m comment --comment "Kubernetes {kind.purpose}"'
        matched = f"-m set --match-set {set_name(kind, self._family)} {match}"
        return " ".join(part for part in (f"-A {chain}", extra, comment, matched, f"-j {target}") if part)
