"""Services get Kubernetes' defaults and allocations, and are refused with Kubernetes' words."""

from __future__ import annotations

from typing import Any

import pytest
from api_objects import Laboratory, Object, pod, service

from testbed.cluster.resources import SERVICES
from testbed.errors import ApiError


@pytest.fixture
def lab() -> Laboratory:
    return Laboratory()


def refusal(lab: Laboratory, obj: Object) -> ApiError:
    with pytest.raises(ApiError) as caught:
        lab.create(obj)
    return caught.value


def test_a_service_gets_its_defaults_and_an_address(lab: Laboratory) -> None:
    created = lab.create(service())
    assert created["spec"] == {
        "selector": {"app": "web"},
        "ports": [{"port": 80, "protocol": "TCP", "targetPort": 80}],
        "type": "ClusterIP",
        "sessionAffinity": "None",
        "internalTrafficPolicy": "Cluster",
        "ipFamilyPolicy": "SingleStack",
        "ipFamilies": ["IPv4"],
        "clusterIP": "10.96.0.1",
        "clusterIPs": ["10.96.0.1"],
    }
    assert created["status"] == {"loadBalancer": {}}


def test_addresses_are_given_in_order_and_skip_what_is_taken(lab: Laboratory) -> None:
    lab.create(service("a", clusterIP="10.96.0.2"))
    given = [lab.create(service(name))["spec"]["clusterIP"] for name in "bc"]
    assert given == ["10.96.0.1", "10.96.0.3"]


def test_an_address_is_free_again_once_its_service_is_gone(lab: Laboratory) -> None:
    lab.create(service("a", clusterIP="10.96.0.9"))
    lab.delete("Service", "a")
    assert lab.create(service("b", clusterIP="10.96.0.9"))["spec"]["clusterIP"] == "10.96.0.9"


def test_a_taken_address_is_refused_and_nothing_is_lost(lab: Laboratory) -> None:
    lab.create(service("a", clusterIP="10.96.0.9"))
    error = refusal(lab, service("b", type="NodePort", clusterIP="10.96.0.9"))
    assert (error.code, error.reason) == (422, "Invalid")
    assert error.message == (
        'Service "b" is invalid: spec.clusterIPs: Invalid value: ["10.96.0.9"]: '
        "failed to allocate IP 10.96.0.9: provided IP is already allocated"
    )
    assert lab.create(service("c", type="NodePort"))["spec"]["ports"][0]["nodePort"] == 30001
    assert lab.create(service("d", {"port": 1, "nodePort": 30000}, type="NodePort"))


def test_an_address_outside_the_range_is_refused(lab: Laboratory) -> None:
    error = refusal(lab, service(clusterIP="10.0.0.1"))
    assert "The range of valid IPs is 10.96.0.0/12" in error.message


def test_a_full_range_is_said() -> None:
    lab = Laboratory(service_cidr="10.0.0.0/30")
    lab.create(service("a"))
    lab.create(service("b"))
    assert "range 10.0.0.0/30 is full" in refusal(lab, service("c")).message


def test_node_ports_are_given_in_order_and_explicit_ones_honoured(lab: Laboratory) -> None:
    ports = [{"name": "a", "port": 1}, {"name": "b", "port": 2, "nodePort": 30000}, {"name": "c", "port": 3}]
    lab.create(service("first", *ports[1:2], type="NodePort"))
    created = lab.create(service("second", ports[0], ports[2], type="NodePort"))
    assert [port["nodePort"] for port in created["spec"]["ports"]] == [30001, 30002]
    assert created["spec"]["externalTrafficPolicy"] == "Cluster"


def test_one_number_serves_tcp_and_udp_of_one_service_only(lab: Laboratory) -> None:
    ports: list[Object] = [
        {"name": "t", "port": 53, "nodePort": 30053},
        {"name": "u", "port": 53, "nodePort": 30053, "protocol": "UDP"},
    ]
    lab.create(service("dns", *ports, type="NodePort"))
    error = refusal(lab, service("other", ports[0], type="NodePort"))
    assert error.message.endswith(
        "spec.ports[0].nodePort: Invalid value: 30053: provided port is already allocated"
    )
    error = refusal(lab, service("low", {"port": 1, "nodePort": 80}, type="NodePort"))
    assert "The range of valid ports is 30000-32767" in error.message


def test_a_load_balancer_gets_an_address_and_a_health_port(lab: Laboratory) -> None:
    created = lab.create(service(type="LoadBalancer", externalTrafficPolicy="Local"))
    assert created["status"]["loadBalancer"] == {"ingress": [{"ip": "10.240.0.1", "ipMode": "VIP"}]}
    assert created["spec"]["ports"][0]["nodePort"] == 30000
    assert created["spec"]["healthCheckNodePort"] == 30001
    assert created["spec"]["allocateLoadBalancerNodePorts"] is True


def test_a_load_balancer_keeps_the_ingress_and_address_it_came_with(lab: Laboratory) -> None:
    ingress = {"ip": "10.240.0.1", "ipMode": "Proxy"}
    lab.create({**service("a", type="LoadBalancer"), "status": {"loadBalancer": {"ingress": [ingress]}}})
    lab.create(service("b", type="LoadBalancer"))
    lab.create(service("c", type="LoadBalancer", loadBalancerIP="10.240.0.9"))
    addresses = [item["status"]["loadBalancer"]["ingress"][0]["ip"] for item in lab.all("Service")]
    assert addresses == ["10.240.0.1", "10.240.0.2", "10.240.0.9"]
    assert lab.get("Service", "a")["status"]["loadBalancer"]["ingress"] == [ingress]


def test_headless_and_external_name_services_get_no_address(lab: Laboratory) -> None:
    headless = lab.create(service("a", clusterIP="None"))
    assert headless["spec"]["clusterIPs"] == ["None"]
    external = lab.create(service("b", type="ExternalName", externalName="example.com", ports=None))
    assert "clusterIP" not in external["spec"]


def test_dual_stack_services_get_an_address_of_each_family() -> None:
    lab = Laboratory(service_cidr="10.96.0.0/12,fd00:10:96::/112", lb_cidr="10.240.0.0/16,fd00:240::/112")
    single = lab.create(service("a"))
    assert single["spec"]["clusterIPs"] == ["10.96.0.1"]
    both = lab.create(service("b", ipFamilyPolicy="PreferDualStack", type="LoadBalancer"))
    assert both["spec"]["clusterIPs"] == ["10.96.0.2", "fd00:10:96::1"]
    assert [item["ip"] for item in both["status"]["loadBalancer"]["ingress"]] == ["10.240.0.1", "fd00:240::1"]
    six = lab.create(service("c", ipFamilies=["IPv6"]))
    assert six["spec"]["clusterIP"] == "fd00:10:96::2"
    grown = lab.patch("Service", "a", {"spec": {"ipFamilyPolicy": "RequireDualStack", "ipFamilies": None}})
    assert grown["spec"]["clusterIPs"] == ["10.96.0.1", "fd00:10:96::3"]


def test_dual_stack_is_refused_where_there_is_one_family(lab: Laboratory) -> None:
    error = refusal(lab, service(ipFamilyPolicy="RequireDualStack"))
    assert "this cluster is not configured for dual-stack" in error.message
    assert lab.create(service("b", ipFamilyPolicy="PreferDualStack"))["spec"]["ipFamilies"] == ["IPv4"]


def test_affinity_gets_its_timeout(lab: Laboratory) -> None:
    created = lab.create(service(sessionAffinity="ClientIP"))
    assert created["spec"]["sessionAffinityConfig"] == {"clientIP": {"timeoutSeconds": 10800}}


@pytest.mark.parametrize(
    ("spec", "path"),
    [
        ({"ports": None}, "spec.ports: Required value"),
        ({"ports": [{"port": 0}]}, "spec.ports[0].port: Invalid value: 0: must be between 1 and 65535"),
        ({"ports": [{}]}, "spec.ports[0].port: Required value"),
        ({"ports": [{"port": 1}, {"port": 2}]}, "spec.ports[0].name: Required value"),
        (
            {"ports": [{"port": 1, "name": "a"}, {"port": 2, "name": "a"}]},
            'spec.ports[1].name: Duplicate value: "a"',
        ),
        (
            {"ports": [{"port": 1, "name": "a"}, {"port": 1, "name": "b"}]},
            'spec.ports[1]: Duplicate value: {"port":1,"protocol":"TCP"}',
        ),
        ({"ports": [{"port": 1, "protocol": "ICMP"}]}, 'spec.ports[0].protocol: Unsupported value: "ICMP"'),
        ({"ports": [{"port": 1, "targetPort": "Bad_"}]}, "spec.ports[0].targetPort: Invalid value"),
        ({"ports": [{"port": 1, "targetPort": 70000}]}, "spec.ports[0].targetPort: Invalid value: 70000"),
        ({"ports": [{"port": 1, "nodePort": 30000}]}, "spec.ports[0].nodePort: Forbidden"),
        ({"type": "Magic"}, 'spec.type: Unsupported value: "Magic": supported values: "ClusterIP"'),
        ({"type": "ExternalName"}, "spec.externalName: Required value"),
        ({"type": "NodePort", "clusterIP": "None"}, "spec.clusterIPs[0]: Invalid value"),
        (
            {"clusterIP": "10.96.0"},
            'spec.clusterIPs[0]: Invalid value: "10.96.0": must be a valid IP address',
        ),
        ({"externalIPs": ["here"]}, 'spec.externalIPs[0]: Invalid value: "here"'),
        ({"loadBalancerSourceRanges": ["10.0.0.1"]}, "spec.loadBalancerSourceRanges[0]: Invalid value"),
        ({"sessionAffinity": "Sticky"}, "spec.sessionAffinity: Unsupported value"),
        ({"externalTrafficPolicy": "Near"}, "spec.externalTrafficPolicy: Unsupported value"),
        ({"selector": {"a b": "c"}}, "spec.selector: Invalid value"),
        ({"ipFamilies": ["IPv5"]}, "spec.ipFamilies[0]: Unsupported value"),
        ({"healthCheckNodePort": 30000}, "spec.healthCheckNodePort: Forbidden"),
        (
            {"sessionAffinity": "ClientIP", "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 0}}},
            "spec.sessionAffinityConfig.clientIP.timeoutSeconds: Invalid value: 0",
        ),
    ],
)
def test_a_service_with_a_mistake_is_refused_with_the_path_of_the_field(
    lab: Laboratory, spec: dict[str, Any], path: str
) -> None:
    error = refusal(lab, service(**spec))
    assert (error.code, error.reason) == (422, "Invalid")
    assert path in error.message


def test_all_mistakes_are_told_at_once(lab: Laboratory) -> None:
    error = refusal(lab, service(ports=[{"port": 0, "targetPort": 1}], type="Magic", externalIPs=["x"]))
    causes = error.details["causes"]
    assert isinstance(causes, list)
    assert [cause["field"] for cause in causes] == ["spec.type", "spec.ports[0].port", "spec.externalIPs[0]"]


@pytest.mark.parametrize("name", ["Web", "1web", "web_", "-web", "w" * 64, "a.b"])
def test_a_service_name_is_a_dns_label(lab: Laboratory, name: str) -> None:
    assert "metadata.name: Invalid value" in refusal(lab, service(name)).message


@pytest.mark.parametrize(
    ("change", "where"),
    [
        ({"spec": []}, "spec: expected object, found array"),
        ({"spec": {"ports": {}}}, "spec.ports: expected array, found object"),
        ({"spec": {"ports": [{"port": "80"}]}}, "spec.ports[0].port: expected integer, found string"),
        ({"spec": {"ports": [None]}}, "spec.ports[0]: expected object, found null"),
        ({"spec": {"ports": [{"port": True}]}}, "spec.ports[0].port: expected integer, found boolean"),
        (
            {"metadata": {"name": "a", "labels": {"a": 1}}},
            "metadata.labels.a: expected string, found integer",
        ),
        ({"metadata": 7}, "metadata: expected object, found integer"),
    ],
)
def test_a_field_of_the_wrong_type_is_a_bad_request(lab: Laboratory, change: Object, where: str) -> None:
    with pytest.raises(ApiError, match="cannot be handled as a Service") as caught:
        lab.registry.create(SERVICES, "default", {**service(), **change})
    assert caught.value.code == 400
    assert where in caught.value.message


def test_the_wrong_kind_and_namespace_are_bad_requests(lab: Laboratory) -> None:
    with pytest.raises(ApiError, match=r"the kind in the data \(Pod\) does not match"):
        lab.registry.create(SERVICES, "default", pod("a"))
    with pytest.raises(ApiError, match="the namespace of the provided object does not match"):
        lab.registry.create(
            SERVICES, "kube-system", {**service(), "metadata": {"name": "a", "namespace": "b"}}
        )
