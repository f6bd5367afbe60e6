"""Models become the objects that `kubectl get -o json` shows."""

from __future__ import annotations

from itertools import pairwise

from testbed.spec import Deployment, PodPort, PodSpec, Service, Topology, objects


def made(**keys: object) -> dict:
    return objects.service_object(Service(**{"name": "web", "port": 80, "endpoints": 3, **keys}))


def test_a_service_is_complete() -> None:
    assert made() == {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": "web", "namespace": "default"},
        "spec": {
            "type": "ClusterIP",
            "selector": {"testbed/endpoints-3": "yes"},
            "ports": [{"port": 80, "targetPort": 80, "protocol": "TCP"}],
            "sessionAffinity": "None",
            "internalTrafficPolicy": "Cluster",
        },
    }


def test_every_key_of_a_service_arrives() -> None:
    spec = made(
        type="LoadBalancer",
        port=None,
        ports=[
            {"name": "a", "port": 80, "target_port": "http", "node_port": 30080, "app_protocol": "http"},
            {"name": "b", "port": 53, "protocol": "UDP"},
        ],
        endpoints=None,
        selector={"app": "web"},
        cluster_ip="10.96.0.10",
        session_affinity="ClientIP",
        session_affinity_timeout_s=60,
        internal_traffic_policy="Local",
        external_traffic_policy="Local",
        external_ips="192.0.2.1",
        load_balancer_source_ranges=["10.0.0.0/8"],
        health_check_node_port=30090,
        publish_not_ready_addresses=True,
        ip_families=["IPv4"],
        ip_family_policy="SingleStack",
    )["spec"]
    assert spec == {
        "type": "LoadBalancer",
        "selector": {"app": "web"},
        "ports": [
            {
                "name": "a",
                "port": 80,
                "targetPort": "http",
                "protocol": "TCP",
                "nodePort": 30080,
                "appProtocol": "http",
            },
            {"name": "b", "port": 53, "targetPort": 53, "protocol": "UDP"},
        ],
        "clusterIP": "10.96.0.10",
        "externalIPs": ["192.0.2.1"],
        "loadBalancerSourceRanges": ["10.0.0.0/8"],
        "healthCheckNodePort": 30090,
        "publishNotReadyAddresses": True,
        "ipFamilies": ["IPv4"],
        "ipFamilyPolicy": "SingleStack",
        "sessionAffinity": "ClientIP",
        "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 60}},
        "internalTrafficPolicy": "Local",
        "externalTrafficPolicy": "Local",
    }


def test_headless_and_external_services_look_as_in_kubernetes() -> None:
    assert made(cluster_ip="None")["spec"]["clusterIP"] == "None"
    external = Service(name="away", type="ExternalName", external_name="example.com")
    assert objects.service_object(external)["spec"] == {
        "type": "ExternalName",
        "externalName": "example.com",
    }


def test_copies_are_numbered_from_zero_and_share_nothing_that_changes() -> None:
    service = Service(
        name="web",
        type="NodePort",
        ports=[{"port": 80, "node_port": 30080}],
        endpoints=3,
        cluster_ip="10.96.0.10",
    )
    topology = Topology(nodes=2, pods_per_node=5, services=[service])
    copies = list(objects.service_copies(topology, 10_000, 5))
    assert copies[0]["metadata"]["name"] == "web-00000"
    assert copies[-1]["metadata"]["name"] == "web-09999"
    assert copies[0]["spec"]["selector"] == {"testbed/endpoints-5": "yes"}
    assert "clusterIP" not in copies[0]["spec"]
    assert "nodePort" not in copies[0]["spec"]["ports"][0]
    for one, other in pairwise(copies):
        assert one["metadata"]["name"] < other["metadata"]["name"]
    copies[0]["spec"]["ports"][0]["nodePort"] = 30001
    copies[0]["spec"]["selector"]["more"] = "yes"
    copies[0]["metadata"]["uid"] = "1"
    assert copies[1] == next(objects.service_copies(topology, 1, 5, start=1))


def test_copies_go_on_where_the_last_ones_ended() -> None:
    topology = Topology(services=[Service(name="web", port=80, endpoints=3)])
    more = [copy["metadata"]["name"] for copy in objects.service_copies(topology, 2, 3, start=100)]
    assert more == ["web-00100", "web-00101"] == [objects.copy_name("web", n) for n in (100, 101)]


def test_copies_of_a_service_by_selector_keep_it() -> None:
    topology = Topology(
        deployments=[Deployment(name="web", replicas=2)],
        services=[Service(name="web", port=80, selector={"app": "web"})],
    )
    [copy] = objects.service_copies(topology, 1, 2)
    assert copy["spec"]["selector"] == {"app": "web"}


def test_a_deployment_is_complete() -> None:
    deployment = Deployment(
        name="web", replicas=2, ports=[{"name": "http", "port": 8080}], annotations={"note": "x"}
    )
    [found] = objects.deployment_objects(Topology(deployments=[deployment]))
    assert found == {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {
            "name": "web",
            "namespace": "default",
            "labels": {"app": "web"},
            "annotations": {"note": "x"},
        },
        "spec": {
            "replicas": 2,
            "selector": {"matchLabels": {"app": "web"}},
            "template": {
                "metadata": {"labels": {"app": "web"}, "annotations": {"note": "x"}},
                "spec": {
                    "containers": [
                        {
                            "name": "backend",
                            "image": "testbed/backend",
                            "ports": [{"name": "http", "containerPort": 8080, "protocol": "TCP"}],
                        }
                    ]
                },
            },
        },
    }


def test_a_pod_runs_and_is_ready_with_every_port_it_listens_on() -> None:
    ports = (PodPort(8080, "TCP", "http"), PodPort(80, "TCP"))
    pod = PodSpec("pod-1-1", "default", "node1", {"app": "x"}, ports)
    found = objects.pod_object(pod, ["10.244.0.2", "fd00::2"], ["172.18.0.1"])
    assert found["spec"]["nodeName"] == "node1"
    assert found["spec"]["containers"][0]["ports"] == [
        {"name": "http", "containerPort": 8080, "protocol": "TCP"},
        {"containerPort": 80, "protocol": "TCP"},
    ]
    status = found["status"]
    assert (status["phase"], status["podIP"], status["hostIP"]) == ("Running", "10.244.0.2", "172.18.0.1")
    assert status["podIPs"] == [{"ip": "10.244.0.2"}, {"ip": "fd00::2"}]
    assert {"type": "Ready", "status": "True"} in status["conditions"]
    assert all(container["ready"] for container in status["containerStatuses"])


def test_a_node_is_ready_with_its_addresses_and_pod_networks() -> None:
    found = objects.node_object("node1", ["172.18.0.1"], ["10.244.0.0/24"], kernel="6.1.0", pods=250)
    assert found["metadata"]["labels"]["kubernetes.io/hostname"] == "node1"
    assert found["spec"] == {"podCIDR": "10.244.0.0/24", "podCIDRs": ["10.244.0.0/24"]}
    assert found["status"]["addresses"] == [
        {"type": "InternalIP", "address": "172.18.0.1"},
        {"type": "Hostname", "address": "node1"},
    ]
    assert found["status"]["nodeInfo"]["kernelVersion"] == "6.1.0"
    assert found["status"]["capacity"]["pods"] == "250"


def test_every_namespace_in_use_is_an_object_the_default_first() -> None:
    topology = Topology(
        deployments=[Deployment(name="a", namespace="b")],
        services=[Service(name="web", namespace="c", port=80, endpoints=1)],
    )
    assert [found["metadata"]["name"] for found in objects.namespace_objects(topology)] == [
        "default",
        "b",
        "c",
    ]
