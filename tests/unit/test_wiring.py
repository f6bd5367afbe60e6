"""Who knows what in a cluster of two nodes, line by line."""

from __future__ import annotations

import pytest

from testbed.net.wiring import (
    NodeAttachment,
    PodAttachment,
    Wiring,
    plug_messages,
    pod_forgotten,
    pod_known,
    pod_messages,
)

WEB = PodAttachment("web", "10.244.1.2", "fd00:10:244:1::2")
NODES = tuple(
    NodeAttachment(
        name=f"node{n}",
        address=f"172.18.0.{n}",
        pod_network=f"10.244.{n}.0/24",
        gateway=f"10.244.{n}.1",
        pods=(WEB,) if n == 1 else (),
        address6=f"fd00:172:18::{n}",
        pod_network6=f"fd00:10:244:{n}::/64",
        gateway6=f"fd00:10:244:{n}::1",
    )
    for n in (1, 2)
)
OUTSIDE = PodAttachment("outside", "172.18.255.254", "fd00:172:18::fffe")
WIRING = Wiring(NODES, OUTSIDE, ("172.18.0.0/16", "fd00:172:18::/64"))


def test_a_node_knows_its_neighbours_and_the_way_to_their_pods() -> None:
    assert [message.what for message in WIRING.node(NODES[0])] == [
        "set device 1001 up",
        "add address 172.18.0.1/16",
        "add address fd00:172:18::1/64",
        "add neighbour 172.18.0.2",
        "add neighbour fd00:172:18::2",
        "add neighbour 172.18.255.254",
        "add neighbour fd00:172:18::fffe",
        "add route 0.0.0.0/0 via 172.18.255.254",
        "add route ::/0 via fd00:172:18::fffe",
        "add route 10.244.2.0/24 via 172.18.0.2",
        "add route fd00:10:244:2::/64 via fd00:172:18::2",
    ]


def test_a_nodes_bridge_is_its_pods_gateway() -> None:
    assert [message.what for message in WIRING.bridge(NODES[1])] == [
        "set device 1 up",
        "add bridge cni0",
        "add address 10.244.2.1/24",
        "add address fd00:10:244:2::1/64",
    ]


def test_a_pod_knows_nobody_but_its_gateway() -> None:
    assert [message.what for message in pod_messages(WEB, NODES[0])] == [
        "set device 1 up",
        "set device 1001 up",
        "add address 10.244.1.2/32",
        "add neighbour 10.244.1.1",
        "add route 0.0.0.0/0 via 10.244.1.1",
        "add address fd00:10:244:1::2/128",
        "add neighbour fd00:10:244:1::1",
        "add route ::/0 via fd00:10:244:1::1",
    ]


def test_its_node_plugs_it_in_and_knows_it() -> None:
    messages = [*plug_messages(2001, WEB, netns_fd=9), *pod_known(WEB)]
    assert [message.what for message in messages] == [
        "add veth port2001 with peer eth0",
        "add 0a:58:0a:f4:01:02 to port 2001",
        "add neighbour 10.244.1.2",
        "add neighbour fd00:10:244:1::2",
    ]
    assert [message.what for message in pod_forgotten(WEB)] == [
        "delete neighbour 10.244.1.2",
        "delete neighbour fd00:10:244:1::2",
    ]


def test_the_client_outside_goes_through_the_first_node() -> None:
    assert [message.what for message in WIRING.client()][-2:] == [
        "add route 0.0.0.0/0 via 172.18.0.1",
        "add route ::/0 via fd00:172:18::1",
    ]


def test_without_nodes_there_is_no_way_out() -> None:
    lonely = Wiring((), PodAttachment("outside", "172.18.255.254"), ("172.18.0.0/16",))
    assert [message.what for message in lonely.client()] == [
        "set device 1 up",
        "set device 1001 up",
        "add address 172.18.255.254/16",
    ]


def test_addresses_that_lack_a_network_are_a_mistake_of_the_caller() -> None:
    with pytest.raises(ValueError, match="shorter"):
        Wiring(NODES, OUTSIDE, ("172.18.0.0/16",)).node(NODES[0])
