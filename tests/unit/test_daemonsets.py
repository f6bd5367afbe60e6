"""DaemonSets have one pod of the present template on every node that they are meant for."""

from __future__ import annotations

from typing import Any

import pytest
from api_objects import Laboratory, node, running

from testbed.cluster.resources import PODS
from testbed.errors import ApiError


def daemons(**template_spec: Any) -> dict[str, Any]:
    container = {"name": "c", "image": "x"}
    template = {
        "metadata": {"labels": {"app": "agent"}},
        "spec": {"containers": [container], **template_spec},
    }
    return {
        "apiVersion": "apps/v1",
        "kind": "DaemonSet",
        "metadata": {"name": "agent"},
        "spec": {"selector": {"matchLabels": {"app": "agent"}}, "template": template},
    }


@pytest.fixture
def lab() -> Laboratory:
    return Laboratory()


def nodes_of(lab: Laboratory) -> list[str]:
    return [item["spec"]["nodeName"] for item in lab.all("Pod")]


def start_all(lab: Laboratory) -> None:
    for number, item in enumerate(lab.all("Pod"), 1):
        if "podIP" not in item["status"]:
            lab.patch("Pod", item["metadata"]["name"], {"status": running(f"10.0.0.{number}")}, "status")


def test_every_node_gets_one_pod_and_so_do_nodes_that_come_later(lab: Laboratory) -> None:
    lab.load(node("node1"), node("node2", unschedulable=True), daemons())
    assert nodes_of(lab) == ["node1", "node2"]
    lab.create(node("node3"))
    assert nodes_of(lab) == ["node1", "node2", "node3"]
    lab.delete("Node", "node1")
    assert nodes_of(lab) == ["node2", "node3"]


def test_a_node_selector_narrows_the_choice(lab: Laboratory) -> None:
    fast = node("fast")
    fast["metadata"]["labels"]["disk"] = "ssd"
    lab.load(node("slow"), fast, daemons(nodeSelector={"disk": "ssd"}))
    assert nodes_of(lab) == ["fast"]


def test_a_deleted_pod_is_replaced_once_it_is_gone(lab: Laboratory) -> None:
    lab.load(node("node1"), daemons(terminationGracePeriodSeconds=30))
    (old,) = lab.all("Pod")
    lab.delete("Pod", old["metadata"]["name"])
    (leaving,) = lab.all("Pod")
    assert leaving["metadata"]["uid"] == old["metadata"]["uid"]
    assert leaving["metadata"]["deletionGracePeriodSeconds"] == 30
    lab.delete("Pod", old["metadata"]["name"], grace_s=0)
    (new,) = lab.all("Pod")
    assert new["metadata"]["uid"] != old["metadata"]["uid"]
    assert new["spec"]["nodeName"] == "node1"


def test_a_new_template_replaces_one_pod_at_a_time(lab: Laboratory) -> None:
    lab.load(node("node1"), node("node2"), daemons())
    start_all(lab)
    old = {item["metadata"]["uid"] for item in lab.all("Pod")}
    patch = {"spec": {"template": {"metadata": {"annotations": {"again": "1"}}}}}
    lab.patch("DaemonSet", "agent", patch)
    assert len({item["metadata"]["uid"] for item in lab.all("Pod")} & old) == 1
    start_all(lab)
    assert not {item["metadata"]["uid"] for item in lab.all("Pod")} & old


def test_the_status_counts_nodes_and_says_which_state_it_is_about(lab: Laboratory) -> None:
    lab.load(node("node1"), node("node2"), daemons())
    counts = {"desiredNumberScheduled": 2, "currentNumberScheduled": 2, "updatedNumberScheduled": 2}
    status = lab.get("DaemonSet", "agent")["status"]
    assert counts.items() <= status.items()
    assert (status["numberReady"], status["numberUnavailable"], status["observedGeneration"]) == (0, 2, 1)
    start_all(lab)
    status = lab.get("DaemonSet", "agent")["status"]
    assert (status["numberReady"], status["numberUnavailable"]) == (2, 0)


def test_pods_go_with_their_set(lab: Laboratory) -> None:
    lab.load(node("node1"), daemons())
    lab.delete("DaemonSet", "agent")
    assert lab.all("Pod") == []


def test_a_selector_must_match_the_template(lab: Laboratory) -> None:
    lab.load(node("node1"))
    wrong = daemons()
    wrong["spec"]["selector"] = {"matchLabels": {"app": "other"}}
    with pytest.raises(ApiError, match="does not match template"):
        lab.create(wrong)
    assert lab.registry.store.find(PODS, "default", "agent") is None
