"""Probes, health ports and metrics, asked over real HTTP."""

from __future__ import annotations

import http.client
import json
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from testbed.proxy.health import ProxyHealth, ServiceHealth
from testbed.proxy.httpserver import Answer, HttpServer
from testbed.proxy.metrics import Metrics
from testbed.proxy.model import Endpoint, ServicePort, ServicePortName
from testbed.proxy.proxier import SyncResult
from testbed.proxy.servicemap import ServiceMap


class Clock:
    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def health(clock: Clock) -> ProxyHealth:
    return ProxyHealth(60, clock)


def get(port: int, path: str = "/") -> tuple[int, dict[str, str], bytes]:
    with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=10)) as connection:
        connection.request("GET", path)
        response = connection.getresponse()
        return response.status, dict(response.getheaders()), response.read()


def free_port() -> int:
    server = HttpServer("127.0.0.1", 0, {})
    port = server.port
    server.close()
    return port


def test_a_proxy_is_well_until_a_change_has_waited_too_long(health: ProxyHealth, clock: Clock) -> None:
    assert health.healthz().status == 200
    health.queued("IPv4")
    clock.now_s = 59
    health.queued("IPv4")
    assert health.healthz().status == health.livez().status == 200
    clock.now_s = 60
    assert health.healthz().status == health.livez().status == 503
    health.updated("IPv4")
    assert health.healthz().status == 200


def test_one_familys_progress_does_not_excuse_the_other(health: ProxyHealth, clock: Clock) -> None:
    health.queued("IPv4")
    health.queued("IPv6")
    health.updated("IPv4")
    clock.now_s = 100
    assert not health.alive


def test_a_node_that_is_going_away_fails_healthz_only(health: ProxyHealth) -> None:
    health.node_eligible = False
    assert (health.healthz().status, health.livez().status) == (503, 200)
    assert json.loads(health.healthz().body)["nodeEligible"] is False


@pytest.fixture
def service_health(health: ProxyHealth) -> Iterator[ServiceHealth]:
    made = ServiceHealth(health)
    yield made
    made.sync(ServiceMap(), [])


def announce(services: ServiceMap, number: int, *endpoints: Endpoint) -> None:
    name = ServicePortName("default", "web", "")
    port = ServicePort(name, "10.96.0.1", 80, external_local=True, health_check_node_port=number)
    services.set_service(("default", "web"), [port])
    services.set_slice(("default", "web"), "x", {name: tuple(sorted(endpoints))})


def test_a_health_port_counts_the_ready_endpoints_of_this_node(
    service_health: ServiceHealth, health: ProxyHealth, clock: Clock
) -> None:
    services, port = ServiceMap(), free_port()
    ready = Endpoint("10.0.0.1", 80, local=True)
    leaving = Endpoint("10.0.0.2", 80, local=True, ready=False, terminating=True)
    elsewhere = Endpoint("10.0.0.3", 80)
    announce(services, port, ready, leaving, elsewhere)
    service_health.sync(services, services.values())
    status, headers, body = get(port, "/whatever")
    assert (status, headers["X-Load-Balancing-Endpoint-Weight"]) == (200, "1")
    assert json.loads(body) == {
        "service": {"namespace": "default", "name": "web"},
        "localEndpoints": 1,
        "serviceProxyHealthy": True,
    }
    announce(services, port, leaving, elsewhere)
    service_health.sync(services, services.values())
    status, headers, _ = get(port)
    assert (status, headers["X-Load-Balancing-Endpoint-Weight"]) == (503, "0")
    announce(services, port, ready)
    service_health.sync(services, services.values())
    health.queued("IPv4")
    clock.now_s = 100
    assert get(port)[0] == 503


def test_health_ports_move_and_close_with_their_service(service_health: ServiceHealth) -> None:
    services, first, second = ServiceMap(), free_port(), free_port()
    announce(services, first, Endpoint("10.0.0.1", 80, local=True))
    service_health.sync(services, services.values())
    announce(services, second, Endpoint("10.0.0.1", 80, local=True))
    service_health.sync(services, services.values())
    assert get(second)[0] == 200
    with pytest.raises(ConnectionRefusedError):
        get(first)
    service_health.sync(services, [])
    with pytest.raises(ConnectionRefusedError):
        get(second)


def test_unknown_paths_are_not_found() -> None:
    with closing(HttpServer("127.0.0.1", 0, {"/a": lambda: Answer(200, b"here")})) as server:
        assert get(server.port, "/a?verbose")[2] == b"here"
        assert get(server.port, "/b")[0] == 404


def test_a_taken_address_is_no_reason_to_stop(caplog: pytest.LogCaptureFixture) -> None:
    with (
        closing(HttpServer("127.0.0.1", 0, {})) as first,
        closing(HttpServer("127.0.0.1", first.port, {})) as second,
    ):
        assert second.port == 0
    assert "cannot serve on 127.0.0.1" in caplog.text


def samples(metrics: Metrics) -> dict[tuple[str, tuple[Any, ...]], float]:
    text = metrics.exposition().body.decode()
    return {
        (sample.name, tuple(sample.labels.values())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_metrics_have_kube_proxys_names() -> None:
    metrics = Metrics(lambda: (2, 3), lambda: 4)
    result = SyncResult(
        full=False,
        rules_last={"nat": 7, "filter": 0},
        rules_total={"nat": 100, "filter": 4},
        no_local_endpoints={"internal": 1, "external": 0},
    )
    metrics.synced(result, 0.25, 1000.0)
    metrics.changes(5, 6, 999.0)
    metrics.programmed(0.4)
    metrics.transaction_failed("iptables-legacy-restore")
    metrics.counted("healthz", lambda: Answer(503, b""))()
    found = samples(metrics)
    expected = {
        ("kubeproxy_sync_proxy_rules_duration_seconds_count", ()): 1,
        ("kubeproxy_sync_partial_proxy_rules_duration_seconds_sum", ()): 0.25,
        ("kubeproxy_sync_full_proxy_rules_duration_seconds_count", ()): 0,
        ("kubeproxy_network_programming_duration_seconds_bucket", ("0.5",)): 1,
        ("kubeproxy_sync_proxy_rules_last_timestamp_seconds", ()): 1000,
        ("kubeproxy_sync_proxy_rules_last_queued_timestamp_seconds", ()): 999,
        ("kubeproxy_sync_proxy_rules_service_changes_total", ()): 5,
        ("kubeproxy_sync_proxy_rules_endpoint_changes_total", ()): 6,
        ("kubeproxy_sync_proxy_rules_service_changes_pending", ()): 2,
        ("kubeproxy_sync_proxy_rules_endpoint_changes_pending", ()): 3,
        ("kubeproxy_sync_proxy_rules_iptables_total", ("nat",)): 100,
        ("kubeproxy_sync_proxy_rules_iptables_last", ("nat",)): 7,
        ("kubeproxy_sync_proxy_rules_iptables_restore_failures_total", ()): 1,
        ("kubeproxy_sync_proxy_rules_no_local_endpoints_total", ("internal",)): 1,
        ("kubeproxy_proxy_healthz_total", ("503",)): 1,
        ("kubeproxy_malformed_objects_total", ()): 4,
    }
    assert {key: found.get(key) for key in expected} == expected
    assert found[("process_resident_memory_bytes", ())] > 1_000_000
