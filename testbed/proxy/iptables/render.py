"""Rules of one Service port as `iptables-restore` text: a pure function of the port and its endpoints.

Owns the layout of the chains that belong to Services (SVC, SVL, EXT, FW, SEP) and what each Service adds to
the common ones. Must not run anything, nor know which rules the kernel already has.

    KUBE-SERVICES -> [FW ->] EXT -> SVC (any endpoint) or SVL (local endpoints) -> SEP -> DNAT
"""

from __future__ import annotations

from ipaddress import ip_address, ip_network
from typing import NamedTuple

from testbed.proxy.iptables import names
from testbed.proxy.iptables.names import chain_hashes
from testbed.proxy.model import Endpoint, EndpointChoice, Family, ServicePort
from testbed.proxy.proxier import ProxySettings

Lines = tuple[str, ...]

Place = tuple[str, str]
"""A table and one of its chains that all Services share."""

Target = tuple[Endpoint, str, str]
"""An endpoint, its `address:port`, and its chain."""

NAT_SERVICES: Place = ("nat", names.SERVICES)
NAT_NODEPORTS: Place = ("nat", names.NODEPORTS)
FILTER_SERVICES: Place = ("filter", names.SERVICES)
FILTER_EXTERNAL: Place = ("filter", names.EXTERNAL_SERVICES)
FILTER_NODEPORTS: Place = ("filter", names.NODEPORTS)
FILTER_FIREWALL: Place = ("filter", names.PROXY_FIREWALL)


class ServiceRules(NamedTuple):
    """All rules of one Service port.

    `common` is what it adds to the chains that all Services share. `chains` are the nat chains of its own,
    `rules` their content. `no_local` names the policies (`internal`, `external`) whose traffic is dropped on
    this node for want of local endpoints.
    """

    common: dict[Place, Lines]
    chains: Lines
    rules: list[str]
    no_local: Lines


def render_service(
    port: ServicePort, choice: EndpointChoice, settings: ProxySettings, *, comments: bool = True
) -> ServiceRules:
    """Render one Service port; without `comments` the chains of its own carry none (the common ones do)."""
    return _Service(port, choice, settings, comments).render()


class _Service:
    """The names and facts that the rules of one Service port have in common, for the time of rendering."""

    def __init__(
        self, port: ServicePort, choice: EndpointChoice, settings: ProxySettings, comments: bool
    ) -> None:
        self.port = port
        self.choice = choice
        self.settings = settings
        self.name = str(port.name)
        self.protocol = port.protocol
        self.comments = comments
        digest = names.service_hash(port.name)
        self.cluster_chain = f"KUBE-SVC-{digest}"
        self.local_chain = f"KUBE-SVL-{digest}"
        self.external_chain = f"KUBE-EXT-{digest}"
        self.firewall_chain = f"KUBE-FW-{digest}"
        self.internal_chain = self.local_chain if port.internal_local else self.cluster_chain
        self.has_internal = bool(choice.internal(port))
        self.has_external = bool(choice.external(port))
        self.has_firewall = choice.anywhere and bool(port.load_balancer_ips and port.source_ranges)

    def render(self) -> ServiceRules:
        port, choice = self.port, self.choice
        chains: list[str] = []
        rules: list[str] = []
        if self.has_internal:
            rules += self._masquerade_internal()
        if choice.anywhere and port.externally_accessible:
            chains.append(self.external_chain)
            rules += self._external_rules()
        if self.has_firewall:
            chains.append(self.firewall_chain)
            rules += self._firewall_rules()
        targets = self._targets()
        if choice.cluster and port.uses_cluster_endpoints:
            chains.append(self.cluster_chain)
            rules += self._balance(self.cluster_chain, _of(targets, choice.cluster))
        if choice.local and port.uses_local_endpoints:
            chains.append(self.local_chain)
            rules += self._balance(self.local_chain, _of(targets, choice.local))
        chains += [chain for _, _, chain in targets]
        rules += self._endpoint_rules(targets)
        return ServiceRules(self._common(), tuple(chains), rules, self._no_local())

    def _common(self) -> dict[Place, Lines]:
        port = self.port
        services, unserved = self._cluster_ip()
        common: dict[Place, Lines] = {}
        if port.externally_accessible:
            external, refused, firewalled = self._external_ips()
            services += external
            common |= {FILTER_EXTERNAL: refused, FILTER_FIREWALL: firewalled}
        if port.node_port and self.choice.anywhere:
            jump = f"--dport {port.node_port} -j {self.external_chain}"
            common[NAT_NODEPORTS] = (f"-A {names.NODEPORTS} {self._comment('')} {self._match()} {jump}",)
        if port.health_check_node_port:
            comment = self._comment(" health check node port")
            accept = f"-m tcp -p tcp --dport {port.health_check_node_port} -j ACCEPT"
            common[FILTER_NODEPORTS] = (f"-A {names.NODEPORTS} {comment} {accept}",)
        common |= {NAT_SERVICES: services, FILTER_SERVICES: unserved}
        return {place: lines for place, lines in common.items() if lines}

    def _cluster_ip(self) -> tuple[Lines, Lines]:
        """The rule for the ClusterIP: in nat with endpoints, else in filter."""
        where = f"{self._match()} -d {self.port.cluster_ip} --dport {self.port.port}"
        if self.has_internal:
            comment = self._comment(" cluster IP")
            return (f"-A {names.SERVICES} {comment} {where} -j {self.internal_chain}",), ()
        return (), (f"-A {names.SERVICES} {self._refusal(where)}",)

    def _external_ips(self) -> tuple[Lines, Lines, Lines]:
        """Rules for external and load balancer IPs and NodePorts: nat services, filter external, firewall."""
        port, anywhere = self.port, self.choice.anywhere
        match = self._match()
        nat, refused, firewalled = [], [], []
        for address in port.external_ips:
            where = f"{match} -d {address} --dport {port.port}"
            if anywhere:
                comment = self._comment(" external IP")
                nat.append(f"-A {names.SERVICES} {comment} {where} -j {self.external_chain}")
            if not self.has_external:
                refused.append(f"-A {names.EXTERNAL_SERVICES} {self._refusal(where)}")
        for address in port.load_balancer_ips:
            where = f"{match} -d {address} --dport {port.port}"
            if anywhere:
                comment = self._comment(" loadbalancer IP")
                chain = self.firewall_chain if self.has_firewall else self.external_chain
                nat.append(f"-A {names.SERVICES} {comment} {where} -j {chain}")
            if self.has_firewall:
                comment = self._comment(f" traffic not accepted by {self.firewall_chain}")
                firewalled.append(f"-A {names.PROXY_FIREWALL} {comment} {where} -j DROP")
            if not self.has_external:
                refused.append(f"-A {names.EXTERNAL_SERVICES} {self._refusal(where)}")
        if port.node_port and not self.has_external:
            where = f"-m addrtype --dst-type LOCAL {match} --dport {port.node_port}"
            refused.append(f"-A {names.EXTERNAL_SERVICES} {self._refusal(where)}")
        return tuple(nat), tuple(refused), tuple(firewalled)

    def _refusal(self, where: str) -> str:
        """Traffic without endpoints is rejected; where only other nodes have them, it is dropped."""
        if self.choice.anywhere:
            return f"{self._comment(' has no local endpoints')} {where} -j DROP"
        return f"{self._comment(' has no endpoints')} {where} -j REJECT"

    def _masquerade_internal(self) -> list[str]:
        """Traffic to the ClusterIP from outside the pod network (or all of it) gets the node's address."""
        settings, port = self.settings, self.port
        if settings.masquerade_all:
            source = ""
        elif settings.cluster_cidr:
            source = f" ! -s {settings.cluster_cidr}"
        else:
            return []
        comment = self._own_comment(" cluster IP")
        where = f"{self._match()} -d {port.cluster_ip} --dport {port.port}"
        return [f"-A {self.internal_chain} {comment}{where}{source} -j {names.MARK_MASQ}"]

    def _external_rules(self) -> list[str]:
        """Policy Cluster masquerades everything; Local keeps addresses and lets pods and node go anywhere."""
        port, chain = self.port, self.external_chain
        rules = []
        if not port.external_local:
            comment = self._own_comment(" external destinations", "masquerade traffic for ")
            rules.append(f"-A {chain} {comment}-j {names.MARK_MASQ}")
        else:
            to_cluster = f"-j {self.cluster_chain}"
            if self.settings.cluster_cidr:
                comment = self._own_comment(" external destinations", "pod traffic for ")
                rules.append(f"-A {chain} {comment}-s {self.settings.cluster_cidr} {to_cluster}")
            comment = self._own_comment(" external destinations", "masquerade LOCAL traffic for ")
            local = "-m addrtype --src-type LOCAL"
            rules.append(f"-A {chain} {comment}{local} -j {names.MARK_MASQ}")
            comment = self._own_comment(" external destinations", "route LOCAL traffic for ")
            rules.append(f"-A {chain} {comment}{local} {to_cluster}")
        if self.has_external:
            rules.append(f"-A {chain} -j {self.local_chain if port.external_local else self.cluster_chain}")
        return rules

    def _firewall_rules(self) -> list[str]:
        """Let the source ranges in; what falls through is not translated and dropped in filter."""
        port = self.port
        start = f"-A {self.firewall_chain} {self._own_comment(' loadbalancer IP')}-s "
        end = f" -j {self.external_chain}"
        rules = [f"{start}{source}{end}" for source in port.source_ranges]
        nodes = [ip_address(address) for address in self.settings.node_ips]
        ranges = [ip_network(source, strict=False) for source in port.source_ranges]
        if any(node in source for node in nodes[:1] for source in ranges):
            # From the node itself, where the load balancer's IP is often a local address and so the source.
            rules += [f"{start}{address}{end}" for address in port.load_balancer_ips]
        return rules

    def _targets(self) -> list[Target]:
        """Every endpoint that some traffic may reach, with its chain."""
        prefix = self.name + self.protocol
        if self.settings.family is Family.IPV6:
            keys = [f"[{endpoint[0]}]:{endpoint[1]}" for endpoint in self.choice.reachable]
        else:
            keys = [f"{endpoint[0]}:{endpoint[1]}" for endpoint in self.choice.reachable]
        chains = ["KUBE-SEP-" + digest for digest in chain_hashes([prefix + key for key in keys])]
        return list(zip(self.choice.reachable, keys, chains, strict=True))

    def _balance(self, chain: str, targets: list[Target]) -> list[str]:
        """Affinity first, then each endpoint with the probability that makes all of them equal."""
        rules = []
        starts = [f"-A {chain} "] * len(targets)
        if self.comments:
            starts = [f"-A {chain} {self._own_comment(f' -> {key}')}" for _, key, _ in targets]
        seconds = self.port.affinity_timeout_s
        if seconds is not None:
            for start, (_, _, target) in zip(starts, targets, strict=True):
                recent = f"-m recent --name {target} --rcheck --seconds {seconds} --reap"
                rules.append(f"{start}{recent} -j {target}")
        left = len(targets)
        for start, (_, _, target) in zip(starts, targets, strict=True):
            chance = f"-m statistic --mode random --probability {1 / left:.10f} " if left > 1 else ""
            rules.append(f"{start}{chance}-j {target}")
            left -= 1
        return rules

    def _endpoint_rules(self, targets: list[Target]) -> list[str]:
        """Per endpoint: hairpin traffic is masqueraded, the client remembered, the destination translated."""
        rules: list[str] = []
        comment = self._own_comment("")
        translate = f"{self._match()} -j DNAT --to-destination "
        affine = self.port.affinity_timeout_s is not None
        for endpoint, key, chain in targets:
            start = f"-A {chain} {comment}"
            recent = f"-m recent --name {chain} --set " if affine else ""
            rules += (f"{start}-s {endpoint[0]} -j {names.MARK_MASQ}", f"{start}{recent}{translate}{key}")
        return rules

    def _no_local(self) -> Lines:
        if not self.choice.anywhere:
            return ()
        dropped = []
        if not self.has_internal:
            dropped.append("internal")
        if not self.has_external and self.port.externally_accessible:
            dropped.append("external")
        return tuple(dropped)

    def _match(self) -> str:
        return f"-m {self.protocol} -p {self.protocol}"

    def _comment(self, words: str) -> str:
        return f'-m comment --comment "{self.name}{words}"'

    def _own_comment(self, words: str, before: str = "") -> str:
        return f'-m comment --comment "{before}{self.name}{words}" ' if self.comments else ""


def _of(targets: list[Target], chosen: tuple[Endpoint, ...]) -> list[Target]:
    if len(targets) == len(chosen):
        return targets
    wanted = set(chosen)
    return [target for target in targets if target[0] in wanted]
