"""Whatever the API tells one after another, every mode ends in what a fresh start would write."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, Protocol, cast

import pytest
from apievents import SERVICES, Event, batches, tell
from fakekernels import FakeIptables, FakeNft
from hypothesis import given, settings

from testbed.proxy.changes import ChangeTracker
from testbed.proxy.iptables.proxier import IptablesProxier
from testbed.proxy.iptables.restore import Iptables
from testbed.proxy.ipvs.diff import Changes, compare, everything
from testbed.proxy.ipvs.model import Live, NodeState
from testbed.proxy.ipvs.plan import NodeFacts, Touched, Wanted, plan_service
from testbed.proxy.ipvs.sets import KINDS, set_name
from testbed.proxy.model import Family, ServicePortName
from testbed.proxy.nftables.book import Book
from testbed.proxy.nftables.render import render_port
from testbed.proxy.proxier import Proxier, ProxySettings
from testbed.proxy.servicemap import ServiceMap
from testbed.proxy.userspace.proxier import UserspaceProxier

SETTINGS = ProxySettings(
    hostname="node1", node_ips=("192.0.2.1",), cluster_cidr="10.244.0.0/16", localhost_nodeports=False
)
Changed = Collection[ServicePortName] | None


class Engine(Protocol):
    """A mode whose kernel is a fake."""

    def sync(self, services: ServiceMap, changed: Changed) -> None: ...
    def content(self) -> object: ...
    def close(self) -> None: ...


class Restoring:
    """iptables and userspace mode: the proxiers themselves."""

    def __init__(self, proxier: type[IptablesProxier | UserspaceProxier]) -> None:
        self._kernel = FakeIptables()
        make = cast(Any, proxier)
        self._proxier: Proxier = make(SETTINGS, iptables=cast(Iptables, self._kernel))
        self._totals: object = None

    def sync(self, services: ServiceMap, changed: Changed) -> None:
        result = self._proxier.sync(services, changed)
        self._totals = dict(result.rules_total), dict(result.no_local_endpoints)

    def content(self) -> object:
        return self._kernel.content(), self._totals

    def close(self) -> None:
        self._proxier.close()


class Userspace(Restoring):
    """Its proxy ports are the kernel's choice, so that two of it agree in everything else."""

    def __init__(self) -> None:
        super().__init__(UserspaceProxier)

    def content(self) -> object:
        ports = self._proxier._ports  # type: ignore[attr-defined]
        names = {str(number): str(name) for name, number in ports.numbers.items()}
        chains = self._kernel.tables["nat"]
        named = {chain: sorted(_with_names(rule, names) for rule in rules) for chain, rules in chains.items()}
        targets = {str(name): targets for name, targets in ports._targets.items()}
        return named, targets, self._totals


def _with_names(rule: str, names: dict[str, str]) -> str:
    start, mark, port = rule.rpartition(":" if "DNAT" in rule else "--to-ports ")
    return f"{start}{mark}{names[port]}" if port in names else rule


class Nftables:
    """The book, with a table for its transactions."""

    def __init__(self) -> None:
        self._book = Book(SETTINGS)
        self._kernel = FakeNft()

    def sync(self, services: ServiceMap, changed: Changed) -> None:
        def piece(name: ServicePortName) -> Any:
            port = services.get(name)
            return render_port(port, services.choice(name), SETTINGS) if port else None

        if changed is None:
            for text in self._book.load((name, piece(name)) for name in services):
                self._kernel.apply(text)
        else:
            self._kernel.apply(self._book.change((name, piece(name)) for name in changed))
        rules = sum(map(len, self._kernel.chains.values()))
        elements = sum(len(elements) for _, elements in self._kernel.containers.values())
        assert self._book.total == rules + elements

    def content(self) -> object:
        return self._kernel.content()

    def close(self) -> None:
        """Nothing is held."""


class Ipvs:
    """The plan, and a node's state to which changes are made."""

    def __init__(self) -> None:
        self._wanted, self._state = Wanted(), NodeState()
        self._node = NodeFacts.of(Family.IPV4, "rr", ("192.0.2.1",), ("192.0.2.1",))
        self._sets = [set_name(kind, Family.IPV4) for kind in KINDS]

    def sync(self, services: ServiceMap, changed: Changed) -> None:
        touched = Touched()
        for name in services if changed is None else sorted(changed, key=services.__contains__):
            port = services.get(name)
            plan = port and plan_service(port, services.endpoints(name), services.choice(name), self._node)
            self._wanted.replace(name, plan, touched)
        self._make(compare(self._wanted, self._state, touched))
        whole = everything(self._wanted, self._state, list(self._state.servers), self._sets)
        assert compare(self._wanted, self._state, whole) == Changes()

    def content(self) -> object:
        servers = {server: (live.balancing, live.weights) for server, live in self._state.servers.items()}
        return servers, self._state.addresses, {name: held for name, held in self._state.sets.items() if held}

    def close(self) -> None:
        """Nothing is held."""

    def _make(self, changes: Changes) -> None:
        """Do to a remembered node what the changes would do to a real one without connections."""
        state = self._state
        for server, balancing in changes.new_servers:
            assert server not in state.servers
            state.servers[server] = Live(balancing)
        for server, balancing in changes.changed_servers:
            state.servers[server].balancing = balancing
        for server, reals in changes.new_reals:
            assert not state.servers[server].weights.keys() & set(reals)
            state.servers[server].weights.update(dict.fromkeys(reals, 1))
        for server, reals in changes.retired:
            for real in reals:
                del state.servers[server].weights[real]
        for server in changes.gone_servers:
            del state.servers[server]
        state.addresses |= set(changes.new_addresses)
        state.addresses -= set(changes.gone_addresses)
        for name, members in changes.new_members.items():
            state.sets.setdefault(name, set()).update(members)
        for name, members in changes.gone_members.items():
            state.sets[name].difference_update(members)


ENGINES = {
    "iptables": lambda: Restoring(IptablesProxier),
    "nftables": Nftables,
    "userspace": Userspace,
    "ipvs": Ipvs,
}


@pytest.mark.parametrize("mode", ENGINES)
@settings(max_examples=40, deadline=None)
@given(batches)
def test_syncs_of_what_changed_end_where_a_fresh_start_does(mode: str, events: list[list[Event]]) -> None:
    tracker, services, engine = ChangeTracker(Family.IPV4, "node1"), ServiceMap("a"), ENGINES[mode]()
    fresh = ENGINES[mode]()
    try:
        engine.sync(services, None)
        for batch in events:
            for event in batch:
                tell(tracker, event)
            engine.sync(services, tracker.take(services).changed)
        fresh.sync(services, None)
        assert engine.content() == fresh.content()
        for number in range(1, SERVICES + 1):
            tracker.remove_service(("default", f"svc-{number}"))
        engine.sync(services, tracker.take(services).changed)
        empty = ENGINES[mode]()
        empty.sync(services, None)
        assert engine.content() == empty.content()
        empty.close()
    finally:
        engine.close()
        fresh.close()
