"""Merging what is known of Services, and telling what changed."""

from __future__ import annotations

from dataclasses import replace

from testbed.proxy.model import Endpoint, ServicePort, ServicePortName
from testbed.proxy.servicemap import ServiceMap

KEY = ("default", "web")
HTTP = ServicePortName("default", "web", "http")
HTTPS = ServicePortName("default", "web", "https")
ONE, TWO, THREE = (Endpoint(f"10.0.0.{number}", 80) for number in (1, 2, 3))


def port(name: ServicePortName, vip: str = "10.96.0.1", number: int = 80) -> ServicePort:
    return ServicePort(name, vip, number)


def other(name: str) -> tuple[tuple[str, str], ServicePortName]:
    return ("default", name), ServicePortName("default", name, "")


def test_services_keep_the_order_in_which_they_were_announced_through_updates() -> None:
    services = ServiceMap()
    names = []
    for number in (3, 1, 2):
        key, name = other(f"s{number}")
        names.append(name)
        assert services.set_service(key, [port(name, f"10.96.0.{number}")]) == {name}
    key, name = other("s3")
    assert services.set_service(key, [port(name, "10.96.0.9")]) == {name}
    assert list(services) == names


def test_an_update_that_changes_nothing_is_no_change() -> None:
    services = ServiceMap()
    services.set_service(KEY, [port(HTTP)])
    assert services.set_service(KEY, [port(HTTP)]) == set()
    assert services.set_slice(KEY, "a", {HTTP: (ONE,)}) == {HTTP}
    assert services.set_slice(KEY, "a", {HTTP: (ONE,)}) == set()


def test_ports_come_and_go_with_their_service() -> None:
    services = ServiceMap()
    services.set_service(KEY, [port(HTTP), port(HTTPS, number=443)])
    assert services.set_service(KEY, [port(HTTPS, number=8443)]) == {HTTP, HTTPS}
    assert services.ports_of(KEY) == [port(HTTPS, number=8443)]
    assert services.set_service(KEY, []) == {HTTPS}
    assert not services


def test_slices_of_one_service_are_merged_and_sorted() -> None:
    services = ServiceMap()
    services.set_service(KEY, [port(HTTP)])
    services.set_slice(KEY, "b", {HTTP: (TWO, THREE)})
    services.set_slice(KEY, "a", {HTTP: (ONE,)})
    assert services.endpoints(HTTP) == (ONE, TWO, THREE)
    assert services.endpoint_count == 3
    assert services.set_slice(KEY, "b", None) == {HTTP}
    assert services.endpoints(HTTP) == (ONE,)
    assert services.set_slice(KEY, "a", None) == {HTTP}
    assert services.endpoints(HTTP) == ()
    assert services.endpoint_count == 0


def test_an_endpoint_in_two_slices_counts_once_with_its_better_conditions() -> None:
    services = ServiceMap()
    services.set_service(KEY, [port(HTTP)])
    services.set_slice(KEY, "a", {HTTP: (ONE._replace(ready=False),)})
    services.set_slice(KEY, "b", {HTTP: (ONE,)})
    assert services.endpoints(HTTP) == (ONE,)


def test_endpoints_may_arrive_before_their_service() -> None:
    services = ServiceMap()
    assert services.set_slice(KEY, "a", {HTTP: (ONE,)}) == set()
    assert services.set_service(KEY, [port(HTTP)]) == {HTTP}
    assert services.choice(HTTP).cluster == (ONE,)


def test_a_virtual_address_belongs_to_the_first_service_that_claims_it() -> None:
    services = ServiceMap()
    services.set_service(KEY, [port(HTTP)])
    key, name = other("thief")
    assert services.set_service(key, [port(name)]) == set()
    assert services.conflicts == 1
    assert list(services) == [HTTP]
    assert services.set_service(KEY, []) == {HTTP, name}
    assert list(services) == [name]


def test_the_same_address_over_another_protocol_or_port_is_another_claim() -> None:
    services = ServiceMap()
    udp = HTTP._replace(protocol="UDP")
    assert services.set_service(KEY, [port(HTTP), port(udp), port(HTTPS, number=81)]) == {HTTP, udp, HTTPS}


def test_a_shadowed_service_that_moves_away_is_served() -> None:
    services = ServiceMap()
    services.set_service(KEY, [port(HTTP)])
    key, name = other("thief")
    services.set_service(key, [port(name)])
    moved = replace(port(name), cluster_ip="10.96.0.2")
    assert services.set_service(key, [moved]) == {name}
    assert services[name] == moved


def test_a_service_that_moves_onto_a_taken_address_is_not_served() -> None:
    services = ServiceMap()
    services.set_service(KEY, [port(HTTP)])
    key, name = other("mover")
    services.set_service(key, [port(name, "10.96.0.2")])
    assert services.set_service(key, [port(name)]) == {name}
    assert name not in services
