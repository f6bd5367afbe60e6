"""From events to deltas."""

from __future__ import annotations

from typing import Any

from testbed.proxy.changes import ChangeTracker
from testbed.proxy.model import Family, ServicePortName
from testbed.proxy.servicemap import ServiceMap

WEB = ServicePortName("default", "web", "")
DNS = ServicePortName("default", "dns", "", "UDP")
TRIGGER = "endpoints.kubernetes.io/last-change-trigger-time"


def service(name: str = "web", vip: str = "10.96.0.1", protocol: str = "TCP") -> dict[str, Any]:
    return {
        "metadata": {"namespace": "default", "name": name},
        "spec": {"clusterIP": vip, "ports": [{"port": 80, "protocol": protocol}]},
    }


def slice_of(name: str, *addresses: str, of: str = "web", triggered: str = "") -> dict[str, Any]:
    meta: dict[str, Any] = {
        "namespace": "default",
        "name": name,
        "labels": {"kubernetes.io/service-name": of},
        "annotations": {TRIGGER: triggered} if triggered else {},
    }
    endpoints = [{"addresses": [address]} for address in addresses]
    return {"metadata": meta, "addressType": "IPv4", "endpoints": endpoints, "ports": [{"port": 8080}]}


def tracker(now_s: float = 0.0) -> ChangeTracker:
    return ChangeTracker(Family.IPV4, "node1", wall_clock=lambda: now_s)


def test_many_events_of_one_object_become_one_change() -> None:
    changes, services = tracker(), ServiceMap()
    for number in range(1, 6):
        changes.update_service(service(vip=f"10.96.0.{number}"))
        changes.update_slice(slice_of("web-1", f"10.0.0.{number}"))
    assert changes.pending == (1, 1)
    delta = changes.take(services)
    assert delta.changed == {WEB}
    assert (delta.service_events, delta.slice_events) == (5, 5)
    assert services[WEB].cluster_ip == "10.96.0.5"
    assert [endpoint.address for endpoint in services.endpoints(WEB)] == ["10.0.0.5"]
    assert changes.take(services).changed == set()


def test_a_service_that_came_and_went_between_two_syncs_never_was() -> None:
    changes, services = tracker(), ServiceMap()
    changes.update_service(service())
    changes.remove_service(("default", "web"))
    assert changes.take(services).changed == set()
    assert not services


def test_a_delta_remembers_what_services_were_before() -> None:
    changes, services = tracker(), ServiceMap()
    changes.update_service(service("dns", protocol="UDP"))
    changes.take(services)
    before = services[DNS]
    changes.remove_service(("default", "dns"))
    delta = changes.take(services)
    assert delta.changed == {DNS}
    assert delta.before == {DNS: before}


def test_what_a_new_list_no_longer_has_is_gone() -> None:
    changes, services = tracker(), ServiceMap()
    for name, vip in (("web", "10.96.0.1"), ("dns", "10.96.0.2")):
        changes.update_service(service(name, vip))
        changes.update_slice(slice_of(f"{name}-1", "10.0.0.1", of=name))
    changes.take(services)
    changes.keep_services({("default", "web")})
    changes.keep_slices({("default", "dns-1")})
    delta = changes.take(services)
    assert delta.changed == {WEB, ServicePortName("default", "dns", "")}
    assert list(services) == [WEB]
    assert services.endpoints(WEB) == ()


def test_a_slice_that_changes_hands_leaves_its_former_service() -> None:
    changes, services = tracker(), ServiceMap()
    changes.update_service(service())
    changes.update_service(service("dns", "10.96.0.2"))
    changes.update_slice(slice_of("x", "10.0.0.1"))
    changes.take(services)
    changes.update_slice(slice_of("x", "10.0.0.1", of="dns"))
    changes.take(services)
    assert services.endpoints(WEB) == ()
    assert len(services.endpoints(ServicePortName("default", "dns", ""))) == 1


def test_a_slice_that_becomes_headless_is_gone() -> None:
    changes, services = tracker(), ServiceMap()
    changes.update_service(service())
    changes.update_slice(slice_of("x", "10.0.0.1"))
    changes.take(services)
    item = slice_of("x", "10.0.0.1")
    item["metadata"]["labels"]["service.kubernetes.io/headless"] = ""
    changes.update_slice(item)
    assert changes.take(services).changed == {WEB}


def test_only_changes_caused_since_the_start_count_as_programming_latency() -> None:
    changes = tracker(now_s=1_700_000_000)
    changes.update_slice(slice_of("a", "10.0.0.1", triggered="2023-11-14T22:13:19Z"))
    changes.update_slice(slice_of("b", "10.0.0.2", triggered="2023-11-14T22:13:25Z"))
    changes.update_slice(slice_of("c", "10.0.0.3", triggered="yesterday"))
    assert changes.take(ServiceMap()).triggered_at == [1_700_000_005]


def test_mistakes_are_counted() -> None:
    changes = tracker()
    changes.update_service(service(vip="10.96.0.300"))
    changes.update_slice(slice_of("a", "no address", "10.0.0.1"))
    changes.update_service({"metadata": {}})
    changes.update_slice({})
    assert changes.malformed == 4
