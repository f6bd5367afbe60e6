"""Objects of every kind are completed and checked; writes change what they may and no more."""

from __future__ import annotations

import pytest
from api_objects import Laboratory, Object, deployment, endpoint_slice, node, pod, service

from testbed.cluster.api.registry import DeleteOptions
from testbed.cluster.resources import SERVICES
from testbed.errors import ApiError


@pytest.fixture
def lab() -> Laboratory:
    return Laboratory()


def refusal(lab: Laboratory, obj: Object) -> ApiError:
    with pytest.raises(ApiError) as caught:
        lab.create(obj)
    return caught.value


def test_an_object_needs_a_name_and_an_existing_namespace(lab: Laboratory) -> None:
    assert "metadata.name: Required value" in refusal(lab, {**service(), "metadata": {}}).message
    error = refusal(lab, {**service(), "metadata": {"name": "a", "namespace": "nowhere"}})
    assert (error.code, error.message) == (404, 'namespaces "nowhere" not found')


def test_a_name_is_generated_on_demand(lab: Laboratory) -> None:
    created = lab.create({**service(), "metadata": {"generateName": "web-"}})
    assert created["metadata"]["name"].startswith("web-")
    assert len(created["metadata"]["name"]) == len("web-") + 5


def test_two_control_planes_of_one_seed_name_things_alike() -> None:
    first, second = Laboratory(seed=7), Laboratory(seed=7)
    for lab in (first, second):
        lab.create(service())
    names = [lab.all("EndpointSlice")[0]["metadata"] for lab in (first, second)]
    assert names[0]["name"] == names[1]["name"]
    assert names[0]["uid"] == names[1]["uid"]


def test_an_update_keeps_what_it_does_not_mention(lab: Laboratory) -> None:
    created = lab.create(service(type="LoadBalancer"))
    replaced = lab.registry.replace(SERVICES, "default", "web", service(type="LoadBalancer")).parsed()
    assert replaced == created


def test_an_update_that_changes_nothing_makes_no_new_version(lab: Laboratory) -> None:
    created = lab.create(service())
    assert lab.patch("Service", "web", {"metadata": {"labels": {}}})
    version = lab.registry.store.version
    lab.patch("Service", "web", {"spec": {"type": created["spec"]["type"]}})
    assert lab.registry.store.version == version


def test_the_cluster_address_is_immutable(lab: Laboratory) -> None:
    lab.create(service())
    with pytest.raises(ApiError, match="may not change once set"):
        lab.patch("Service", "web", {"spec": {"clusterIP": "10.96.0.77", "clusterIPs": ["10.96.0.77"]}})


def test_a_change_of_type_releases_and_allocates(lab: Laboratory) -> None:
    lab.create(service(type="LoadBalancer", externalTrafficPolicy="Local"))
    plain = lab.patch("Service", "web", {"spec": {"type": "ClusterIP", "externalTrafficPolicy": None}})
    assert "nodePort" not in plain["spec"]["ports"][0]
    assert "healthCheckNodePort" not in plain["spec"]
    assert plain["status"] == {"loadBalancer": {}}
    ports: list[Object] = [
        {"name": "a", "port": 1, "nodePort": 30000},
        {"name": "b", "port": 2, "nodePort": 30001},
    ]
    lab.create(service("other", *ports, type="NodePort"))
    gone = lab.patch("Service", "web", {"spec": {"type": "ExternalName", "externalName": "example.com"}})
    assert "clusterIP" not in gone["spec"]
    assert lab.create(service("third", clusterIP="10.96.0.1"))


def test_a_stale_version_is_a_conflict(lab: Laboratory) -> None:
    old = lab.create(service())
    lab.patch("Service", "web", {"metadata": {"labels": {"a": "b"}}})
    with pytest.raises(ApiError, match="the object has been modified") as caught:
        lab.registry.replace(SERVICES, "default", "web", old)
    assert (caught.value.code, caught.value.reason) == (409, "Conflict")


def test_the_status_changes_only_through_its_own_path(lab: Laboratory) -> None:
    lab.create(pod("a"))
    assert lab.patch("Pod", "a", {"status": {"podIP": "10.0.0.1"}})["status"] == {"phase": "Pending"}
    changed = lab.patch("Pod", "a", {"status": {"podIP": "10.0.0.1"}, "spec": {"x": 1}}, "status")
    assert changed["status"] == {"phase": "Pending", "podIP": "10.0.0.1", "podIPs": [{"ip": "10.0.0.1"}]}
    assert "x" not in changed["spec"]


def test_deleting_asks_for_the_right_object(lab: Laboratory) -> None:
    lab.create(service())
    with pytest.raises(ApiError, match="the preconditions do not hold") as caught:
        lab.registry.delete(SERVICES, "default", "web", DeleteOptions(uid="another"))
    assert caught.value.code == 409


def test_a_namespace_takes_its_objects_with_it_but_the_system_ones_stay(lab: Laboratory) -> None:
    lab.create({"kind": "Namespace", "metadata": {"name": "shop"}})
    lab.create({**service(), "metadata": {"name": "web", "namespace": "shop"}})
    lab.delete("Namespace", "shop")
    assert lab.all("Service") == lab.all("EndpointSlice") == []
    with pytest.raises(ApiError, match="this namespace may not be deleted") as caught:
        lab.delete("Namespace", "default")
    assert caught.value.code == 403


def test_finalizers_hold_an_object_until_the_last_is_removed(lab: Laboratory) -> None:
    lab.create({**service(), "metadata": {"name": "web", "finalizers": ["example.com/wait"]}})
    lab.delete("Service", "web")
    assert "deletionTimestamp" in lab.get("Service", "web")["metadata"]
    lab.patch("Service", "web", {"metadata": {"finalizers": []}})
    assert lab.all("Service") == []


@pytest.mark.parametrize(
    ("change", "path"),
    [
        ({"addressType": "IPv5"}, "addressType: Unsupported value"),
        ({"addressType": "IPv6"}, "endpoints[0].addresses[0]: Invalid value"),
        ({"endpoints": [{"addresses": ["x"]}]}, 'endpoints[0].addresses[0]: Invalid value: "x"'),
        ({"endpoints": [{}]}, "endpoints[0].addresses: Required value"),
        ({"ports": [{"port": 0}]}, "ports[0].port: Invalid value: 0"),
        ({"ports": [{"port": 1}, {"port": 2}]}, 'ports[1].name: Duplicate value: ""'),
    ],
)
def test_a_slice_with_a_mistake_is_refused(lab: Laboratory, change: Object, path: str) -> None:
    error = refusal(lab, {**endpoint_slice("a", "10.0.0.1"), **change})
    assert error.code == 422
    assert path in error.message


@pytest.mark.parametrize(
    ("spec", "path"),
    [
        ({"selector": None}, "spec.selector: Required value"),
        ({"selector": {"matchLabels": {"app": "x"}}}, "`selector` does not match template `labels`"),
        (
            {"selector": {"matchExpressions": [{"operator": "Near"}]}},
            "matchExpressions[0].key: Required value",
        ),
        ({"replicas": -1}, "spec.replicas: Invalid value: -1"),
        ({"replicas": 10**9}, "spec.replicas: Invalid value: 1000000000"),
        ({"strategy": {"type": "Slow"}}, "spec.strategy.type: Unsupported value"),
    ],
)
def test_a_deployment_with_a_mistake_is_refused(lab: Laboratory, spec: Object, path: str) -> None:
    obj = deployment(**spec)
    obj["spec"] = {key: value for key, value in obj["spec"].items() if value is not None}
    assert path in refusal(lab, obj).message


def test_the_selector_of_a_deployment_is_immutable(lab: Laboratory) -> None:
    lab.create(deployment(replicas=0))
    change = {"selector": {"matchLabels": {"b": "c"}}, "template": {"metadata": {"labels": {"b": "c"}}}}
    with pytest.raises(ApiError, match=r"spec.selector: Invalid value: .* field is immutable"):
        lab.patch("Deployment", "web", {"spec": change})


def test_a_node_is_ready_and_has_an_address_of_its_own(lab: Laboratory) -> None:
    created = lab.create(node("node1"))
    assert created["status"]["addresses"] == [{"type": "Hostname", "address": "node1"}]
    assert created["status"]["conditions"] == [{"type": "Ready", "status": "True", "reason": "LabReady"}]
    assert created["metadata"]["labels"]["kubernetes.io/hostname"] == "node1"


def test_a_pod_stays_on_its_node(lab: Laboratory) -> None:
    lab.create(pod("a"))
    with pytest.raises(ApiError, match="may not change the node"):
        lab.patch("Pod", "a", {"spec": {"nodeName": "node2"}})


def test_a_load_reserves_what_later_objects_name(lab: Laboratory) -> None:
    lab.load(
        service("a", type="NodePort"),
        service("b", {"port": 1, "nodePort": 30000}, type="NodePort", clusterIP="10.96.0.1"),
    )
    specs = [item["spec"] for item in lab.all("Service")]
    assert [spec["clusterIP"] for spec in specs] == ["10.96.0.2", "10.96.0.1"]
    assert [spec["ports"][0]["nodePort"] for spec in specs] == [30001, 30000]


def test_a_load_names_the_object_that_is_refused_and_keeps_those_before_it(lab: Laboratory) -> None:
    with pytest.raises(ApiError, match=r'\[1\]: Service "B" is invalid: metadata.name') as caught:
        lab.load(service("a"), service("B"), service("c"))
    assert caught.value.code == 422
    assert [item["metadata"]["name"] for item in lab.all("Service")] == ["a"]
    assert len(lab.all("EndpointSlice")) == 1


def test_a_load_may_begin_with_namespaces_that_exist(lab: Laboratory) -> None:
    lab.load({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "default"}}, service())
    assert len(lab.all("Service")) == 1
