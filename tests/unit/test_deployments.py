"""Deployments make, adopt, replace and delete pods, and the pods find their nodes."""

from __future__ import annotations

import pytest
from api_objects import Laboratory, deployment, node, pod, service

from testbed.cluster.resources import DEPLOYMENTS


@pytest.fixture
def lab() -> Laboratory:
    return Laboratory()


def names(lab: Laboratory, kind: str) -> list[str]:
    return [item["metadata"]["name"] for item in lab.all(kind)]


def addresses(lab: Laboratory) -> list[str]:
    return [e["addresses"][0] for item in lab.all("EndpointSlice") for e in item["endpoints"]]


def test_a_deployment_makes_pods_on_the_nodes_in_turn(lab: Laboratory) -> None:
    lab.load(node("node1"), node("node2"), node("closed", unschedulable=True), deployment(replicas=4))
    pods = lab.all("Pod")
    assert [item["spec"]["nodeName"] for item in pods] == ["node1", "node2", "node1", "node2"]
    for item in pods:
        name, digest = item["metadata"]["name"], item["metadata"]["labels"]["pod-template-hash"]
        assert name.startswith(f"web-{digest}-")
        assert item["metadata"]["ownerReferences"][0]["kind"] == "Deployment"
        assert item["status"]["phase"] == "Pending"


def test_a_deployment_spreads_its_own_pods_whatever_else_runs_there(lab: Laboratory) -> None:
    lab.load(
        node("node1"), node("node2"), *(pod(f"p{n}", app="other") for n in range(5)), deployment(replicas=2)
    )
    placed = [item["spec"]["nodeName"] for item in lab.all("Pod") if item["metadata"].get("ownerReferences")]
    assert sorted(placed) == ["node1", "node2"]


def test_pods_wait_for_a_node_that_has_room_and_the_right_labels(lab: Laboratory) -> None:
    full = node("full")
    full["status"] = {"allocatable": {"pods": "1"}}
    lab.load(full, pod("there", app="x", nodeName="full"), deployment(replicas=1))
    lab.load({**pod("picky", app="x"), "spec": {"nodeSelector": {"disk": "ssd"}}})
    assert [item["spec"].get("nodeName") for item in lab.all("Pod")] == ["full", None, None]
    fast = node("fast")
    fast["metadata"]["labels"]["disk"] = "ssd"
    lab.create(fast)
    assert [item["spec"].get("nodeName") for item in lab.all("Pod")] == ["full", "fast", "fast"]


def test_a_waiting_pod_takes_the_room_of_one_that_goes(lab: Laboratory) -> None:
    small = node("small")
    small["status"] = {"allocatable": {"pods": "1"}}
    lab.load(small, pod("first", nodeName="small"), pod("second", nodeName=""))
    assert lab.get("Pod", "second")["spec"]["nodeName"] == ""
    lab.delete("Pod", "first")
    assert lab.get("Pod", "second")["spec"]["nodeName"] == "small"


def test_a_deployment_adopts_the_pods_that_fit_it(lab: Laboratory) -> None:
    lab.load(node("node1"), deployment(replicas=2), pod("one", "10.0.0.1"), pod("two", "10.0.0.2"), service())
    assert names(lab, "Pod") == ["one", "two"]
    assert lab.get("Deployment", "web")["status"]["readyReplicas"] == 2
    lab.delete("Pod", "one")
    assert len(names(lab, "Pod")) == 2
    assert "one" not in names(lab, "Pod")


def test_scaling_changes_pods_and_slices(lab: Laboratory) -> None:
    lab.load(node("node1"), service(), deployment(replicas=3))
    for number, name in enumerate(names(lab, "Pod")):
        lab.run_pod(name, f"10.0.0.{number + 1}")
    first = names(lab, "Pod")
    lab.registry.patch_scale("default", "web", "application/merge-patch+json", {"spec": {"replicas": 1}})
    assert names(lab, "Pod") == first[:1]
    assert addresses(lab) == ["10.0.0.1"]
    lab.registry.patch_scale("default", "web", "application/merge-patch+json", {"spec": {"replicas": 2}})
    assert len(names(lab, "Pod")) == 2
    scale = lab.registry.scale_of(lab.registry.store.get(DEPLOYMENTS, "default", "web"))
    assert (scale["spec"], scale["status"]) == ({"replicas": 2}, {"replicas": 2, "selector": "app=web"})


def test_pods_that_are_not_ready_go_first(lab: Laboratory) -> None:
    lab.load(node("node1"), deployment(replicas=3))
    first, second, third = names(lab, "Pod")
    lab.run_pod(second, "10.0.0.2")
    lab.run_pod(third, "10.0.0.3")
    lab.patch("Deployment", "web", {"spec": {"replicas": 2}})
    assert names(lab, "Pod") == [second, third]
    assert first not in names(lab, "Pod")


def test_the_status_of_a_deployment_counts_its_pods(lab: Laboratory) -> None:
    lab.load(node("node1"), deployment(replicas=2))
    status = lab.get("Deployment", "web")["status"]
    assert (status["replicas"], status["updatedReplicas"], status["unavailableReplicas"]) == (2, 2, 2)
    assert [item["status"] for item in status["conditions"]] == ["False", "True"]
    for number, name in enumerate(names(lab, "Pod")):
        lab.run_pod(name, f"10.0.0.{number + 1}")
    status = lab.get("Deployment", "web")["status"]
    assert (status["readyReplicas"], status["availableReplicas"]) == (2, 2)
    assert status["conditions"][0]["status"] == "True"
    assert status["conditions"][1]["reason"] == "NewReplicaSetAvailable"
    assert "unavailableReplicas" not in status


def test_a_new_template_replaces_pods_as_new_ones_become_ready(lab: Laboratory) -> None:
    lab.load(node("node1"), service(), deployment(replicas=4))
    for number, name in enumerate(names(lab, "Pod")):
        lab.run_pod(name, f"10.0.0.{number + 1}")
    lab.patch("Deployment", "web", {"spec": {"template": {"metadata": {"annotations": {"a": "b"}}}}})
    assert lab.get("Deployment", "web")["metadata"]["generation"] == 2
    number = 10
    for _ in range(20):
        pods = lab.all("Pod")
        ready = [item for item in pods if item["status"].get("podIP")]
        assert len(pods) <= 5
        assert len(ready) >= 3
        waiting = [item for item in pods if not item["status"].get("podIP")]
        if not waiting:
            break
        number += 1
        lab.run_pod(waiting[0]["metadata"]["name"], f"10.0.0.{number}")
    assert len(pods) == 4
    assert {item["metadata"]["annotations"]["a"] for item in pods} == {"b"}


def test_recreate_first_deletes_the_old_pods(lab: Laboratory) -> None:
    lab.load(node("node1"), deployment(replicas=2, strategy={"type": "Recreate"}))
    old = names(lab, "Pod")
    patch = {"spec": {"template": {"spec": {"containers": [{"name": "c", "image": "two"}]}}}}
    lab.patch("Deployment", "web", patch)
    assert len(names(lab, "Pod")) == 2
    assert not set(old) & set(names(lab, "Pod"))


def test_pods_go_with_their_deployment_unless_they_are_orphaned(lab: Laboratory) -> None:
    lab.load(node("node1"), deployment("a", replicas=2), deployment("b", replicas=2))
    lab.delete("Deployment", "a")
    lab.delete("Deployment", "b", orphan=True)
    assert all(name.startswith("b-") for name in names(lab, "Pod"))
    assert len(names(lab, "Pod")) == 2
    assert lab.all("Pod")[0]["metadata"]["ownerReferences"] == []
