"""The portal rules are kube-proxy's, and a change writes only what it changes."""

from __future__ import annotations

from pathlib import Path

from testbed.proxy.model import ServicePort, ServicePortName
from testbed.proxy.userspace.portals import Portal, difference, jumps, rules, whole

GOLDEN = Path(__file__).parent.parent / "golden" / "userspace-portals.txt"

WEB = ServicePort(
    ServicePortName("default", "web", "http"),
    "10.96.0.10",
    80,
    node_port=30080,
    external_ips=("203.0.113.7",),
    load_balancer_ips=("10.240.0.1",),
)
DNS = ServicePort(ServicePortName("kube-system", "dns", "", "UDP"), "10.96.0.53", 53)


def portal(service: ServicePort, proxy_port: int, listen: str = "0.0.0.0") -> Portal:
    return Portal(service, proxy_port, listen, "192.168.0.1")


def test_the_whole_text_is_as_recorded() -> None:
    text = "\n".join(
        [
            *whole(
                [
                    rules(portal(WEB, 40001)),
                    rules(portal(DNS, 40002)),
                    rules(portal(WEB, 40003, "192.168.0.1")),
                ]
            ),
            *(f"{jump.chain} {'append' if jump.last else 'first'} {jump.rule}" for jump in jumps()),
            *(f"{jump.chain} {jump.rule}" for jump in jumps(["192.168.0.0/24"]) if jump.last),
        ]
    )
    assert text == GOLDEN.read_text().rstrip("\n")


def test_a_cluster_ip_takes_two_rules_and_a_node_port_two_more() -> None:
    assert len(rules(portal(DNS, 40002))) == 2
    assert len(rules(portal(WEB, 40001))) == 2 * 3 + 2


def test_an_address_named_twice_gets_its_rules_once() -> None:
    twice = ServicePort(DNS.name, "10.96.0.53", 53, external_ips=("10.96.0.53",))
    assert len(rules(portal(twice, 40002))) == 2


def test_a_change_deletes_what_went_and_adds_what_came() -> None:
    before = {"dns": rules(portal(DNS, 40002)), "web": rules(portal(WEB, 40001))}
    moved = ServicePort(WEB.name, WEB.cluster_ip, 80, node_port=30081)
    lines = difference(before, {"dns": before["dns"], "web": rules(portal(moved, 40001))})
    gone = [line for line in lines if line.startswith("-D ")]
    come = [line for line in lines if line.startswith("-A ")]
    assert len(gone) == 4 + 2
    assert len(come) == 2
    assert all("30081" in line for line in come)
    assert lines == gone + come


def test_nothing_changed_writes_nothing() -> None:
    same = {"dns": rules(portal(DNS, 40002))}
    assert difference(same, same) == []


def test_a_service_that_is_gone_leaves_no_rule() -> None:
    assert len(difference({"dns": rules(portal(DNS, 40002))}, {})) == 2
