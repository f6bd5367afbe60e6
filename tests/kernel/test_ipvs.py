"""What only IPVS mode has to do: let connections drain, and every scheduler of the kernel."""

from __future__ import annotations

import socket

import pytest
from proxynode import VIP, Mode, Node
from smallcluster import PODS, PORT, question
from test_behaviours import affine

from testbed.net.rawsocket import reset_on_close
from testbed.net.wait import wait_until
from testbed.proxy.ipvs.model import SCHEDULERS

pytestmark = [pytest.mark.guest, pytest.mark.parametrize("mode", [Mode("ipvs")], ids=["ipvs"])]


def connected(node: Node) -> tuple[socket.socket, str]:
    """An open connection and its pod; closed by reset IPVS remembers it for ten seconds, not two minutes."""
    sock = node.cluster.dial("client", VIP, 80)
    reset_on_close(sock.fileno())
    return sock, question(sock).pod


def table(node: Node) -> str:
    """The table after a sync without changes, which is when drained endpoints are looked at."""
    node.sync()
    return node.sh("ipvsadm", "-Ln")


def test_a_drained_endpoint_and_a_drained_service_go_when_their_last_connection_does(node: Node) -> None:
    node.serve("a", "b")
    sock, pod = connected(node)
    place = f"{PODS[pod][1]}:{PORT}"
    with sock:
        assert node.serve("b" if pod == "a" else "a")[0].again_after_s is not None
        weights = {line.split()[3] for line in table(node).splitlines() if place in line}
        assert weights == {"0"}
    wait_until(lambda: place not in table(node), "the endpoint to be deleted", 40)
    sock, _ = connected(node)
    with sock:
        node.delete()
        assert node.sync()[0].again_after_s is not None
        assert VIP in table(node)
    wait_until(lambda: VIP not in table(node), "the virtual server to be deleted", 40)
    assert VIP not in node.sh("ip", "address")
    assert node.sync()[0].again_after_s is None


def test_an_endpoint_that_comes_back_while_it_drains_serves_again(node: Node) -> None:
    node.serve("a", "b")
    sock, pod = connected(node)
    with sock:
        node.serve("b" if pod == "a" else "a")
        node.serve("a", "b")
        assert sorted(node.pods(10)) == ["a"] * 5 + ["b"] * 5
        assert question(sock).pod == pod


def test_every_scheduler_balances_and_takes_over_in_place(node: Node) -> None:
    node.serve(*"abcd", **affine(60))
    for scheduler, shown in (*((name, name) for name in SCHEDULERS), ("sh:sh-port", "sh (sh-port)")):
        node.settings = {"scheduler": scheduler}
        node.restart()
        node.sync()
        assert f"TCP  {VIP}:80 {shown}" in node.sh("ipvsadm", "-Ln"), scheduler
        assert {*node.pods(8)} <= {*"abcd"}, scheduler
