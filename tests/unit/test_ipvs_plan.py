"""What Services become in IPVS: virtual servers, addresses on kube-ipvs0, members of sets."""

from __future__ import annotations

import logging

import pytest

from testbed.proxy.ipvs.model import PERSISTENT, SCHED_1, SCHED_2, Balancing, RealServer, VirtualServer
from testbed.proxy.ipvs.plan import NodeFacts, ServicePlan, Touched, Wanted, plan_service
from testbed.proxy.model import Endpoint, Family, ServicePort, ServicePortName, choose_endpoints

NODE = NodeFacts.of(Family.IPV4, "rr", ("192.0.2.1", "10.244.1.1"), ("192.0.2.1", "10.244.1.1"))
HERE = Endpoint("10.244.1.5", 8080, local=True)
THERE = Endpoint("10.244.2.5", 8080)
BOTH = (RealServer("10.244.1.5", 8080), RealServer("10.244.2.5", 8080))


def a_port(name: str = "web", protocol: str = "TCP", **fields: object) -> ServicePort:
    identity = ServicePortName("default", name, "", protocol)
    return ServicePort(name=identity, cluster_ip="10.96.0.1", port=80, **fields)  # type: ignore[arg-type]


def planned(port: ServicePort, *endpoints: Endpoint, node: NodeFacts = NODE) -> ServicePlan:
    return plan_service(port, endpoints, choose_endpoints(port, endpoints), node)


def reals_by_place(plan: ServicePlan) -> dict[tuple[str, int], tuple[RealServer, ...]]:
    return {(wanted.server.address, wanted.server.port): wanted.reals for wanted in plan.servers}


def test_a_cluster_ip_is_one_virtual_server_one_address_and_its_members() -> None:
    plan = planned(a_port(), HERE, THERE)
    (only,) = plan.servers
    assert only == (VirtualServer("TCP", "10.96.0.1", 80), Balancing("rr"), BOTH)
    assert plan.addresses == ("10.96.0.1",)
    assert plan.members == (
        ("KUBE-LOOP-BACK", "10.244.1.5,tcp:8080,10.244.1.5"),
        ("KUBE-CLUSTER-IP", "10.96.0.1,tcp:80"),
        ("KUBE-IPVS-IPS", "10.96.0.1"),
    )


def test_a_node_port_listens_on_every_address_of_the_node_and_needs_none_on_the_device() -> None:
    plan = planned(a_port(node_port=30080), HERE, THERE)
    assert reals_by_place(plan) == {
        ("10.96.0.1", 80): BOTH,
        ("192.0.2.1", 30080): BOTH,
        ("10.244.1.1", 30080): BOTH,
    }
    assert plan.addresses == ("10.96.0.1",)
    assert ("KUBE-NODE-PORT-TCP", "30080") in plan.members


def test_a_service_without_endpoints_is_a_virtual_server_without_real_servers() -> None:
    plan = planned(a_port())
    assert reals_by_place(plan) == {("10.96.0.1", 80): ()}


def test_affinity_is_persistence_with_its_timeout() -> None:
    plan = planned(a_port(affinity_timeout_s=300), HERE)
    assert plan.servers[0].balancing == Balancing("rr", PERSISTENT, 300)


def test_local_outside_traffic_goes_to_local_endpoints_and_keeps_its_source() -> None:
    port = a_port(node_port=30080, load_balancer_ips=("203.0.113.9",), external_local=True)
    plan = planned(port, HERE, THERE)
    assert reals_by_place(plan) == {
        ("10.96.0.1", 80): BOTH,
        ("203.0.113.9", 80): BOTH[:1],
        ("192.0.2.1", 30080): BOTH[:1],
        ("10.244.1.1", 30080): BOTH[:1],
    }
    assert ("KUBE-LOAD-BALANCER-LOCAL", "203.0.113.9,tcp:80") in plan.members
    assert ("KUBE-NODE-PORT-LOCAL-TCP", "30080") in plan.members


def test_local_outside_traffic_without_local_endpoints_falls_back_for_the_sake_of_this_nodes_pods() -> None:
    plan = planned(a_port(load_balancer_ips=("203.0.113.9",), external_local=True), THERE)
    assert reals_by_place(plan)["203.0.113.9", 80] == BOTH[1:]


def test_local_internal_traffic_never_leaves_the_node_even_when_outside_traffic_may() -> None:
    plan = planned(a_port(node_port=30080, internal_local=True), THERE)
    assert reals_by_place(plan) == {
        ("10.96.0.1", 80): (),
        ("192.0.2.1", 30080): BOTH[1:],
        ("10.244.1.1", 30080): BOTH[1:],
    }


def test_external_ips_have_a_set_for_each_policy() -> None:
    external = ("198.51.100.7",)
    assert ("KUBE-EXTERNAL-IP", "198.51.100.7,tcp:80") in planned(a_port(external_ips=external)).members
    kept = planned(a_port(external_ips=external, external_local=True)).members
    assert ("KUBE-EXTERNAL-IP-LOCAL", "198.51.100.7,tcp:80") in kept


def test_an_address_that_the_node_has_already_is_not_put_on_the_device() -> None:
    plan = planned(a_port(external_ips=("192.0.2.1",)), HERE)
    assert plan.addresses == ("10.96.0.1",)
    assert ("192.0.2.1", 80) in reals_by_place(plan)


def test_source_ranges_fence_load_balancer_addresses_only() -> None:
    port = a_port(
        node_port=30080,
        load_balancer_ips=("203.0.113.9",),
        external_ips=("198.51.100.7",),
        source_ranges=("192.0.2.0/24", "0.0.0.0/0", "198.18.0.1/32"),
    )
    members = [member for member in planned(port, HERE).members if "LOAD-BALANCER" in member[0]]
    assert members == [
        ("KUBE-LOAD-BALANCER", "203.0.113.9,tcp:80"),
        ("KUBE-LOAD-BALANCER-FW", "203.0.113.9,tcp:80"),
        ("KUBE-LOAD-BALANCER-SOURCE-CIDR", "203.0.113.9,tcp:80,192.0.2.0/24"),
        ("KUBE-LOAD-BALANCER-SOURCE-CIDR", "203.0.113.9,tcp:80,0.0.0.0/1"),
        ("KUBE-LOAD-BALANCER-SOURCE-CIDR", "203.0.113.9,tcp:80,128.0.0.0/1"),
        ("KUBE-LOAD-BALANCER-SOURCE-CIDR", "203.0.113.9,tcp:80,198.18.0.1"),
        ("KUBE-LOAD-BALANCER-SOURCE-IP", "203.0.113.9,tcp:80,203.0.113.9"),
    ]


def test_the_node_is_kept_out_of_a_load_balancer_whose_ranges_do_not_hold_it() -> None:
    port = a_port(load_balancer_ips=("203.0.113.9",), source_ranges=("198.18.0.0/15",))
    assert not any(name == "KUBE-LOAD-BALANCER-SOURCE-IP" for name, _ in planned(port, HERE).members)


def test_sctp_node_ports_are_matched_by_address_and_port() -> None:
    members = planned(a_port(protocol="SCTP", node_port=30080), HERE).members
    assert ("KUBE-NODE-PORT-SCTP-HASH", "192.0.2.1,sctp:30080") in members


def test_ipv6_has_sets_of_its_own() -> None:
    node = NodeFacts.of(Family.IPV6, "rr", (), ())
    port = ServicePort(ServicePortName("default", "web", "", "UDP"), "fd00:96::1", 53)
    plan = planned(port, Endpoint("fd00:244::5", 5353, local=True), node=node)
    assert plan.members[0] == ("KUBE-6-LOOP-BACK", "fd00:244::5,udp:5353,fd00:244::5")


@pytest.mark.parametrize(
    ("text", "scheduler", "flags"),
    [
        ("", "rr", 0),
        ("lc", "lc", 0),
        ("mh", "mh", SCHED_2),
        ("mh:mh-fallback", "mh", SCHED_1),
        ("sh:sh-port,sh-fallback", "sh", SCHED_1 | SCHED_2),
    ],
)
def test_a_scheduler_may_carry_its_flags(text: str, scheduler: str, flags: int) -> None:
    node = NodeFacts.of(Family.IPV4, text, (), ())
    assert planned(a_port(), HERE, node=node).servers[0].balancing == Balancing(scheduler, flags)


@pytest.mark.parametrize("text", ["rr:sh-port", "sh:mh-port", "sh:"])
def test_a_flag_of_another_scheduler_is_refused_by_name(text: str) -> None:
    with pytest.raises(ValueError, match="is not a flag of the IPVS scheduler"):
        NodeFacts.of(Family.IPV4, text, (), ())


def test_what_two_ports_share_goes_with_the_last_of_them() -> None:
    wanted, first, second = Wanted(), a_port("web"), a_port("dns", "UDP")
    wanted.replace(first.name, planned(first, HERE), Touched())
    wanted.replace(second.name, planned(second, HERE), Touched())
    wanted.replace(first.name, None, Touched())
    assert wanted.addresses == {"10.96.0.1": 1}
    wanted.replace(second.name, None, Touched())
    assert not wanted.addresses
    assert not wanted.members
    assert not wanted.servers


def test_replacing_a_plan_touches_what_it_was_and_what_it_becomes() -> None:
    wanted, port, moved = Wanted(), a_port(), a_port(node_port=30080)
    wanted.replace(port.name, planned(port, HERE), Touched())
    touched = Touched()
    wanted.replace(port.name, planned(moved, THERE), touched)
    assert {server.port for server in touched.servers} == {80, 30080}
    assert ("KUBE-LOOP-BACK", "10.244.1.5,tcp:8080,10.244.1.5") in touched.members


def test_a_virtual_server_belongs_to_the_first_that_claims_it_until_it_lets_go(
    caplog: pytest.LogCaptureFixture,
) -> None:
    wanted, first, second = Wanted(), a_port("first"), a_port("second")
    with caplog.at_level(logging.WARNING):
        wanted.replace(first.name, planned(first, HERE), Touched())
        wanted.replace(second.name, planned(second, THERE), Touched())
    server = VirtualServer("TCP", "10.96.0.1", 80)
    assert "second: TCP 10.96.0.1:80 already belongs to default/first" in caplog.text
    assert wanted.servers[server].reals == BOTH[:1]
    wanted.replace(first.name, None, Touched())
    assert wanted.servers[server].reals == BOTH[1:]
