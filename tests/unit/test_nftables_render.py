"""The table of nftables mode: its whole text, what Services add, and transactions as small as the change."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from testbed.proxy.model import Endpoint, Family, ServicePort, ServicePortName, choose_endpoints
from testbed.proxy.nftables import base
from testbed.proxy.nftables.book import Book
from testbed.proxy.nftables.names import endpoint_name, port_name, port_path
from testbed.proxy.nftables.render import Element, Piece, render_port
from testbed.proxy.proxier import ProxySettings

GOLDEN = Path(__file__).parent.parent / "golden" / "nftables"
SETTINGS = ProxySettings(cluster_cidr="10.244.0.0/16", node_ips=("192.0.2.1", "198.18.0.1"))
SETTINGS6 = ProxySettings(
    family=Family.IPV6, cluster_cidr="fd00:244::/48", node_ips=("2001:db8::1",), masquerade_bit=15
)
HERE, THERE = Endpoint("10.244.1.5", 8080, local=True), Endpoint("10.244.2.5", 8080)
NAME = ServicePortName("default", "web", "http")
ALL_WAYS: dict[str, Any] = {
    "node_port": 30080,
    "load_balancer_ips": ("203.0.113.9",),
    "external_ips": ("198.51.100.7",),
}


def a_port(**fields: Any) -> ServicePort:
    return ServicePort(**{"name": NAME, "cluster_ip": "10.96.0.1", "port": 80, **fields})


def piece(port: ServicePort, *endpoints: Endpoint, settings: ProxySettings = SETTINGS) -> Piece:
    return render_port(port, choose_endpoints(port, endpoints), settings)


def loaded(port: ServicePort, *endpoints: Endpoint, settings: ProxySettings = SETTINGS) -> str:
    book = Book(settings)
    return "".join(book.load([(port.name, piece(port, *endpoints, settings=settings))]))


def ipv6_port() -> str:
    port = a_port(cluster_ip="fd00:96::1", node_port=30080, affinity_timeout_s=60)
    return loaded(port, Endpoint("fd00:244::5", 8080, local=True), settings=SETTINGS6)


CASES: dict[str, Callable[[], str]] = {
    "base": lambda: "".join(Book(SETTINGS).load([])),
    "cluster-ip": lambda: loaded(a_port(), HERE, THERE),
    "no-endpoints": lambda: loaded(a_port(**ALL_WAYS)),
    "every-way-in": lambda: loaded(a_port(**ALL_WAYS), HERE, THERE),
    "local": lambda: loaded(a_port(external_local=True, internal_local=True, **ALL_WAYS), HERE, THERE),
    "local-elsewhere": lambda: loaded(a_port(external_local=True, **ALL_WAYS), THERE),
    "source-ranges": lambda: loaded(
        a_port(source_ranges=("10.0.0.0/8", "10.1.0.0/16", "192.0.2.7/32"), **ALL_WAYS), HERE
    ),
    "affinity": lambda: loaded(a_port(affinity_timeout_s=10800), HERE, THERE),
    "ipv6": ipv6_port,
}


@pytest.mark.parametrize("case", CASES)
def test_the_text_is_that_of_the_golden_file(case: str) -> None:
    assert CASES[case]() == (GOLDEN / f"{case}.txt").read_text()


def test_names_are_kube_proxys() -> None:
    port = ServicePort(ServicePortName("ns1", "svc1", "p80"), "172.30.0.41", 80)
    path = port_path(port)
    assert port_name(path) == "ULMVA6XW-ns1/svc1/tcp/p80"
    assert endpoint_name(path, Endpoint("10.180.0.1", 80)) == "5OJB2KTY-ns1/svc1/tcp/p80__10.180.0.1/80"
    assert ":" not in endpoint_name(path, Endpoint("fd00::1", 80))
    long = ServicePort(ServicePortName("n" * 63, "s" * 63, "p" * 63), "172.30.0.41", 80)
    assert len(endpoint_name(port_path(long), Endpoint("10.180.0.1", 80))) <= 200


def test_the_rules_of_a_service_grow_with_its_endpoints_only() -> None:
    def rules(endpoints: int) -> int:
        behind = [Endpoint(f"10.244.2.{number}", 80) for number in range(endpoints)]
        return sum(map(len, piece(a_port(), *behind).chains.values()))

    assert [rules(endpoints) for endpoints in (1, 2, 10)] == [2 + 2, 2 + 4, 2 + 20]


def test_a_range_of_everything_is_no_fence() -> None:
    fenced = piece(a_port(source_ranges=("0.0.0.0/0", "10.0.0.0/8"), **ALL_WAYS), HERE)
    assert not any(element.container == base.FIREWALL_IPS for element in fenced.elements)


@pytest.mark.parametrize(
    ("chosen", "listening"),
    [((), ["192.0.2.1"]), (("primary",), ["192.0.2.1"]), (("198.18.0.0/15",), ["198.18.0.1"])],
)
def test_node_ports_listen_on_the_primary_address_or_where_told(
    chosen: tuple[str, ...], listening: list[str]
) -> None:
    settings = ProxySettings(node_ips=SETTINGS.node_ips, nodeport_addresses=chosen)
    assert base.node_port_ips(settings) == listening


def test_a_change_is_as_small_as_what_changed_and_none_is_nothing() -> None:
    book, port = Book(SETTINGS), a_port()
    others = [(NAME._replace(name=f"other{number}"), f"10.97.0.{number}") for number in range(100)]
    pieces = [(name, piece(a_port(name=name, cluster_ip=vip), HERE)) for name, vip in others]
    list(book.load([*pieces, (NAME, piece(port, HERE))]))
    assert book.change([(NAME, piece(port, HERE))]) == ""
    assert book.change([(NAME, piece(port, HERE, THERE))]) == (GOLDEN / "change.txt").read_text()
    assert book.change([(NAME, None)]) == (GOLDEN / "delete.txt").read_text()
    assert book.change([(NAME, None)]) == ""


def test_another_affinity_timeout_makes_the_sets_anew_under_the_same_chains() -> None:
    book = Book(SETTINGS)
    list(book.load([(NAME, piece(a_port(affinity_timeout_s=60), HERE))]))
    lines = book.change([(NAME, piece(a_port(affinity_timeout_s=30), HERE))]).splitlines()
    verbs = [" ".join(line.split()[:2]) for line in lines]
    assert verbs.index("delete set") > verbs.index("flush chain")
    assert verbs.index("add set") > verbs.index("delete set")
    assert "delete chain" not in verbs
    assert not any("element" in verb for verb in verbs)


def test_an_element_belongs_to_the_first_that_claims_it_until_it_lets_go() -> None:
    book = Book(SETTINGS)
    second = NAME._replace(name="second")
    list(book.load([(NAME, piece(a_port(), HERE)), (second, piece(a_port(name=second), THERE))]))
    text = book.change([(NAME, None)])
    assert f"delete element ip kube-proxy {base.SERVICE_IPS} {{ 10.96.0.1 . tcp . 80 }}\n" in text
    assert f"add element ip kube-proxy {base.SERVICE_IPS} {{ 10.96.0.1 . tcp . 80 : goto service-" in text
    assert "cluster-ips" not in text


def test_a_load_goes_in_transactions_of_bounded_size_and_switches_elements_last() -> None:
    names = [NAME._replace(name=f"web{number}") for number in range(20)]
    texts = list(Book(SETTINGS, 5000).load((name, piece(a_port(name=name), HERE, THERE)) for name in names))
    assert 4 <= len(texts[1:-1]) <= 6
    assert all(len(text) <= 5000 for text in texts[1:-1])
    assert not any(" element " in text for text in texts[1:-1])
    assert texts[-1].startswith("flush set ip kube-proxy cluster-ips\n")


def test_a_load_writes_a_chain_at_once_and_after_those_that_it_leads_to() -> None:
    texts = list(Book(SETTINGS, 1).load([(NAME, piece(a_port(**ALL_WAYS), HERE, THERE))]))
    written = [text.splitlines() for text in texts if text.startswith("flush chain")]
    chains = [lines[0].split()[4] for lines in written]
    assert [chain.split("-")[0] for chain in chains] == ["endpoint", "endpoint", "service", "external"]
    for chain, lines in zip(chains, written, strict=True):
        assert all(line.startswith(f"add rule ip kube-proxy {chain} ") for line in lines[1:])


def test_leftovers_of_earlier_times_are_found_by_name() -> None:
    book = Book(SETTINGS)
    list(book.load([(NAME, piece(a_port(affinity_timeout_s=60), HERE))]))
    kept = piece(a_port(affinity_timeout_s=60), HERE)
    texts = list(book.leftovers([*kept.chains, "service-OLD"], [*kept.sets, "affinity-OLD"]))
    assert texts == [
        "flush chain ip kube-proxy service-OLD\n"
        "delete chain ip kube-proxy service-OLD\n"
        "delete set ip kube-proxy affinity-OLD\n"
    ]


def test_an_element_is_told_by_its_container_and_its_key() -> None:
    assert piece(a_port(), HERE).elements.keys() == {
        Element("cluster-ips", "10.96.0.1"),
        Element("service-ips", "10.96.0.1 . tcp . 80"),
    }
