"""Whatever happens to Services one after another, the sum of it is what a fresh start would want."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from testbed.proxy.ipvs.diff import Changes, compare, everything
from testbed.proxy.ipvs.model import Live, NodeState
from testbed.proxy.ipvs.plan import NodeFacts, Touched, Wanted, plan_service
from testbed.proxy.model import Endpoint, Family, ServicePort, ServicePortName, choose_endpoints

NODE = NodeFacts.of(Family.IPV4, "rr", ("192.0.2.1",), ("192.0.2.1",))
NAMES = [ServicePortName("default", name, "", protocol) for name in "abc" for protocol in ("TCP", "UDP")]
SETS = sorted(
    {"KUBE-LOOP-BACK", "KUBE-CLUSTER-IP", "KUBE-IPVS-IPS", "KUBE-EXTERNAL-IP", "KUBE-NODE-PORT-TCP"}
)


@st.composite
def service_ports(draw: st.DrawFn, name: ServicePortName) -> ServicePort:
    return ServicePort(
        name,
        cluster_ip=f"10.96.0.{'abc'.index(name.name)}",
        port=80,
        node_port=draw(st.sampled_from([0, 30080])),
        external_ips=draw(st.sampled_from([(), ("198.51.100.7",)])),
        affinity_timeout_s=draw(st.sampled_from([None, 60])),
        internal_local=draw(st.booleans()),
    )


endpoints = st.lists(
    st.builds(Endpoint, st.sampled_from(["10.244.1.1", "10.244.1.2"]), st.just(8080), local=st.booleans()),
    max_size=2,
    unique_by=lambda endpoint: endpoint.address,
)


@st.composite
def events(draw: st.DrawFn) -> tuple[ServicePortName, ServicePort | None, tuple[Endpoint, ...]]:
    name = draw(st.sampled_from(NAMES))
    return name, draw(st.none() | service_ports(name)), tuple(draw(endpoints))


def apply(changes: Changes, state: NodeState) -> None:
    """Do to a remembered node what the changes would do to a real one without connections."""
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


@settings(max_examples=300, deadline=None)
@given(st.lists(events(), max_size=25))
def test_incremental_syncs_end_where_a_full_sync_starts_from_nothing(
    sequence: list[tuple[ServicePortName, ServicePort | None, tuple[Endpoint, ...]]],
) -> None:
    wanted, state = Wanted(), NodeState()
    for name, port, behind in sequence:
        touched = Touched()
        plan = None if port is None else plan_service(port, behind, choose_endpoints(port, behind), NODE)
        wanted.replace(name, plan, touched)
        apply(compare(wanted, state, touched), state)
        full = compare(wanted, state, everything(wanted, state, list(state.servers), SETS))
        assert full == Changes()
    for name in list(wanted.names()):
        touched = Touched()
        wanted.replace(name, None, touched)
        apply(compare(wanted, state, touched), state)
    assert not state.servers
    assert not state.addresses
    assert not any(state.sets.values())
