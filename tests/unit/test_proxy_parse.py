"""Kubernetes objects as the proxy reads them."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from testbed.proxy.model import Endpoint, Family, ServicePort, ServicePortName
from testbed.proxy.parse import service_ports, slice_content, trigger_time

Object = dict[str, Any]


def service(**spec: Any) -> Object:
    spec = {"clusterIP": "10.96.0.1", "ports": [{"port": 80}], **spec}
    return {"metadata": {"namespace": "default", "name": "web"}, "spec": spec}


def endpoint_slice(*endpoints: Object, **fields: Any) -> Object:
    labels = {"kubernetes.io/service-name": "web"}
    meta = {"namespace": "default", "name": "web-x", "labels": labels}
    ports = [{"name": "", "port": 8080, "protocol": "TCP"}]
    return {"metadata": meta, "addressType": "IPv4", "endpoints": list(endpoints), "ports": ports, **fields}


def read(item: Object, family: Family = Family.IPV4) -> tuple[list[ServicePort], list[str]]:
    problems: list[str] = []
    return service_ports(item, family, problems.append), problems


def read_slice(item: Object, family: Family = Family.IPV4) -> tuple[tuple[Endpoint, ...], list[str]]:
    problems: list[str] = []
    content = slice_content(item, family, "node1", problems.append)
    assert content is not None
    return content.endpoints.get(ServicePortName("default", "web", ""), ()), problems


def test_every_port_of_a_service_is_read() -> None:
    ports, problems = read(
        service(ports=[{"name": "http", "port": 80}, {"name": "dns", "port": 53, "protocol": "UDP"}])
    )
    names = [ServicePortName("default", "web", "http"), ServicePortName("default", "web", "dns", "UDP")]
    assert [port.name for port in ports] == names
    assert [port.port for port in ports] == [80, 53]
    assert problems == []


@pytest.mark.parametrize(
    "item",
    [
        service(clusterIP="None"),
        service(clusterIP=""),
        service(type="ExternalName"),
        {**service(), "metadata": {"name": "x", "labels": {"service.kubernetes.io/service-proxy-name": ""}}},
        {**service(), "metadata": {"name": "x", "labels": {"service.kubernetes.io/headless": ""}}},
    ],
    ids=["headless", "no address", "ExternalName", "another proxy", "headless label"],
)
def test_some_services_are_not_for_this_proxy(item: Object) -> None:
    assert read(item) == ([], [])


def test_each_family_sees_its_own_addresses() -> None:
    item = service(
        clusterIP="10.96.0.1",
        clusterIPs=["10.96.0.1", "fd00:96:0::1"],
        externalIPs=["198.51.100.7", "2001:db8::7"],
        loadBalancerSourceRanges=["192.0.2.0/24", "2001:db8::/32"],
    )
    item["status"] = {"loadBalancer": {"ingress": [{"ip": "203.0.113.9"}, {"ip": "2001:DB8::9"}]}}
    (four,), _ = read(item)
    (six,), _ = read(item, Family.IPV6)
    assert (four.cluster_ip, four.external_ips) == ("10.96.0.1", ("198.51.100.7",))
    assert (four.load_balancer_ips, four.source_ranges) == (("203.0.113.9",), ("192.0.2.0/24",))
    assert (six.cluster_ip, six.external_ips) == ("fd00:96::1", ("2001:db8::7",))
    assert (six.load_balancer_ips, six.source_ranges) == (("2001:db8::9",), ("2001:db8::/32",))


def test_a_service_of_one_family_does_not_exist_for_the_other() -> None:
    assert read(service(), Family.IPV6) == ([], [])


def test_a_load_balancer_in_proxy_mode_or_known_by_name_is_not_captured() -> None:
    item = service(type="LoadBalancer")
    ingress = [
        {"ip": "203.0.113.1", "ipMode": "Proxy"},
        {"hostname": "lb.example"},
        {"ip": "203.0.113.2", "ipMode": "VIP"},
    ]
    item["status"] = {"loadBalancer": {"ingress": ingress}}
    assert read(item)[0][0].load_balancer_ips == ("203.0.113.2",)


def test_policies_affinity_and_health_port_are_read() -> None:
    (port,), _ = read(
        service(
            type="LoadBalancer",
            externalTrafficPolicy="Local",
            internalTrafficPolicy="Local",
            healthCheckNodePort=32000,
            sessionAffinity="ClientIP",
            sessionAffinityConfig={"clientIP": {"timeoutSeconds": 60}},
        )
    )
    assert port.external_local
    assert port.internal_local
    assert port.health_check_node_port == 32000
    assert port.affinity_timeout_s == 60
    assert read(service(sessionAffinity="ClientIP"))[0][0].affinity_timeout_s == 10800


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"clusterIP": "10.96.0.300"}, "spec.clusterIP: '10.96.0.300' is not an IP address"),
        ({"ports": [{"port": 0}]}, "spec.ports[0].port: 0 is not a port number"),
        ({"ports": [{}]}, "spec.ports[0].port: None is not a port number"),
        ({"clusterIP": "224.0.0.1"}, "spec.clusterIP: '224.0.0.1' is not an IP address that hosts have"),
        (
            {"ports": [{"port": 80, "name": "x" * 64}]},
            f"spec.ports[0].name: {'x' * 64!r} is not a name",
        ),
        (
            {"ports": [{"port": 80, "protocol": "XYZ"}]},
            "spec.ports[0].protocol: 'XYZ' is not TCP, UDP or SCTP",
        ),
    ],
)
def test_a_mistake_costs_what_it_is_in(change: Object, problem: str) -> None:
    assert read(service(**change)) == ([], [problem])


@pytest.mark.parametrize("seconds", [0, -1, 86401, 10**30, True, "60"])
def test_a_timeout_that_no_api_server_admits_becomes_the_usual_one(seconds: object) -> None:
    config = {"clientIP": {"timeoutSeconds": seconds}}
    (port,), problems = read(service(sessionAffinity="ClientIP", sessionAffinityConfig=config))
    assert port.affinity_timeout_s == 10800
    assert problems == [
        f"spec.sessionAffinityConfig.clientIP.timeoutSeconds: {seconds!r} is not from 1 to 86400"
    ]


@pytest.mark.parametrize("address", ["0.0.0.0", "127.0.0.1", "224.0.0.1", "255.255.255.255"])
def test_an_address_that_no_host_has_is_no_endpoint(address: str) -> None:
    endpoints, problems = read_slice(endpoint_slice({"addresses": [address]}))
    assert endpoints == ()
    assert problems == [f"endpoints[0].addresses: {address!r} is not an IPv4 address that hosts have"]


def test_a_mistake_in_an_extra_leaves_the_rest_of_the_service() -> None:
    (port,), problems = read(
        service(externalIPs=["x", "198.51.100.7"], loadBalancerSourceRanges=["10.0.0.0/40", "192.0.2.1/32 "])
    )
    assert port.external_ips == ("198.51.100.7",)
    assert port.source_ranges == ("192.0.2.1/32",)
    assert problems == [
        "spec.externalIPs[0]: 'x' is not an IP address that hosts have",
        "spec.loadBalancerSourceRanges[0]: '10.0.0.0/40' is not a CIDR",
    ]


def test_absent_conditions_mean_ready_and_serving_and_staying() -> None:
    endpoints, _ = read_slice(
        endpoint_slice(
            {"addresses": ["10.0.0.1"]},
            {"addresses": ["10.0.0.2"], "conditions": {"ready": None, "serving": None, "terminating": None}},
            {"addresses": ["10.0.0.3"], "conditions": {"ready": False, "serving": True, "terminating": True}},
        )
    )
    first, second, third = endpoints
    assert (first.ready, first.serving, first.terminating) == (True, True, False)
    assert (second.ready, second.serving, second.terminating) == (True, True, False)
    assert third.draining


def test_endpoints_of_the_proxys_node_are_local_and_hints_are_zones() -> None:
    endpoints, _ = read_slice(
        endpoint_slice(
            {"addresses": ["10.0.0.1"], "nodeName": "node1"},
            {
                "addresses": ["10.0.0.2"],
                "nodeName": "node2",
                "hints": {"forZones": [{"name": "b"}, {"name": "a"}]},
            },
        )
    )
    assert [endpoint.local for endpoint in endpoints] == [True, False]
    assert endpoints[1].zones == ("a", "b")


def test_endpoints_are_sorted_and_a_broken_one_is_left_out() -> None:
    endpoints, problems = read_slice(
        endpoint_slice(
            {"addresses": ["10.0.0.2"]}, {"addresses": ["fd00::1"]}, {"addresses": ["10.0.0.1"]}, {}
        )
    )
    assert [endpoint.key for endpoint in endpoints] == ["10.0.0.1:8080", "10.0.0.2:8080"]
    assert problems == [
        "endpoints[1].addresses: 'fd00::1' is not an IPv4 address that hosts have",
        "endpoints[3].addresses: None is not an IPv4 address that hosts have",
    ]


def test_a_slice_of_another_family_or_of_no_service_is_not_read() -> None:
    assert slice_content(endpoint_slice(addressType="IPv6"), Family.IPV4, "", pytest.fail) is None
    assert slice_content(endpoint_slice(addressType="FQDN"), Family.IPV4, "", pytest.fail) is None
    assert slice_content({"metadata": {"name": "x"}}, Family.IPV4, "", pytest.fail) is None


def test_the_trigger_time_is_an_annotation() -> None:
    key = "endpoints.kubernetes.io/last-change-trigger-time"
    assert (
        trigger_time({"metadata": {"annotations": {key: "2024-01-01T00:00:00Z"}}}) == "2024-01-01T00:00:00Z"
    )
    assert trigger_time({}) == ""


json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=6),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=6,
)
SPEC_FIELDS = (
    *("clusterIP", "clusterIPs", "ports", "externalIPs", "loadBalancerSourceRanges", "sessionAffinity"),
    *("sessionAffinityConfig", "type", "healthCheckNodePort", "externalTrafficPolicy"),
)


@given(st.dictionaries(st.sampled_from(SPEC_FIELDS), json), json, json)
def test_no_service_however_broken_raises(spec: Object, status: Any, port: Any) -> None:
    spec.setdefault("ports", [port, {"port": 80, "name": port, "protocol": port, "nodePort": port}])
    item = {"metadata": {"name": "x"}, "spec": {"clusterIP": "10.0.0.1", **spec}, "status": status}
    read(item)


@given(json, json, json)
def test_no_slice_however_broken_raises(endpoints: Any, ports: Any, inner: Any) -> None:
    item = endpoint_slice(endpoints=endpoints, ports=ports)
    slice_content(item, Family.IPV4, "node1", lambda problem: None)
    broken = {"addresses": inner, "conditions": inner, "hints": inner, "nodeName": inner}
    slice_content(endpoint_slice(broken), Family.IPV4, "node1", lambda problem: None)
    hinted = {**broken, "addresses": ["10.0.0.1"], "hints": {"forZones": [inner, {"name": inner}]}}
    slice_content(endpoint_slice(hinted), Family.IPV4, "node1", lambda problem: None)


def test_names_that_would_escape_from_a_comment_are_refused() -> None:
    for meta in ({"name": 'web" -j ACCEPT'}, {"name": "web", "namespace": "a\n-X"}, {"name": 7}, {}):
        with pytest.raises(ValueError, match="not a namespace and a name"):
            read({**service(), "metadata": meta})
