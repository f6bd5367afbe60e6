"""A fabric connects everybody to everybody, translates on one bridge, and leaves nothing."""

from __future__ import annotations

import json
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sandboxed import Puppet

from testbed.errors import MachineLacks, NetlinkRefused, UserError
from testbed.net.fabric import Fabric, NodeAttachment, PodAttachment, build_fabric
from testbed.net.measuring import measuring_sysctls
from testbed.net.namespace import Namespace
from testbed.net.process import run

OUTSIDE, OUTSIDE6 = "172.18.255.254", "fd00:172:18::fffe"
UNDERLAY, UNDERLAY6 = "172.18.0.0/16", "fd00:172:18::/64"


def attachments(nodes: int = 2, pods: int = 2, *, dual: bool = False) -> list[NodeAttachment]:
    return [
        NodeAttachment(
            name=f"node{n}",
            address=f"172.18.0.{n}",
            pod_network=f"10.244.{n}.0/24",
            gateway=f"10.244.{n}.1",
            pods=tuple(
                PodAttachment(
                    f"pod{n}{p}", f"10.244.{n}.{p + 2}", f"fd00:10:244:{n}::{p + 2}" if dual else None
                )
                for p in range(pods)
            ),
            address6=f"fd00:172:18::{n}" if dual else None,
            pod_network6=f"fd00:10:244:{n}::/64" if dual else None,
            gateway6=f"fd00:10:244:{n}::1" if dual else None,
        )
        for n in range(1, nodes + 1)
    ]


def build(nodes: int = 2, pods: int = 2, *, prefix: str = "") -> Fabric:
    return build_fabric(attachments(nodes, pods), outside_address=OUTSIDE, underlay=UNDERLAY, prefix=prefix)


@pytest.fixture
def fabric() -> Iterator[Fabric]:
    with build() as fabric:
        yield fabric


@pytest.fixture
def dual_stack() -> Iterator[Fabric]:
    with build_fabric(
        attachments(dual=True),
        outside_address=OUTSIDE,
        underlay=UNDERLAY,
        ipv6=True,
        outside_address6=OUTSIDE6,
        underlay6=UNDERLAY6,
    ) as fabric:
        yield fabric


def place(fabric: Fabric, name: str) -> Namespace:
    return {**fabric.nodes, **fabric.pods, "outside": fabric.outside}[name]


def connect(client: Namespace, server: Namespace, address: str, port: int = 80) -> str:
    """Exchange a byte over TCP; the client's address as the server saw it."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with server.socket(family, socket.SOCK_STREAM) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.settimeout(5)
        listener.bind(("", 80))
        listener.listen()
        with client.socket(family, socket.SOCK_STREAM) as dialled:
            dialled.settimeout(5)
            dialled.connect((address, port))
            accepted, peer = listener.accept()
            with accepted:
                accepted.sendall(b"x")
                assert dialled.recv(1) == b"x"
    return str(peer[0])


def forwarded_packets(node: Namespace) -> int:
    """What a node's IPv4 stack has forwarded so far."""
    names, values = (
        line.split() for line in node.run(Path("/proc/thread-self/net/snmp").read_text).splitlines()[:2]
    )
    return int(dict(zip(names, values, strict=True))["ForwDatagrams"])


def shown(namespace: Namespace, *argv: str) -> Any:
    return json.loads(run(argv, namespace=namespace).stdout)


@pytest.mark.parametrize(
    ("client", "server", "address", "seen"),
    [
        ("pod10", "pod11", "10.244.1.3", "10.244.1.2"),
        ("pod10", "pod20", "10.244.2.2", "10.244.1.2"),
        ("pod10", "pod10", "10.244.1.2", "10.244.1.2"),
        ("node1", "pod10", "10.244.1.2", "10.244.1.1"),
        ("node1", "pod20", "10.244.2.2", "172.18.0.1"),
        ("node1", "node2", "172.18.0.2", "172.18.0.1"),
        ("pod10", "node1", "172.18.0.1", "10.244.1.2"),
        ("pod10", "node1", "10.244.1.1", "10.244.1.2"),
        ("pod10", "node2", "172.18.0.2", "10.244.1.2"),
        ("outside", "node1", "172.18.0.1", OUTSIDE),
        ("outside", "node2", "172.18.0.2", OUTSIDE),
        ("outside", "pod20", "10.244.2.2", OUTSIDE),
        ("pod20", "outside", OUTSIDE, "10.244.2.2"),
    ],
)
def test_everybody_reaches_everybody_under_his_own_address(
    fabric: Fabric, client: str, server: str, address: str, seen: str
) -> None:
    assert connect(place(fabric, client), place(fabric, server), address) == seen


@pytest.mark.parametrize(
    ("client", "server", "address", "seen"),
    [
        ("pod10", "pod11", "fd00:10:244:1::3", "fd00:10:244:1::2"),
        ("pod10", "pod20", "fd00:10:244:2::2", "fd00:10:244:1::2"),
        ("pod10", "pod20", "10.244.2.2", "10.244.1.2"),
        ("node1", "pod20", "fd00:10:244:2::2", "fd00:172:18::1"),
        ("outside", "node2", "fd00:172:18::2", OUTSIDE6),
        ("outside", "pod20", "fd00:10:244:2::2", OUTSIDE6),
        ("pod20", "outside", OUTSIDE6, "fd00:10:244:2::2"),
    ],
)
def test_with_dual_stack_both_families_do(
    dual_stack: Fabric, client: str, server: str, address: str, seen: str
) -> None:
    assert connect(place(dual_stack, client), place(dual_stack, server), address) == seen


def test_without_it_there_is_no_ipv6_address_anywhere(fabric: Fabric) -> None:
    for namespace in (*fabric.nodes.values(), *fabric.pods.values(), fabric.outside):
        assert run(["ip", "-6", "address"], namespace=namespace).stdout == ""


@pytest.mark.parametrize(("server", "address"), [("pod11", "10.244.1.3"), ("pod20", "10.244.2.2")])
def test_a_node_translates_for_its_pods_even_on_one_bridge(fabric: Fabric, server: str, address: str) -> None:
    node = fabric.nodes["node1"]
    rule = "-t nat -A PREROUTING -d 10.96.0.1/32 -p tcp --dport 8080 -j DNAT --to-destination"
    run(["iptables-legacy", *rule.split(), f"{address}:80"], namespace=node)
    forwarded = forwarded_packets(node)
    assert connect(fabric.pods["pod10"], fabric.pods[server], "10.96.0.1", 8080) == "10.244.1.2"
    assert forwarded_packets(node) > forwarded, "the packets passed the node's IP stack"


def test_a_pod_reaches_itself_through_its_nodes_translation(fabric: Fabric) -> None:
    node = fabric.nodes["node1"]
    for rule in (
        "-t nat -A PREROUTING -d 10.96.0.1/32 -p tcp --dport 80 -j DNAT --to-destination 10.244.1.2:80",
        "-t nat -A POSTROUTING -s 10.244.1.2/32 -d 10.244.1.2/32 -j MASQUERADE",
    ):
        run(["iptables-legacy", *rule.split()], namespace=node)
    assert connect(fabric.pods["pod10"], fabric.pods["pod10"], "10.96.0.1") == "10.244.1.1"


def test_traffic_asks_no_neighbour_and_floods_no_port(fabric: Fabric) -> None:
    def received(pod: str) -> int:
        (link,) = shown(fabric.pods[pod], "ip", "-j", "-s", "link", "show", "eth0")
        return int(link["stats64"]["rx"]["packets"])

    before = received("pod11")
    connect(fabric.pods["pod10"], fabric.pods["pod20"], "10.244.2.2")
    connect(fabric.outside, fabric.pods["pod10"], "10.244.1.2")
    assert received("pod11") == before
    for namespace in (*fabric.nodes.values(), *fabric.pods.values(), fabric.outside):
        assert {tuple(entry["state"]) for entry in shown(namespace, "ip", "-j", "neigh")} == {("PERMANENT",)}


def test_stock_commands_work_by_name(fabric: Fabric) -> None:
    names = {entry["name"] for entry in json.loads(run(["ip", "-j", "netns"]).stdout)}
    assert names == {*fabric.nodes, *fabric.pods, "outside", "fabric"}
    (link,) = json.loads(run(["ip", "netns", "exec", "pod10", "ip", "-j", "link", "show", "eth0"]).stdout)
    assert link["address"] == "0a:58:0a:f4:01:02"


def test_a_pod_joins_and_leaves_a_live_node(fabric: Fabric) -> None:
    for _ in range(2):
        pod = fabric.add_pod("node1", PodAttachment("late", "10.244.1.50"))
        assert fabric.pods["late"] is pod
        assert connect(fabric.pods["pod20"], pod, "10.244.1.50") == "10.244.2.2"
        assert connect(pod, fabric.pods["pod10"], "10.244.1.2") == "10.244.1.50"
        fabric.remove_pod("late")
        assert "late" not in fabric.pods
        assert not Path("/run/netns/late").exists()
        assert len(shown(fabric.nodes["node1"], "ip", "-j", "link", "show", "master", "cni0")) == 2
    with pytest.raises(OSError, match=r"timed out|No route"):
        connect(fabric.pods["pod20"], fabric.pods["pod10"], "10.244.1.50")


def test_what_a_pod_started_does_not_keep_its_link(fabric: Fabric) -> None:
    pod = fabric.add_pod("node1", PodAttachment("late", "10.244.1.50"))
    with pod.socket(socket.AF_INET, socket.SOCK_STREAM) as kept:
        kept.bind(("10.244.1.50", 80))
        fabric.remove_pod("late")
        assert len(shown(fabric.nodes["node1"], "ip", "-j", "link", "show", "master", "cni0")) == 2


def test_two_fabrics_have_the_same_addresses_side_by_side(fabric: Fabric) -> None:
    with build(prefix="other-") as other:
        assert other.pods["pod10"].path == "/run/netns/other-pod10"
        connect(other.pods["pod10"], other.pods["pod20"], "10.244.2.2")
        connect(fabric.pods["pod10"], fabric.pods["pod20"], "10.244.2.2")
        client = fabric.pods["pod10"].socket(socket.AF_INET, socket.SOCK_STREAM)
        with other.pods["pod20"].socket(socket.AF_INET, socket.SOCK_STREAM) as listener, client:
            listener.bind(("", 81))
            listener.listen()
            with pytest.raises(ConnectionRefusedError):
                client.connect(("10.244.2.2", 81))


def test_a_cluster_may_be_one_node_without_pods() -> None:
    with build(nodes=1, pods=0) as fabric:
        assert connect(fabric.outside, fabric.nodes["node1"], "172.18.0.1") == OUTSIDE


@pytest.mark.parametrize(
    ("nodes", "error", "words"),
    [
        ([*attachments(1), *attachments(1)], UserError, "node1, pod10, pod11: used twice"),
        (attachments(1, 1024), MachineLacks, "node1 needs a bridge with 1024 ports"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_is_built(
    nodes: list[NodeAttachment], error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words):
        build_fabric(nodes, outside_address=OUTSIDE, underlay=UNDERLAY)
    assert list(Path("/run/netns").iterdir()) == []


def test_a_build_that_the_kernel_refuses_is_taken_back_whole() -> None:
    before = {path.name for path in Path("/proc/self/fd").iterdir()}
    nodes = attachments()
    twin = NodeAttachment("twin", "172.18.0.7", "10.244.2.0/24", "10.244.2.1")
    with pytest.raises(NetlinkRefused, match=r"add route 10\.244\.2\.0/24 via 172\.18\.0\.7 in node1"):
        build_fabric([*nodes, twin], outside_address=OUTSIDE, underlay=UNDERLAY)
    assert list(Path("/run/netns").iterdir()) == []
    assert {path.name for path in Path("/proc/self/fd").iterdir()} == before


def test_a_refused_pod_changes_nothing(fabric: Fabric) -> None:
    with pytest.raises(UserError, match="pod10: used twice"):
        fabric.add_pod("node2", PodAttachment("pod10", "10.244.2.60"))
    with pytest.raises(UserError, match="outside: used twice"):
        fabric.add_pod("node2", PodAttachment("outside", "10.244.2.60"))
    assert connect(fabric.pods["pod10"], fabric.pods["pod11"], "10.244.1.3") == "10.244.1.2"


def test_a_nodes_forwarding_needs_nobodys_defaults(fabric: Fabric) -> None:
    def value(key: str) -> str:
        return Path("/proc/sys/net/ipv4", key).read_text().strip()

    node = fabric.nodes["node1"]
    assert node.run(value, "ip_forward") == "1"
    for device in ("all", "default", "eth0", "cni0"):
        assert node.run(value, f"conf/{device}/send_redirects") == "0"
        assert node.run(value, f"conf/{device}/rp_filter") == "0"
    assert fabric.pods["pod10"].run(value, "ip_forward") == "0"


def test_measuring_settings_hold_in_pods_and_nodes(fabric: Fabric) -> None:
    for namespace in (fabric.pods["pod10"], fabric.nodes["node1"]):
        recorded = measuring_sysctls(namespace)
        assert recorded["net.ipv4.tcp_timestamps"] == "2"
        assert recorded["net.netfilter.nf_conntrack_tcp_timeout_time_wait"] == "1"
        for key, value in recorded.items():
            path = Path("/proc/sys", key.replace(".", "/"))
            assert namespace.run(path.read_text).split() == value.split()


def build_and_leave() -> list[str]:
    build(3, 10)
    return [path.name for path in Path("/run/netns").iterdir()]


def test_a_killed_builder_leaves_nothing_around_its_sandbox() -> None:
    def surroundings() -> tuple[str, list[Path], str]:
        links = subprocess.run(["ip", "-o", "link"], capture_output=True, text=True, check=True).stdout
        return links, list(Path("/run/netns").iterdir()), Path("/proc/self/mounts").read_text()

    before = surroundings()
    with Puppet() as puppet:
        assert len(puppet.call(build_and_leave)) == 3 + 30 + 2
        assert surroundings() == before
    assert surroundings() == before
