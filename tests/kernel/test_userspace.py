"""The userspace proxier: from Services to traffic, seen by a pod's client, by the node and by its backends.

The test's own network namespace is the node; `client` and `server` are two pods on links of their own.
"""

from __future__ import annotations

import random
import resource
import socket
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from endpoints import connect, receive

from testbed.cluster.backend import Listening, start_backend
from testbed.errors import MachineLacks, UserError
from testbed.net.namespace import Namespace, write_sysctl
from testbed.net.process import run
from testbed.proxy.iptables.restore import Iptables
from testbed.proxy.model import Endpoint, Family, ServicePort, ServicePortName
from testbed.proxy.proxier import ProxySettings, SyncResult
from testbed.proxy.servicemap import ServiceMap
from testbed.proxy.userspace.portals import ANCHOR, CHAINS
from testbed.proxy.userspace.proxier import UserspaceProxier, cleanup

NODE = "10.0.1.1"
SERVERS = ("10.0.2.2", "10.0.2.3", "10.0.2.4")
SETTINGS = ProxySettings(hostname="node1", node_ips=(NODE,), cluster_cidr="10.0.0.0/16")
WEB = ServicePortName("default", "web", "")
VIP = "10.96.0.10"


class Lab:
    """A node with a proxier, a client pod and a server pod with three addresses."""

    def __init__(self, client: Namespace, proxier: UserspaceProxier) -> None:
        self.client = client
        self.proxier = proxier
        self.services = ServiceMap()

    def serve(
        self, service: ServicePort, *addresses: str, port: int = 80, ready: bool = True
    ) -> set[ServicePortName]:
        """Announce one Service with ready endpoints at these addresses; the names that changed."""
        key = (service.name.namespace, service.name.name)
        endpoints = tuple(Endpoint(address, port, ready=ready) for address in addresses)
        changed = self.services.set_service(key, [service])
        return changed | self.services.set_slice(key, "slice", {service.name: endpoints})

    def sync(self, changed: set[ServicePortName] | None = None) -> SyncResult:
        return self.proxier.sync(self.services, changed)

    def ask(self, address: str, port: int, *, node: bool = False) -> str:
        """What the endpoint answers to a client in the pod, or on the node itself."""

        def call() -> str:
            with connect((address, port)) as sock:
                sock.sendall(b"?\n")
                return sock.recv(1000).decode().strip()

        return call() if node else self.client.run(call)

    def ask_udp(self, address: str, port: int, *, node: bool = False) -> str:
        def call() -> str:
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
                sock.settimeout(5)
                sock.connect((address, port))
                sock.send(b"?")
                return sock.recv(1000).decode().strip()

        return call() if node else self.client.run(call)


@pytest.fixture(params=["legacy", "nft"])
def lab(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Lab]:
    settings = ProxySettings(
        hostname="node1", node_ips=(NODE,), cluster_cidr="10.0.0.0/16", iptables_variant=request.param
    )
    with Namespace.create("client") as client, Namespace.create("server") as server:
        link(client, NODE, ["10.0.1.2"])
        link(server, "10.0.2.1", SERVERS)
        write_sysctl("net.ipv4.ip_forward", 1)
        listenings = [
            Listening(f"s{number}", "node1", server.path, address, ((80, "TCP"), (81, "TCP"), (53, "UDP")))
            for number, address in enumerate(SERVERS)
        ]
        with start_backend(listenings, control_path=tmp_path / "control", log=tmp_path / "log"):
            proxier = UserspaceProxier(settings)
            yield Lab(client, proxier)
            proxier.close()


def link(pod: Namespace, gateway: str, addresses: Sequence[str]) -> None:
    run(["ip", "link", "add", pod.name, "type", "veth", "peer", "name", "eth0", "netns", pod.name])
    run(["ip", "address", "add", f"{gateway}/24", "dev", pod.name])
    run(["ip", "link", "set", pod.name, "up"])
    for address in addresses:
        run(["ip", "address", "add", f"{address}/24", "dev", "eth0"], namespace=pod)
    run(["ip", "link", "set", "eth0", "up"], namespace=pod)
    run(["ip", "route", "add", "default", "via", gateway], namespace=pod)
    run(["ip", "route", "replace", "10.96.0.0/12", "dev", "client"], check=False)


in_a_guest_too = pytest.mark.parametrize(
    "lab", ["legacy", "nft", pytest.param("legacy", marks=pytest.mark.guest, id="uml")], indirect=True
)


def web(**changes: object) -> ServicePort:
    facts: dict[str, object] = {"name": WEB, "cluster_ip": VIP, "port": 80, **changes}
    return ServicePort(**facts)  # type: ignore[arg-type]


def nat_rules(proxier: UserspaceProxier) -> list[str]:
    lines = Iptables(Family.IPV4, proxier.iptables_variant).save("nat").splitlines()
    return [line for line in lines if line.startswith("-A") and "KUBE" in line]


@in_a_guest_too
def test_a_pods_connections_take_turns_and_endpoints_see_the_node(lab: Lab) -> None:
    lab.serve(web(), *SERVERS)
    lab.sync()
    answers = [lab.ask(VIP, 80).split() for _ in range(6)]
    assert [pod for pod, _ in answers] == ["s0", "s1", "s2"] * 2
    assert {peer.split(":")[0] for _, peer in answers} == {"10.0.2.1"}


def test_the_node_itself_reaches_services_too(lab: Lab) -> None:
    lab.serve(web(node_port=30080), *SERVERS[:1])
    lab.sync()
    for address, port in ((VIP, 80), (NODE, 30080), ("127.0.0.1", 30080)):
        assert lab.ask(address, port, node=True).startswith("s0 ")


@pytest.mark.parametrize("address", [NODE, "10.0.2.1"])
def test_a_node_port_is_reached_at_every_address_of_the_node(lab: Lab, address: str) -> None:
    lab.serve(web(node_port=30080), *SERVERS[:1])
    lab.sync()
    assert lab.ask(address, 30080).startswith("s0 ")


def test_external_and_load_balancer_addresses_are_portals_as_well(lab: Lab) -> None:
    lab.serve(web(external_ips=("203.0.113.7",), load_balancer_ips=("10.240.0.1",)), *SERVERS[:1])
    lab.sync()
    assert lab.ask("203.0.113.7", 80).startswith("s0 ")
    assert lab.ask("10.240.0.1", 80).startswith("s0 ")


def test_a_port_leads_to_another_target_port(lab: Lab) -> None:
    lab.serve(web(port=443), *SERVERS[:1], port=81)
    lab.sync()
    assert lab.ask(VIP, 443).startswith("s0 ")


@in_a_guest_too
def test_datagrams_are_answered_from_the_vip(lab: Lab) -> None:
    dns = ServicePort(ServicePortName("kube-system", "dns", "", "UDP"), VIP, 53, node_port=30053)
    lab.serve(dns, *SERVERS[:1], port=53)
    lab.sync()
    assert lab.ask_udp(VIP, 53).startswith("s0 10.0.2.1:")
    assert lab.ask_udp(NODE, 30053).startswith("s0 ")
    assert lab.ask_udp(VIP, 53, node=True).startswith("s0 ")


def test_tcp_and_udp_on_one_port_number_are_independent(lab: Lab) -> None:
    tcp, udp = (ServicePortName("default", "both", name, name.upper()) for name in ("tcp", "udp"))
    changed = lab.services.set_service(
        ("default", "both"), [ServicePort(tcp, VIP, 53), ServicePort(udp, VIP, 53)]
    )
    slices = {tcp: (Endpoint(SERVERS[0], 80),), udp: (Endpoint(SERVERS[1], 53),)}
    changed |= lab.services.set_slice(("default", "both"), "slice", slices)
    lab.sync(changed)
    lab.sync()
    assert lab.ask(VIP, 53).startswith("s0 ")
    assert lab.ask_udp(VIP, 53).startswith("s1 ")


def test_endpoints_that_are_not_ready_are_never_used_and_draining_ones_neither(lab: Lab) -> None:
    lab.serve(web(), *SERVERS[:1])
    draining = Endpoint(SERVERS[1], 80, ready=False, serving=True, terminating=True)
    unready = Endpoint(SERVERS[2], 80, ready=False)
    lab.services.set_slice(("default", "web"), "more", {WEB: (draining, unready)})
    lab.sync()
    assert {lab.ask(VIP, 80).split()[0] for _ in range(6)} == {"s0"}


def test_without_endpoints_clients_are_accepted_and_closed(lab: Lab) -> None:
    lab.serve(web())
    lab.sync()
    with lab.client.run(connect, (VIP, 80)) as client:
        assert client.recv(1) == b""


def test_a_change_of_endpoints_writes_no_rule_and_takes_effect_at_once(lab: Lab) -> None:
    lab.serve(web(), *SERVERS)
    lab.sync()
    before = nat_rules(lab.proxier)
    result = lab.sync(lab.serve(web(), SERVERS[2]))
    assert (result.full, result.rules_written, result.bytes_written) == (False, 0, 0)
    assert {lab.ask(VIP, 80).split()[0] for _ in range(3)} == {"s2"}
    assert nat_rules(lab.proxier) == before


def test_a_new_service_writes_its_own_rules_only(lab: Lab) -> None:
    for number in range(20):
        lab.serve(web(name=ServicePortName("default", f"s{number}", ""), cluster_ip=f"10.96.1.{number}"))
    assert lab.sync().rules_written == 40 + 5
    assert lab.sync().rules_written == 40 + 1
    result = lab.sync(lab.serve(web(), *SERVERS))
    assert result.rules_written == 2
    assert result.rules_total == {"nat": 42 + 5}
    assert lab.ask(VIP, 80).startswith("s0 ")


def test_changes_one_by_one_end_in_the_rules_of_a_full_sync(lab: Lab) -> None:
    lab.sync()
    lab.sync(lab.serve(web(node_port=30080), *SERVERS))
    other = ServicePortName("default", "other", "")
    lab.sync(lab.serve(web(name=other, cluster_ip="10.96.0.11"), *SERVERS))
    lab.sync(lab.serve(web(external_ips=("203.0.113.7",)), *SERVERS))
    lab.sync(lab.services.set_service(("default", "other"), []))
    incremental = sorted(nat_rules(lab.proxier))
    result = lab.sync()
    assert sorted(nat_rules(lab.proxier)) == incremental
    assert result.rules_total == {"nat": len(incremental)}


@in_a_guest_too
def test_a_deleted_service_is_gone_and_its_connections_go_on(lab: Lab) -> None:
    lab.serve(web(), *SERVERS)
    lab.sync()
    with lab.client.run(connect, (VIP, 80)) as client:
        client.sendall(b"hello")
        assert receive(client, 5) == b"hello"
        result = lab.sync(lab.services.set_service(("default", "web"), []))
        assert result.rules_written == 2
        client.sendall(b"again")
        assert receive(client, 5) == b"again"
    assert not any(VIP in rule for rule in nat_rules(lab.proxier))


def test_churn_fails_no_connection_and_ends_in_the_rules_of_a_full_sync(lab: Lab) -> None:
    chance = random.Random(4)
    lab.sync(lab.serve(web(), *SERVERS))
    removed: frozenset[str] = frozenset()  # a new object for each change
    over = threading.Event()
    failures: list[str] = []
    answered = 0

    def connect_all_the_time() -> None:
        nonlocal answered
        while not over.is_set():
            gone = removed
            try:
                with connect((VIP, 80)) as client:
                    client.sendall(b"?\n")
                    pod = client.recv(100).decode().split()[0]
            except (OSError, IndexError) as error:
                failures.append(repr(error))
                continue
            if pod in gone and gone is removed:
                failures.append(f"{pod} had been removed")
            answered += 1

    traffic = threading.Thread(target=lab.client.run, args=(connect_all_the_time,))
    traffic.start()
    for number in range(300):
        removed = frozenset()
        kept = chance.sample(range(3), chance.randint(1, 3))
        lab.sync(lab.serve(web(node_port=chance.choice([0, 30080])), *(SERVERS[index] for index in kept)))
        removed = frozenset({"s0", "s1", "s2"} - {f"s{index}" for index in kept})
        other = ServicePortName("default", f"other-{number % 7}", "")
        if chance.random() < 0.5:
            lab.sync(lab.services.set_service((other.namespace, other.name), []))
        else:
            lab.sync(lab.serve(web(name=other, cluster_ip=f"10.96.1.{chance.randint(1, 9)}"), SERVERS[0]))
    over.set()
    traffic.join()
    assert failures == []
    assert answered > 300
    incremental = sorted(nat_rules(lab.proxier))
    lab.sync()
    assert sorted(nat_rules(lab.proxier)) == incremental


def test_affinity_holds_over_connections(lab: Lab) -> None:
    lab.serve(web(affinity_timeout_s=60), *SERVERS)
    lab.sync()
    assert len({lab.ask(VIP, 80).split()[0] for _ in range(9)}) == 1


def test_a_flush_from_outside_is_healed_by_the_next_full_sync(lab: Lab) -> None:
    lab.serve(web(), *SERVERS)
    lab.sync()
    before = sorted(nat_rules(lab.proxier))
    run([f"iptables-{lab.proxier.iptables_variant}", "-t", "nat", "-F"])
    lab.sync()
    assert sorted(nat_rules(lab.proxier)) == before
    assert lab.ask(VIP, 80).startswith("s0 ")


def test_close_removes_what_it_installed_and_nothing_else(lab: Lab) -> None:
    variant = lab.proxier.iptables_variant
    run([f"iptables-{variant}", "-t", "nat", "-A", "PREROUTING", "-p", "tcp", "--dport", "9", "-j", "RETURN"])
    before = Iptables(Family.IPV4, variant).save("nat")
    lab.serve(web(node_port=30080), *SERVERS)
    lab.sync()
    lab.proxier.close()
    after = Iptables(Family.IPV4, variant).save("nat")
    assert rules_and_chains(after) == rules_and_chains(before)


def test_cleanup_removes_what_another_run_left_behind(lab: Lab) -> None:
    lab.serve(web(node_port=30080), *SERVERS)
    lab.sync()
    variant = lab.proxier.iptables_variant
    cleanup(ProxySettings(node_ips=(NODE,), iptables_variant=variant))
    saved = Iptables(Family.IPV4, variant).save("nat")
    assert not any(chain in saved for chain in (*CHAINS, ANCHOR))
    cleanup(ProxySettings(node_ips=(NODE,), iptables_variant=variant))


def rules_and_chains(saved: str) -> list[str]:
    return [line.split(" [")[0] for line in saved.splitlines() if line.startswith((":", "-"))]


def test_ipv6_is_refused_with_the_remedy() -> None:
    with pytest.raises(UserError, match="IPv4 only"):
        UserspaceProxier(ProxySettings(family=Family.IPV6))


def test_more_services_than_open_files_allow_are_refused_with_the_remedy() -> None:
    resource.setrlimit(resource.RLIMIT_NOFILE, (512, 512))
    proxier = UserspaceProxier(SETTINGS)
    services = many_services(300)
    with pytest.raises(MachineLacks, match=r"needs 556 open files for 300 .*ulimit -Hn"):
        proxier.sync(services, None)
    proxier.close()


def test_ten_thousand_services_fit_into_one_process() -> None:
    proxier = UserspaceProxier(SETTINGS)
    result = proxier.sync(many_services(10_000), None)
    assert result.rules_written == 20_000 + 5
    assert len(nat_rules(proxier)) == 20_000 + 5
    proxier.close()
    assert nat_rules(proxier) == []


def many_services(count: int) -> ServiceMap:
    services = ServiceMap()
    for number in range(count):
        name = ServicePortName("default", f"s{number}", "")
        address = f"10.{100 + number // 62_500}.{number // 250 % 250}.{number % 250}"
        services.set_service((name.namespace, name.name), [ServicePort(name, address, 80)])
    return services
