"""iptables mode's rules as text: golden files, counts, and syncs that add up.

`UPDATE_GOLDEN=1 pytest ...` writes the files anew; look at the difference before keeping it.
"""

from __future__ import annotations

import base64
import os
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from testbed.proxy.iptables import names
from testbed.proxy.iptables.restore import Jump, missing_jumps, removal, stale_jumps
from testbed.proxy.iptables.transaction import Book
from testbed.proxy.model import Endpoint, Family, ServicePort, ServicePortName
from testbed.proxy.proxier import ProxySettings
from testbed.proxy.servicemap import ServiceMap

GOLDEN = Path(__file__).parents[1] / "golden" / "iptables"
SETTINGS = ProxySettings(cluster_cidr="10.244.0.0/16", node_ips=("192.168.0.1",))
NAME = ServicePortName("default", "web", "http")
HERE, THERE = Endpoint("10.244.1.5", 8080, local=True), Endpoint("10.244.2.5", 8080)
WAYS: dict[str, Any] = {
    "node_port": 30080,
    "load_balancer_ips": ("203.0.113.9",),
    "external_ips": ("198.51.100.7",),
}
NOTHING_THERE = {"nat": "", "filter": ""}


def services_of(port: ServicePort, *endpoints: Endpoint) -> ServiceMap:
    services = ServiceMap()
    services.set_service((port.name.namespace, port.name.name), [port])
    services.set_slice((port.name.namespace, port.name.name), "x", {port.name: tuple(sorted(endpoints))})
    return services


def port(**fields: Any) -> ServicePort:
    return replace(ServicePort(NAME, "10.96.0.1", 80), **fields)


six = Endpoint("fd00:244::5", 8080)
CASES: dict[str, tuple[ProxySettings, ServiceMap]] = {
    "empty": (SETTINGS, ServiceMap()),
    "cluster-ip": (SETTINGS, services_of(port(), HERE, THERE, Endpoint("10.244.2.6", 8080))),
    "no-endpoints": (SETTINGS, services_of(port(**WAYS))),
    "all-ways": (SETTINGS, services_of(port(**WAYS), HERE, THERE)),
    "external-local": (SETTINGS, services_of(port(**WAYS, external_local=True), HERE, THERE)),
    "external-local-without-local": (SETTINGS, services_of(port(**WAYS, external_local=True), THERE)),
    "internal-local": (SETTINGS, services_of(port(internal_local=True), HERE, THERE)),
    "internal-local-without-local": (SETTINGS, services_of(port(internal_local=True), THERE)),
    "source-ranges": (
        SETTINGS,
        services_of(port(**WAYS, source_ranges=("192.168.0.0/24", "10.0.0.0/8")), HERE),
    ),
    "affinity": (SETTINGS, services_of(port(affinity_timeout_s=10800), HERE, THERE)),
    "health-port": (
        SETTINGS,
        services_of(port(external_local=True, health_check_node_port=32000, node_port=30080), HERE),
    ),
    "udp": (SETTINGS, services_of(port(name=NAME._replace(protocol="UDP", port="")), HERE)),
    "masquerade-all": (replace(SETTINGS, masquerade_all=True), services_of(port(), HERE)),
    "no-cluster-cidr": (replace(SETTINGS, cluster_cidr=None), services_of(port(), HERE)),
    "no-comments": (replace(SETTINGS, comments_up_to_endpoints=0), services_of(port(), HERE, THERE)),
    "primary-node-ports-other-mark": (
        replace(SETTINGS, nodeport_addresses=("primary",), masquerade_bit=9),
        services_of(port(node_port=30080), HERE),
    ),
    "ipv6": (
        ProxySettings(family=Family.IPV6, cluster_cidr="fd00:244::/48", node_ips=("fd00::1",)),
        services_of(port(cluster_ip="fd00:96::1", node_port=30080), six, Endpoint("fd00:244::6", 8080)),
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_the_rules_are_those_of_the_golden_file(case: str) -> None:
    how, services = CASES[case]
    text = Book(how).draft_full(services, NOTHING_THERE).text.decode()
    path = GOLDEN / f"{case}.txt"
    if "UPDATE_GOLDEN" in os.environ:
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    assert text == path.read_text()


def test_chain_names_are_kube_proxys() -> None:
    # The names that kube-proxy gives the API server's own Service in every cluster.
    kubernetes = ServicePortName("default", "kubernetes", "https")
    assert names.service_hash(kubernetes) == "NPX46M4PTMTKRN6Y"
    assert names.service_hash(ServicePortName("kube-system", "kube-dns", "dns", "UDP")) == "TCOU7JCQXEZGVUNU"
    assert names.service_hash(ServicePortName("kube-system", "kube-dns", "dns-tcp")) == "ERIFXISQEP7F7OF4"


@given(st.text())
def test_chain_hashes_are_the_start_of_base32_of_sha256(text: str) -> None:
    expected = base64.b32encode(sha256(text.encode()).digest())[:16].decode()
    assert names.chain_hash(text) == expected


@pytest.mark.parametrize("endpoints", [1, 3, 10])
@pytest.mark.parametrize("services", [1, 7, 50])
def test_the_number_of_rules_follows_services_and_endpoints(services: int, endpoints: int) -> None:
    book = Book(SETTINGS)
    draft = book.draft_full(many(services, endpoints), NOTHING_THERE)
    per_service = 2 + 3 * endpoints  # the jump and the masquerade rule; per endpoint a choice and two rules
    assert draft.rules == {"filter": 4, "nat": 5 + services * per_service}
    canaries = 3
    assert draft.text.count(b"\n-A KUBE") == sum(draft.rules.values()) + canaries
    book.commit(draft)
    assert book.total_rules == draft.rules


@pytest.mark.parametrize("services", [1, 200])
def test_the_size_of_a_partial_sync_does_not_depend_on_the_number_of_services(services: int) -> None:
    book, wanted = Book(SETTINGS), many(services, 3)
    book.commit(book.draft_full(wanted, NOTHING_THERE))
    changed = many_endpoints(wanted, 0, 4)
    draft = book.draft_partial(wanted, changed)
    assert draft.rules == {"filter": 0, "nat": 1 + 3 * 4}


def test_a_sync_without_changes_writes_nothing() -> None:
    book, wanted = Book(SETTINGS), many(3, 3)
    book.commit(book.draft_full(wanted, NOTHING_THERE))
    assert book.draft_partial(wanted, ()).text == b""
    assert book.draft_partial(wanted, [ServicePortName("default", "never-seen", "")]).text == b""


def test_services_are_matched_in_the_order_of_their_creation_and_node_ports_last() -> None:
    services = ServiceMap()
    for number, name in enumerate(("zebra", "ant", "mouse")):
        identity = ServicePortName("default", name, "")
        services.set_service(("default", name), [ServicePort(identity, f"10.96.0.{number}", 80)])
        services.set_slice(("default", name), name, {identity: (HERE,)})
    text = Book(SETTINGS).draft_full(services, NOTHING_THERE).text.decode()
    lines = [line for line in text.splitlines() if line.startswith("-A KUBE-SERVICES")]
    order = [next(word for word in ("zebra", "ant", "mouse", "NODEPORTS") if word in line) for line in lines]
    assert order == ["zebra", "ant", "mouse", "NODEPORTS"]


def test_chains_left_over_from_another_run_are_deleted_by_a_full_sync() -> None:
    saved = {"nat": ":KUBE-SVC-OLD - [0:0]\n:KUBE-SEP-OLD - [0:0]\n:MINE - [0:0]\n", "filter": ""}
    text = Book(SETTINGS).draft_full(ServiceMap(), saved).text.decode()
    for chain in ("KUBE-SVC-OLD", "KUBE-SEP-OLD"):
        assert f":{chain} - [0:0]" in text
        assert f"-X {chain}" in text
    assert "MINE" not in text


def many(services: int, endpoints: int) -> ServiceMap:
    made = ServiceMap()
    for number in range(services):
        name = ServicePortName("default", f"svc-{number}", "")
        made.set_service(("default", name.name), [ServicePort(name, f"10.96.0.{number + 1}", 80)])
        many_endpoints(made, number, endpoints)
    return made


def many_endpoints(services: ServiceMap, number: int, endpoints: int) -> set[ServicePortName]:
    name = ServicePortName("default", f"svc-{number}", "")
    parts = tuple(Endpoint(f"10.244.{last}.{number + 1}", 8080) for last in range(endpoints))
    return services.set_slice(("default", name.name), "x", {name: parts})


JUMP = Jump("filter", "FORWARD", "KUBE-SERVICES", "kubernetes service portals", "-m conntrack --ctstate NEW")
SAVED_JUMP = (
    '-A FORWARD -m conntrack --ctstate NEW -m comment --comment "kubernetes service portals" -j KUBE-SERVICES'
)


def test_jumps_are_added_when_missing() -> None:
    assert missing_jumps([JUMP], "-A FORWARD -j KUBE-SERVICES") == [f"-I FORWARD 1 {JUMP.rule}"]
    assert missing_jumps([replace(JUMP, last=True)], "") == [f"-A FORWARD {JUMP.rule}"]
    assert missing_jumps([JUMP], SAVED_JUMP) == []


def test_a_jump_is_told_from_others_by_its_destination_too() -> None:
    def jump(match: str) -> Jump:
        return Jump("nat", "PREROUTING", "PORTS", "node ports", match, last=True)

    ours = [jump(f"-d {cidr} -m addrtype --dst-type LOCAL") for cidr in ("192.0.2.1/24", "203.0.113.7/32")]
    words = '-m addrtype --dst-type LOCAL -m comment --comment "node ports" -j PORTS'
    first = f"-A PREROUTING -d 192.0.2.0/24 {words}"
    assert missing_jumps(ours, first) == [f"-A PREROUTING {ours[1].rule}"]
    assert stale_jumps(ours, first) == []
    everywhere = jump("-m addrtype --dst-type LOCAL")
    assert missing_jumps([everywhere], first) == [f"-A PREROUTING {everywhere.rule}"]
    assert stale_jumps([everywhere], first) == [first.replace("-A", "-D")]
    whole = f"-A PREROUTING {everywhere.rule}"
    assert missing_jumps([jump("-d 0.0.0.0/0 -m addrtype --dst-type LOCAL")], whole) == []


def test_removing_chains_removes_the_jumps_to_them_from_other_chains_only() -> None:
    saved = "\n".join(
        (
            ":FORWARD ACCEPT [0:0]",
            ":A - [0:0]",
            ":B - [0:0]",
            "-A FORWARD -p tcp -j A",
            "-A FORWARD -p udp -j B",
            "-A A -j B",
            "-A FORWARD -j REJECT --reject-with icmp-port-unreachable",
        )
    )
    assert removal(saved, {"A", "B"}) == [
        ":A - [0:0]",
        ":B - [0:0]",
        "-D FORWARD -p tcp -j A",
        "-D FORWARD -p udp -j B",
        "-X A",
        "-X B",
    ]
