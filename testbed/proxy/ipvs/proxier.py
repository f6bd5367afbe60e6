"""The proxier of IPVS mode: keeps virtual servers, ipsets, rules and `kube-ipvs0` in line with the Services.

Owns the order of the steps of a sync, and what is remembered between syncs. What Services become is `plan`'s
business, what differs is `diff`'s; the kernel is behind `table`, `device`, `ipsets` and the iptables door.
"""

from __future__ import annotations

import ipaddress
import logging
import time
from collections.abc import Collection, Iterable

from testbed.errors import NetlinkRefused, UserError
from testbed.proxy.iptables.restore import Iptables
from testbed.proxy.ipvs import rules, sets
from testbed.proxy.ipvs.cleanup import cleanup
from testbed.proxy.ipvs.device import ServiceDevice
from testbed.proxy.ipvs.diff import Changes, compare, everything, node_ports_of, own_servers
from testbed.proxy.ipvs.drain import CHECK_AFTER_S, Drain
from testbed.proxy.ipvs.ipsets import Ipsets
from testbed.proxy.ipvs.model import Live, NodeState, VirtualServer, parse_scheduler
from testbed.proxy.ipvs.plan import NodeFacts, Touched, Wanted, plan_service
from testbed.proxy.ipvs.schedulers import require_scheduler
from testbed.proxy.ipvs.sysctls import set_up_node
from testbed.proxy.ipvs.table import IpvsTable
from testbed.proxy.model import ServicePortName
from testbed.proxy.nodeports import node_port_addresses
from testbed.proxy.proxier import ProxySettings, SyncResult
from testbed.proxy.servicemap import ServiceMap

log = logging.getLogger(__name__)


class IpvsProxier:
    """Makes this network namespace balance by IPVS, for one IP family."""

    def __init__(self, settings: ProxySettings) -> None:
        """Check the kernel and set its switches; nothing else is touched before the first sync.

        Raises MachineLacks without IPVS, its connection tracking, the wanted scheduler, dummy devices or a
        tool; UserError for a flag that the scheduler does not have.
        """
        self._settings = settings
        try:
            self._scheduler, self._scheduler_flags = parse_scheduler(settings.scheduler)
        except ValueError as mistake:
            raise UserError(f"--ipvs-scheduler: {mistake}") from mistake
        require_scheduler(self._scheduler)
        set_up_node(settings.family, settings.strict_arp)
        self._table = IpvsTable()
        self._device = ServiceDevice(settings.family)
        self._ipsets = Ipsets(settings.family)
        self._iptables = Iptables(settings.family, settings.iptables_variant)
        self._rules = rules.render_rules(settings)
        self._rule_counts = rules.count_rules(self._rules)
        self._set_names = [sets.set_name(kind, settings.family) for kind in sets.KINDS]
        self._set_timeouts()
        self._node = NodeFacts(settings.family, self._scheduler, self._scheduler_flags)
        self._wanted = Wanted()
        self._state = NodeState()
        self._drain = Drain(self._table)
        self._drain_checked_s = time.monotonic()
        self._full_at_s = time.monotonic()
        self._without_local: dict[str, set[ServicePortName]] = {"internal": set(), "external": set()}

    def sync(self, services: ServiceMap, changed: Collection[ServicePortName] | None) -> SyncResult:
        """See `Proxier.sync`. A partial sync that finds the kernel in another state becomes a full one.

        Once per sync period, in a quiet moment, everything is compared with the kernel, whoever changed it.
        """
        if changed is not None and not self._full_due(bool(changed)):
            try:
                return self._partial_sync(services, changed)
            except NetlinkRefused as refused:
                log.warning("the kernel's IPVS state is not what it was left in (%s): full sync", refused)
        return self._full_sync(services)

    def _full_due(self, busy: bool) -> bool:
        """Whether it is time to look at everything; with changes at hand, which are cheap, not at once."""
        periods = 4.0 if busy else 0.9  # the timer may be a little early
        return time.monotonic() - self._full_at_s >= self._settings.sync_period_s * periods

    def close(self) -> None:
        """Remove what this object installed."""
        self._table.close()
        self._device.close()
        self._ipsets.close()
        cleanup(self._settings)

    def _partial_sync(self, services: ServiceMap, changed: Collection[ServicePortName]) -> SyncResult:
        touched = Touched()
        # What is gone first, so that what takes its place claims nothing that is taken.
        for name in sorted(changed, key=services.__contains__):
            self._plan(services, name, touched)
        written = self._apply(compare(self._wanted, self._state, touched))
        return self._result(False, written)

    def _full_sync(self, services: ServiceMap) -> SyncResult:
        self._device.ensure()
        state = self._read_state()
        touched = Touched()
        for name in [name for name in self._wanted.names() if name not in services]:
            self._plan(services, name, touched)
        for name in services:
            self._plan(services, name, touched)
        own = self._own_servers(state)
        self._state = state
        written = self._create_sets()
        changes = compare(self._wanted, state, everything(self._wanted, state, own, self._set_names))
        written += self._write_members(changes.new_members, {})
        changes.new_members = {}
        written += self._apply(changes) + sum(self._rule_counts.values())
        # Last, as in kube-proxy: rules that iptables mode left serve until these take their place.
        self._iptables.restore(self._rules)
        self._iptables.ensure_jumps(rules.JUMPS)
        self._full_at_s = time.monotonic()
        return self._result(True, written)

    def _plan(self, services: ServiceMap, name: ServicePortName, touched: Touched) -> None:
        """Bring the plan of one port up to date."""
        port = services.get(name)
        for names in self._without_local.values():
            names.discard(name)
        if port is None:
            self._wanted.replace(name, None, touched)
            return
        choice = services.choice(name)
        if choice.anywhere and not choice.local:
            if port.internal_local:
                self._without_local["internal"].add(name)
            if port.external_local and port.externally_accessible:
                self._without_local["external"].add(name)
        self._wanted.replace(name, plan_service(port, services.endpoints(name), choice, self._node), touched)

    def _read_state(self) -> NodeState:
        """What the kernel holds now, and which addresses the node has, which NodePorts depend on."""
        bound, addresses = self._device.addresses()
        state = NodeState(self._table.read(), bound, self._ipsets.read())
        self._node = NodeFacts(
            self._settings.family,
            self._scheduler,
            self._scheduler_flags,
            tuple(node_port_addresses(self._settings, addresses)),
            tuple(addresses),
            self._settings.node_ips[:1],
        )
        return state

    def _own_servers(self, state: NodeState) -> set[VirtualServer]:
        ports = [(server.protocol, server.port) for server in self._wanted.servers]
        ports += node_ports_of(state, self._settings.family)
        own = own_servers(state, self._node.own_addresses, ports)
        excluded = [ipaddress.ip_network(cidr, strict=False) for cidr in self._settings.ipvs_exclude_cidrs]
        return {server for server in own if not _within(server.address, excluded)}

    def _create_sets(self) -> int:
        """Create the sets that do not exist yet; one that exists is used as it is."""
        missing = [
            kind
            for name, kind in zip(self._set_names, sets.KINDS, strict=True)
            if name not in self._state.sets
        ]
        self._state.sets.update((sets.set_name(kind, self._settings.family), set()) for kind in missing)
        return self._ipsets.create(missing)

    def _apply(self, changes: Changes) -> int:
        """Make the changes in an order that interrupts nobody; the number of messages and lines.

        What is new is complete before its address leads to it. What is gone goes last, and its NodePorts stay
        in their sets until then, since that tells whose virtual servers they are.
        """
        early = {} if changes.gone_servers else changes.gone_members
        written = self._write_members(changes.new_members, early)
        written += self._add(changes)
        written += self._drain.begin(changes, self._state)
        freed = self._finish_drained(changes)
        written += self._remove_addresses([*changes.gone_addresses, *freed])
        if changes.gone_servers:
            written += self._write_members({}, changes.gone_members)
        return written

    def _add(self, changes: Changes) -> int:
        state = self._state.servers
        written = self._table.add_servers(changes.new_servers)
        state.update((server, Live(balancing)) for server, balancing in changes.new_servers)
        written += self._table.edit_servers(changes.changed_servers)
        for server, balancing in changes.changed_servers:
            state[server].balancing = balancing
        written += self._table.add_reals(changes.new_reals)
        written += self._table.set_weights(changes.revived, 1)
        for server, reals in (*changes.new_reals, *changes.revived):
            state[server].weights.update(dict.fromkeys(reals, 1))
        written += self._device.add(changes.new_addresses)
        self._state.addresses.update(changes.new_addresses)
        return written

    def _finish_drained(self, changes: Changes) -> list[str]:
        """Delete what carries no connections any more; addresses of virtual servers that are gone."""
        now_s = time.monotonic()
        due = now_s - self._drain_checked_s >= CHECK_AFTER_S
        looked_at = [server for server, _ in changes.retired] + changes.gone_servers
        if due:
            looked_at = list(self._drain.pending)
            self._drain_checked_s = now_s
        waited_for = {server.address for server in looked_at}
        self._drain.finish(looked_at, self._wanted.servers, self._state)
        return [address for address in waited_for if address in self._state.addresses]

    def _remove_addresses(self, addresses: Iterable[str]) -> int:
        """Take those off the device that nobody wants and no connection needs."""
        busy = {server.address for server in self._drain.pending}
        gone = [
            address
            for address in dict.fromkeys(addresses)
            if address not in self._wanted.addresses and address not in busy
        ]
        removed = self._device.remove(gone)
        self._state.addresses.difference_update(gone)
        return removed

    def _write_members(self, added: dict[str, list[str]], removed: dict[str, list[str]]) -> int:
        sent = self._ipsets.write(added, removed)
        for name, members in added.items():
            self._state.sets[name].update(members)
        for name, members in removed.items():
            self._state.sets[name].difference_update(members)
        return sent

    def _set_timeouts(self) -> None:
        settings = self._settings
        wanted = (settings.ipvs_tcp_timeout_s, settings.ipvs_tcp_fin_timeout_s, settings.ipvs_udp_timeout_s)
        if any(wanted):
            self._table.set_timeouts(*(round(timeout_s) for timeout_s in wanted))

    def _result(self, full: bool, written: int) -> SyncResult:
        return SyncResult(
            full=full,
            rules_written=written,
            bytes_written=self._table.take_bytes_written() + (len(self._rules) if full else 0),
            rules_last=self._rule_counts if full else {},
            rules_total=self._rule_counts,
            no_local_endpoints={policy: len(names) for policy, names in self._without_local.items()},
            again_after_s=CHECK_AFTER_S if self._drain.pending else None,
        )


def _within(address: str, networks: Iterable[ipaddress.IPv4Network | ipaddress.IPv6Network]) -> bool:
    parsed = ipaddress.ip_address(address)
    return any(parsed in network for network in networks)
