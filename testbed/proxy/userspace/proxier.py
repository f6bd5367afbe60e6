"""The proxier of userspace mode: proxy ports and the portals that lead to them.

Owns the order in which ports, endpoints and rules change. Must not know how bytes are moved (`ports`) nor
what rules look like (`portals`).

Ports open and learn their endpoints before a rule leads to them, and rules go before their ports close, so
no client ever meets a closed port. A change of endpoints touches no rule.
"""

from __future__ import annotations

import logging
import resource
import sys
import time
from collections.abc import Collection

from testbed.errors import MachineLacks, UserError
from testbed.proxy.iptables.canary import Canary
from testbed.proxy.iptables.restore import Iptables, Jump, missing_jumps, section, stale_jumps
from testbed.proxy.model import Family, ServicePortName
from testbed.proxy.nodeports import node_port_networks
from testbed.proxy.proxier import ProxySettings, SyncResult
from testbed.proxy.servicemap import ServiceMap
from testbed.proxy.userspace import portals
from testbed.proxy.userspace.ports import ProxyPorts, Targets

_LOG = logging.getLogger(__name__)

_PROTOCOLS = frozenset({"TCP", "UDP"})
_SPARE_DESCRIPTORS = 256  # besides one for each Service port: connections, pipes, the proxy's own


_SWITCH_INTERVAL_S = 0.0005
"""How long a sync may keep the interpreter from the relay's thread: at Python's 5 ms each of a connection's
fourteen system calls would wait that long."""


class UserspaceProxier:
    """Relays the node's Service traffic in this process; IPv4 only, as the original.

    Traffic policies, source ranges and topology hints are ignored; endpoints see the node's address. Raises
    UserError for IPv6 and MachineLacks without iptables.
    """

    def __init__(self, settings: ProxySettings, *, iptables: Iptables | None = None) -> None:
        if settings.family is not Family.IPV4:
            raise UserError("userspace mode serves IPv4 only: choose another --proxy-mode for IPv6")
        self._settings = settings
        self._iptables = iptables or Iptables(settings.family, settings.iptables_variant)
        self._jumps = _jumps(settings)
        self._rules: dict[ServicePortName, tuple[str, ...]] = {}
        self._portal_rule_count = 0
        self._chains_stand = False
        self._canary = Canary(self._iptables, ("nat",), chain=portals.ANCHOR, rule=portals.ANCHOR_RULE)
        self._looked_at_s = time.monotonic()
        sys.setswitchinterval(_SWITCH_INTERVAL_S)
        self._descriptor_limit = _raise_descriptor_limit()
        self._ports = ProxyPorts(
            bind_address=settings.bind_address,
            udp_idle_timeout_s=settings.udp_idle_timeout_s,
            port_range=settings.proxy_port_range,
        )

    @property
    def iptables_variant(self) -> str:
        """The variant of iptables that the portals are written with."""
        return self._iptables.variant

    def sync(self, services: ServiceMap, changed: Collection[ServicePortName] | None) -> SyncResult:
        """As `Proxier.sync`; writes everything once somebody flushed the portals.

        Raises MachineLacks when this process may not open enough sockets.
        """
        self._check_descriptors(len(services))
        if not self._chains_stand or self._flushed():
            changed = None
        everything = changed is None
        names = services if changed is None else [name for name in changed if name in services]
        served = [name for name in names if name.protocol in _PROTOCOLS]
        self._ports.set({name: _targets(services, name) for name in served})
        rules = {name: self._portal_rules(services, name) for name in served}
        gone = {*self._ports.numbers} - {*services} if changed is None else {*changed} - {*services}
        lines = self._write(rules, gone, everything)
        self._ports.close_ports(gone)
        written = sum(line.startswith("-") for line in lines)
        return SyncResult(
            full=everything,
            rules_written=written,
            bytes_written=len(section("nat", lines)) if lines else 0,
            rules_last={"nat": written},
            rules_total={"nat": self._portal_rule_count + len(self._jumps) + 1},
        )

    def close(self) -> None:
        """Remove the portals, close the ports and the connections."""
        self._iptables.remove_chains("nat", (*portals.CHAINS, portals.ANCHOR))
        self._rules.clear()
        self._chains_stand = False
        self._ports.close()

    def _flushed(self) -> bool:
        """Look once per sync period whether the chains still have their anchor."""
        now_s = time.monotonic()
        if now_s - self._looked_at_s < self._settings.sync_period_s * 0.9:  # the timer may be a little early
            return False
        self._looked_at_s = now_s
        if gone := self._canary.flushed():
            _LOG.warning("the portals were flushed from outside; writing all of them again")
        return bool(gone)

    def _write(
        self,
        rules: dict[ServicePortName, tuple[str, ...]],
        gone: Collection[ServicePortName],
        everything: bool,
    ) -> list[str]:
        """Bring the rules of these portals up to date in one restore; the lines that were written."""
        if everything:
            saved = self._iptables.save("nat")
            jumps = [*stale_jumps(self._jumps, saved), *missing_jumps(self._jumps, saved)]
            lines = [*portals.whole(rules.values()), *jumps]
        else:
            touched = {*rules, *gone}
            before = {name: self._rules[name] for name in touched if name in self._rules}
            lines = portals.difference(before, rules)
        if lines:
            self._iptables.restore(section("nat", lines))
        if everything:
            self._chains_stand = True
            self._rules = rules
            self._portal_rule_count = sum(len(portal) for portal in rules.values())
        else:
            self._rules.update(rules)
            for name in gone:
                self._rules.pop(name, None)
            self._portal_rule_count += sum(1 if line.startswith("-A") else -1 for line in lines)
        return lines

    def _portal_rules(self, services: ServiceMap, name: ServicePortName) -> tuple[str, ...]:
        portal = portals.Portal(
            services[name], self._ports.numbers[name], self._settings.bind_address, self._node_address
        )
        return portals.rules(portal)

    @property
    def _node_address(self) -> str:
        return self._settings.node_ips[0] if self._settings.node_ips else "127.0.0.1"

    def _check_descriptors(self, services: int) -> None:
        needed = services + _SPARE_DESCRIPTORS
        if needed > self._descriptor_limit:
            raise MachineLacks(
                f"userspace mode needs {needed} open files for {services} Service ports, "
                f"and this process may have {self._descriptor_limit}",
                f"raise the hard limit (ulimit -Hn {2 * needed}, or LimitNOFILE= of the service)",
            )


def cleanup(settings: ProxySettings, *, active: str = "") -> None:
    """Remove what any run of this mode left in the namespace, in both variants of iptables.

    It shares nothing with other modes; `active="userspace"` removes only what the variant not in use has.
    """
    if settings.family is not Family.IPV4:
        return
    in_use = Iptables(settings.family, settings.iptables_variant).variant if active else ""
    for variant in ("legacy", "nft"):
        if active == "userspace" and variant == in_use:
            continue
        try:
            iptables = Iptables(settings.family, variant, probe=False)
            iptables.remove_chains("nat", (*portals.CHAINS, portals.ANCHOR))
        except MachineLacks:
            continue  # a variant that is not installed has written nothing


def _jumps(settings: ProxySettings) -> tuple[Jump, ...]:
    return portals.jumps([str(network) for network in node_port_networks(settings) or ()])


def _targets(services: ServiceMap, name: ServicePortName) -> Targets:
    """Ready endpoints, as the original read them from Endpoints objects: no draining ones, no policies."""
    endpoints = tuple((end.address, end.port) for end in services.endpoints(name) if end.ready)
    return Targets(endpoints, services[name].affinity_timeout_s)


def _raise_descriptor_limit() -> int:
    """Allow this process as many open files as it may have; that number."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard if hard != resource.RLIM_INFINITY else 1 << 30
