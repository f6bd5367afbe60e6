"""A topology says everything once, with defaults, short forms, and a form that travels."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from testbed.errors import SpecError
from testbed.spec import Cell, Deployment, Link, Port, Service, Sweep, Topology, load_topology

TOPOLOGIES = sorted((Path(__file__).parents[2] / "topologies").glob("*.yaml"))


def web(**keys: object) -> Service:
    return Service(**{"name": "web", "port": 80, "endpoints": 3, **keys})


@pytest.mark.parametrize("path", TOPOLOGIES, ids=lambda path: path.stem)
def test_the_shipped_topologies_are_right_and_named_by_their_file(path: Path) -> None:
    topology = load_topology(path)
    assert topology.name == path.stem
    assert topology.sweep is not None
    assert list(topology.sweep.cells())


@pytest.mark.parametrize("path", TOPOLOGIES, ids=lambda path: path.stem)
def test_a_topology_comes_back_from_json_as_it_was(path: Path) -> None:
    topology = load_topology(path)
    text = topology.model_dump_json()
    again = Topology.model_validate_json(text)
    assert again == topology
    assert again.model_dump_json() == text
    assert Topology.model_validate(topology.model_dump(mode="json")) == topology


def test_the_same_file_with_other_numbers_is_another_cluster() -> None:
    topology = load_topology(TOPOLOGIES[0], nodes=20, pods_per_node=50)
    assert (topology.nodes, topology.pods_per_node) == (20, 50)
    assert topology.services == load_topology(TOPOLOGIES[0]).services


def test_overrides_are_checked_like_the_file() -> None:
    with pytest.raises(SpecError, match="nodes: 0 is too small"):
        load_topology(TOPOLOGIES[0], nodes=0)


def test_a_file_without_a_name_is_named_by_its_own(tmp_path: Path) -> None:
    file = tmp_path / "my lab (2).yaml"
    file.write_text("nodes: 1\n")
    assert load_topology(file).name == "my-lab-2"


def test_short_forms_mean_the_long_ones() -> None:
    short = Topology(nodes=2, pods_per_node=3, services=[web()])
    long = Topology(
        nodes=2, pods_per_node=3, services=(Service(name="web", ports=(Port(port=80),), endpoints=3),)
    )
    assert short == long
    assert web(port=None, ports=80) == web(port=None, ports=[{"port": 80}]) == web()
    assert Topology(services=web()) == Topology(services=[web()])
    assert Deployment(name="a", ports=8080) == Deployment(name="a", ports=[{"port": 8080}])
    assert Sweep(services=5, modes="ipvs") == Sweep(services=[5], modes=["ipvs"])


def test_a_port_leads_to_the_same_number_unless_it_says_otherwise() -> None:
    assert Port(port=80).target == 80
    assert Port(port=443, target_port=8443).target == 8443
    assert Port(port=80, target_port="http").target == "http"


def test_links_are_in_plain_numbers_too() -> None:
    link = Link(rate="1gbit", delay="1.5ms", loss="0.1%")
    assert (link.rate_bit_s, link.delay_us, link.needs_netem) == (10**9, 1500, True)
    assert link.loss_ratio == pytest.approx(0.001)
    assert (Link().rate_bit_s, Link().delay_us, Link().loss_ratio) == (None, 0, 0.0)
    assert not Link(rate="1gbit").needs_netem


def test_a_topology_cannot_be_changed_but_copied_with_changes() -> None:
    topology = Topology(services=[web()])
    with pytest.raises(ValueError, match="frozen"):
        topology.nodes = 3
    assert topology.changed(nodes=3).nodes == 3
    with pytest.raises(SpecError, match=r"services\[0\].endpoints: 3 endpoints are more than the 1 pods"):
        topology.changed(nodes=1, pods_per_node=1)


def test_null_is_the_affinity_none_and_no_cluster_ip() -> None:
    assert web(session_affinity=None).session_affinity == "None"
    assert not web(cluster_ip=None).headless
    assert web(cluster_ip="None").headless


def test_the_whole_of_a_service_can_be_said() -> None:
    service = web(
        type="LoadBalancer",
        port=None,
        ports=[
            {"name": "web", "port": 80, "target_port": 8080, "node_port": 30080},
            {"name": "dns", "port": 53, "protocol": "UDP"},
        ],
        cluster_ip="10.96.0.10",
        session_affinity="ClientIP",
        session_affinity_timeout_s=60,
        internal_traffic_policy="Local",
        external_traffic_policy="Local",
        external_ips=["192.0.2.1"],
        load_balancer_source_ranges=["10.0.0.0/8"],
        health_check_node_port=30090,
        labels={"app": "web"},
        annotations={"example.com/note": "any text: at all"},
    )
    assert Topology(services=[service]).services[0] == service


def test_one_node_port_serves_two_protocols() -> None:
    ports = [
        {"name": "tcp", "port": 53, "node_port": 30053},
        {"name": "udp", "port": 53, "node_port": 30053, "protocol": "UDP"},
    ]
    assert Topology(services=[web(type="NodePort", port=None, ports=ports)])


def test_ipv6_may_stand_beside_ipv4() -> None:
    service = web(ip_family_policy="RequireDualStack", ip_families=["IPv6", "IPv4"])
    assert Topology(ip_families=["IPv4", "IPv6"], services=[service])


class TestSweep:
    def test_cells_grow_with_the_services_whatever_the_order_of_the_file(self) -> None:
        sweep = Sweep(services=[100, 1], endpoints=[3, 1], traffic=["keepalive", "udp"], connections=[1, 8])
        cells = list(sweep.cells())
        assert len(cells) == 16
        assert [cell.services for cell in cells] == [1] * 8 + [100] * 8
        assert cells[:3] == [
            Cell(1, 3, "keepalive", 1),
            Cell(1, 3, "keepalive", 8),
            Cell(1, 3, "udp", 1),
        ]

    def test_endpoints_are_those_of_the_first_service_unless_said(self) -> None:
        topology = Topology(services=[web(endpoints=2)], sweep=Sweep())
        assert topology.sweep is not None
        assert topology.sweep.endpoints == (2,)
        by_selector = Topology(
            deployments=[Deployment(name="web", replicas=4)],
            services=[web(endpoints=None, selector={"app": "web"})],
            sweep={},
        )
        assert by_selector.sweep is not None
        assert by_selector.sweep.endpoints == (4,)

    def test_the_twin_is_of_iptables_or_of_the_last_mode(self) -> None:
        assert Sweep().twin == "iptables"
        assert Sweep(modes=["userspace", "ipvs"]).twin == "ipvs"
        assert Sweep(modes=["userspace", "ipvs"], twin="userspace").twin == "userspace"
        assert Sweep(twin=None).twin is None

    def test_lanes_are_direct_the_modes_and_the_twin(self) -> None:
        assert Sweep(modes=["iptables", "ipvs"]).lanes() == ("direct", "iptables", "ipvs", "iptables-twin")
        assert Sweep(modes="ipvs", twin=None).lanes() == ("direct", "ipvs")

    def test_it_can_be_changed_from_the_command_line(self) -> None:
        topology = load_topology(TOPOLOGIES[-1]).with_sweep({"rounds": 9, "budget": "2min"})
        assert topology.sweep is not None
        assert (topology.sweep.rounds, topology.sweep.budget_s) == (9, 120.0)
        with pytest.raises(SpecError, match=r"^sweep.budget: 'soon' is not a duration"):
            topology.with_sweep({"budget": "soon"})

    def test_changing_the_sweep_of_a_topology_without_one_changes_nothing(self) -> None:
        topology = Topology(services=[web()])
        assert topology.with_sweep({"rounds": 9}) is topology


def test_objects_and_quantities_come_without_pydantic() -> None:
    code = (
        "import sys, testbed.spec.objects, testbed.spec.quantities, testbed.spec.placement; "
        "print([m for m in ('pydantic', 'yaml') if m in sys.modules])"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


def test_an_unknown_name_of_the_package_is_refused() -> None:
    import testbed.spec

    with pytest.raises(AttributeError, match="no attribute 'Topologie'"):
        testbed.spec.Topologie  # noqa: B018
    assert set(testbed.spec.__all__) == {
        name for name in testbed.spec.__all__ if getattr(testbed.spec, name) is not None
    }
