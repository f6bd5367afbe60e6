"""Every mode does over time what kube-proxy does in it: endpoints, Services and proxies come and go."""

from __future__ import annotations

import contextlib
import json
import logging
import socket
import time
from collections import Counter
from collections.abc import Callable, Iterator
from http.client import HTTPConnection
from typing import Any

import pytest
from asking import Answer, Question, question
from modesunderproof import IN_KERNEL, MODES, TRAITS, unfailing_client
from proving import prove
from proxynode import (
    ALL_WAYS,
    EXTERNAL,
    LB,
    NODE,
    NODE_PORT,
    VIP,
    End,
    Node,
    both,
    of_family,
    service,
    slices,
)
from smallcluster import PORT, PORT2

from testbed.net.wait import wait_until
from testbed.proxy.model import Family
from testbed.proxy.sync import SyncFailed

every_mode = pytest.mark.parametrize("mode", MODES)
every_mode_in_the_kernel = pytest.mark.parametrize("mode", IN_KERNEL)
"""Those whose connections do not end with the proxy's process."""
PROTOCOLS = ("TCP", "UDP")


def affine(seconds: int) -> dict[str, Any]:
    config = {"clientIP": {"timeoutSeconds": seconds}}
    return {"sessionAffinity": "ClientIP", "sessionAffinityConfig": config}


def kinds(node: Node) -> list[tuple[str, str]]:
    """VIP and protocol of everything that a Service is in this mode."""
    return [(of_family(VIP, family), protocol) for family in node.families for protocol in PROTOCOLS]


@every_mode
def test_four_endpoints_share_connections(node: Node) -> None:
    node.serve(*"abcd")
    for vip, protocol in kinds(node):
        asked = [Question("client", vip, 80, protocol)] * 50  # what a socket's buffer holds
        outcomes = [outcome for _ in range(8) for outcome in node.cluster.outcomes(asked)]
        pods = Counter(outcome.pod for outcome in outcomes if isinstance(outcome, Answer))
        assert pods.total() == 400
        if TRAITS[node.mode.name].takes_turns:
            lost = 2 if protocol == "UDP" else 0  # a datagram that has to be sent again may take another turn
            assert all(100 - lost <= pods[pod] <= 100 + lost for pod in "abcd"), pods
        else:
            assert all(52 <= pods[pod] <= 148 for pod in "abcd"), pods  # 5.5 standard deviations of chance


@every_mode
def test_ports_lead_to_their_target_ports(node: Node) -> None:
    ports = [{"name": f"p{port}", "port": port, "protocol": "TCP"} for port in (80, 443)]
    node.tell(service(ports=ports), *slices("ac", ports=[("p80", "TCP", PORT), ("p443", "TCP", PORT2)]))
    node.sync()
    for family in node.families:
        for port, target in ((80, PORT), (443, PORT2)):
            asked = Question(
                "client", of_family(VIP, family), port, text=b"GET / HTTP/1.1\r\nHost: web\r\n\r\n"
            )
            assert node.cluster.outcomes([asked])[0] == Answer(str(target), "")


@every_mode
def test_endpoints_come_and_go(node: Node) -> None:
    none = TRAITS[node.mode.name].nobody
    for pods, seen in (
        ("", none),
        ("c", "c=any"),
        ("ac", "ac=any"),
        ("a", "a=any"),
        ("", none),
        ("b", "b=any"),
    ):
        node.serve(*pods, **ALL_WAYS)
        prove(node, "\n".join(f"{way}: {seen}" for way in ("vip", "node port", "balancer", "external")))


@every_mode
@pytest.mark.parametrize("settings", [{"ipvs_udp_timeout_s": 5.0}])
def test_affinity_keeps_a_client_at_its_endpoint_until_it_idles_or_the_endpoint_goes(node: Node) -> None:
    seconds = TRAITS[node.mode.name].affinity_s
    node.serve(*"abcd", **affine(seconds))
    asking = {kind: Question("client", kind[0], 80, kind[1]) for kind in kinds(node)}

    def chosen(times: int) -> dict[tuple[str, str], str]:
        """The one pod that each kind of client is led to, however often it asks."""
        rounds = [node.cluster.outcomes(list(asking.values())) for _ in range(times)]
        pods = [
            {getattr(outcome, "pod", str(outcome)) for outcome in found}
            for found in zip(*rounds, strict=True)
        ]
        assert all(len(found) == 1 for found in pods), pods
        return dict(zip(asking, (found.pop() for found in pods), strict=True))

    first = chosen(60)
    moved: set[tuple[str, str]] = set()

    def moves_on() -> bool:
        """Whether every kind of client has met another pod by now, after one more rest."""
        rested_at_s = time.monotonic() + seconds + 0.3
        wait_until(lambda: time.monotonic() >= rested_at_s, "clients to have been idle", seconds + 10)
        moved.update(kind for kind, pod in chosen(2).items() if pod != first[kind])
        return len(moved) == len(asking)

    wait_until(moves_on, "other endpoints after the timeout", 40 * seconds)
    for pod in set(chosen(1).values()):
        node.serve(*sorted({*"abcd"} - {pod}), **affine(seconds))
        assert pod not in chosen(10).values()


@every_mode
def test_a_udp_client_follows_its_service_without_waiting_for_timeouts(node: Node) -> None:
    node.serve(**ALL_WAYS)
    with contextlib.ExitStack() as stack:
        socks = [
            stack.enter_context(node.cluster.udp(source, of_family(address, family), port))
            for family in node.families
            for source, address, port in (("client", VIP, 80), ("outside", NODE, NODE_PORT))
        ]
        for sock in socks:
            assert _answering(sock) == ""
        for pod in "acb":
            node.serve(pod, **ALL_WAYS)
            for sock in socks:
                wait_until(lambda sock=sock, pod=pod: _answering(sock) == pod, f"an answer of {pod}", 20)  # type: ignore[misc]
        node.delete()
        node.sync()
        for sock in socks:
            assert _answering(sock) == ""


def _answering(sock: socket.socket) -> str:
    """The pod that answers; empty if none does."""
    with contextlib.suppress(TimeoutError, ConnectionRefusedError, OSError):
        return question(sock).pod
    return ""


@every_mode
def test_an_established_connection_outlives_its_endpoint_and_its_service(node: Node) -> None:
    node.serve("a", "b")
    with _connected(node) as held:
        for vip, (sock, pod) in held.items():
            other = "b" if pod == "a" else "a"
            node.serve(other)
            assert question(sock).pod == pod
            assert {*node.pods(10, address=vip)} == {other}
        node.delete()
        node.sync()
        for sock, pod in held.values():
            assert question(sock).pod == pod
    outcomes = node.cluster.outcomes([Question("client", vip, 80) for vip in held], [True] * len(held))
    assert not [outcome for outcome in outcomes if isinstance(outcome, Answer)]


@contextlib.contextmanager
def _connected(node: Node) -> Iterator[dict[str, tuple[socket.socket, str]]]:
    """Open connections to the Service, one for each family: socket and pod by VIP."""
    with contextlib.ExitStack() as stack:
        held = {}
        for family in node.families:
            vip = of_family(VIP, family)
            sock = stack.enter_context(node.cluster.dial("client", vip, 80))
            held[vip] = sock, question(sock).pod
        yield held


@every_mode_in_the_kernel
def test_a_new_proxier_removes_what_is_stale_and_interrupts_nothing(node: Node) -> None:
    node.serve("a", "b")
    node.serve("a", name="stale", vip="10.96.0.2", **{**ALL_WAYS, **affine(60)})
    before = node.dump()
    with _connected(node) as held, unfailing_client(node) as asked:
        node.delete("stale")
        node.service("a", "c")
        began = len(asked)
        wait_until(lambda: len(asked) >= began + 50, "50 connections while no proxy runs", 60)
        assert node.dump() == before
        node.restart()
        node.sync()
        began = len(asked)
        wait_until(lambda: len(asked) >= began + 20, "20 connections more", 60)
        for sock, pod in held.values():
            assert question(sock).pod == pod
    prove(node, "vip: ac=any")
    left = "\n".join(node.dump())
    for trace in ("stale", *both("10.96.0.2"), *both(LB), *both(EXTERNAL), str(NODE_PORT)):
        assert trace not in left


@every_mode
@pytest.mark.parametrize("settings", [{"sync_period_s": 0.3}])
def test_rules_flushed_from_outside_are_healed_within_a_sync_period(node: Node) -> None:
    node.serve("a", **ALL_WAYS)
    before = node.dump()
    for command in TRAITS[node.mode.name].flushing:
        node.command(command)
        wait_until(lambda: any(result.full for result in node.sync()), f"{command} to be noticed", 20)
        assert node.dump() == before, command
    prove(node, "vip: a=any\nnode port: a=any")


@every_mode
@pytest.mark.parametrize("settings", [{"sync_period_s": 3600.0}])
def test_a_change_that_fails_is_written_with_everything_and_counted(node: Node) -> None:
    node.serve("a")
    for command in TRAITS[node.mode.name].wrecking:
        node.command(command)
    wrecked = node.dump()
    node.service("b", "c", name="other", vip="10.96.0.2")
    node.service("b")
    counted = TRAITS[node.mode.name].failures
    if counted:
        with pytest.raises(SyncFailed):
            node.sync()
        assert node.metric(counted) == len(node.families)
        assert node.dump() == wrecked
    assert all(result.full for result in node.sync())
    prove(node, "vip: b=any")
    assert {*node.pods(20, address="10.96.0.2")} == {*"bc"}


@every_mode
def test_services_of_others_leave_no_trace(node: Node) -> None:
    node.serve("a")
    before = node.dump()
    other = {"service.kubernetes.io/service-proxy-name": "other"}
    node.serve("b", name="headless", vip="None")
    node.serve("b", name="named", vip="", type="ExternalName", externalName="example.com")
    node.serve("b", name="foreign", vip="10.96.0.2", labels=other)
    node.serve("b", name="marked", vip="10.96.0.3", labels={"service.kubernetes.io/headless": ""})
    assert node.dump() == before


@every_mode
def test_malformed_objects_are_skipped_with_a_word_and_the_rest_is_served(
    node: Node, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    node.service("a", **ALL_WAYS)
    before = node.metric("malformed_objects_total")
    for number, spec in enumerate(MALFORMED):
        node.service("b", name=f"bad{number}", **{"vip": f"10.96.1.{number}", **spec})
    node.tell(*MALFORMED_SLICES)
    node.sync()
    prove(node, "vip: a=any\nnode port: a=any\nbalancer: a=any")
    mistakes = node.metric("malformed_objects_total") - before
    assert mistakes >= len(MALFORMED) + len(MALFORMED_SLICES)
    for number in range(len(MALFORMED)):
        assert f"bad{number}" in caplog.text
    node.serve("c", **ALL_WAYS)
    prove(node, "vip: c=any")


MALFORMED: list[dict[str, Any]] = [
    {"vip": "10.96.0.256"},
    {"vip": "224.0.0.1"},
    {"vip": VIP},
    {"ports": [{"name": "tcp", "port": 0, "protocol": "TCP"}]},
    {"ports": [{"name": "tcp", "port": 80, "protocol": "ICMP"}]},
    {"ports": [{"name": "tcp"}]},
    {"ports": [{"name": "x" * 300, "port": 80}]},
    {"ports": [{"name": 'a" -j ACCEPT', "port": 80}]},
    {"externalIPs": ["here", "0.0.0.0"]},
    {"balancer": [{"ip": "127.0.0.1"}]},
    {"loadBalancerSourceRanges": ["10.0.0.0/33"], **ALL_WAYS, "node_port": 30081, "balancer": []},
    {"node_port": 70000},
    affine(10**12),
]
MALFORMED_SLICES = [
    *slices(["d"], of="bad0", ports=[("tcp", "TCP", 70000)]),
    *[
        {**item, "endpoints": [{"addresses": [address]} for address in addresses]}
        for addresses in (["10.244.1.999"], ["224.0.0.5"], ["0.0.0.0"], ["127.0.0.1"])
        for item in slices((), of="bad1", number=len(addresses[0]))
        if item["addressType"] == "IPv4"
    ],
]


@every_mode
def test_a_health_port_tells_of_local_ready_endpoints(node: Node) -> None:
    spec = {**ALL_WAYS, "externalTrafficPolicy": "Local", "healthCheckNodePort": 32000}
    leaving = End("a", ready=False, terminating=True)
    for ends, local in ((("a", "b", "c"), 2), ((leaving, "b"), 1), ((leaving,), 0), (("c",), 0), ((), 0)):
        node.serve(*ends, **spec)
        status, weight, body = node.cluster.node.run(_health, 32000)
        assert (status, weight, body["localEndpoints"]) == (200 if local else 503, str(local), local)
    node.delete()
    node.sync()
    with pytest.raises(ConnectionRefusedError):
        node.cluster.node.run(_health, 32000)


def _health(port: int) -> tuple[int, str | None, dict[str, Any]]:
    connection = HTTPConnection("127.0.0.1", port, timeout=5)
    connection.request("GET", "/")
    response = connection.getresponse()
    weight = response.getheader("X-Load-Balancing-Endpoint-Weight")
    return response.status, weight, json.loads(response.read())


@every_mode
@pytest.mark.parametrize("leave", [Node.close, Node.clean_up], ids=["close", "cleanup"])
def test_what_is_removed_is_all_of_ours_and_nothing_of_others(
    node: Node, leave: Callable[[Node], None]
) -> None:
    foreign = TRAITS[node.mode.name].foreign
    for command in foreign:
        node.command(command)
    ranges = {"loadBalancerSourceRanges": ["10.0.0.0/8"], "externalTrafficPolicy": "Local"}
    node.serve("a", "c", **ALL_WAYS, **ranges, **affine(60))
    node.serve(name="empty", vip="10.96.0.2")
    leave(node)
    left = "\n".join(node.dump(others=True))
    assert "kube" not in left.lower()
    for trace in TRAITS[node.mode.name].foreign_traces:
        assert trace in left
    for command in TRAITS[node.mode.name].forgetting_foreign:
        node.command(command)


@every_mode
def test_a_family_goes_alone(node: Node) -> None:
    if len(node.families) == 1:
        assert node.families == (Family.IPV4,)
        return
    node.serve("a", "c")
    node.close(Family.IPV6)
    assert not [line for line in node.dump() if "fd00" in line]
    assert {*node.pods(20)} == {*"ac"}


@every_mode
def test_rules_are_as_many_as_services_and_endpoints_make_them(node: Node) -> None:
    for services, endpoints in ((1, 1), (4, 1), (4, 3)):
        for number in range(1, services + 1):
            node.service(*"acd"[:endpoints], name=f"s{number}", vip=f"10.96.0.{number}")
        for family, result in zip(node.families, node.sync(), strict=True):
            assert result.rules_total == TRAITS[node.mode.name].rules(family, services, endpoints)
