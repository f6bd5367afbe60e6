"""Slices and Endpoints follow from what users write, touching only what a change concerns."""

from __future__ import annotations

from typing import Any

import pytest
from api_objects import Laboratory, Object, deployment, endpoint_slice, node, pod, running, service
from hypothesis import given, settings
from hypothesis import strategies as st

from testbed.cluster.resources import ENDPOINTSLICES, SERVICES, Resource
from testbed.cluster.store import Event, Watch

MANAGED = "endpointslice.kubernetes.io/managed-by"


@pytest.fixture
def lab() -> Laboratory:
    return Laboratory()


def slices(lab: Laboratory, service_name: str = "web") -> list[Object]:
    return [
        item
        for item in lab.all("EndpointSlice")
        if item["metadata"]["labels"]["kubernetes.io/service-name"] == service_name
    ]


def addresses(lab: Laboratory, service_name: str = "web") -> list[str]:
    return [e["addresses"][0] for item in slices(lab, service_name) for e in item["endpoints"]]


def conditions(lab: Laboratory) -> list[tuple[bool, bool, bool]]:
    return [
        (e["conditions"]["ready"], e["conditions"]["serving"], e["conditions"]["terminating"])
        for item in slices(lab)
        for e in item["endpoints"]
    ]


def names(lab: Laboratory, kind: str) -> list[str]:
    return [item["metadata"]["name"] for item in lab.all(kind)]


def follow(lab: Laboratory, resource: Resource) -> Watch:
    return lab.registry.store.watch(resource, since=lab.registry.store.version, notify=lambda: None)


def events(watch: Watch) -> list[tuple[str, str]]:
    return [(kind, record.name) for kind, record in watch.take()]


def test_a_slice_holds_the_pods_that_a_service_selects(lab: Laboratory) -> None:
    lab.load(
        node("node1", zone="a"),
        pod("one", "10.0.0.1"),
        pod("other", "10.0.0.2", app="db"),
        service(
            "web", {"port": 80, "name": "http", "targetPort": 8080, "appProtocol": "h2c"}, labels={"x": "y"}
        ),
    )
    [found] = slices(lab)
    assert found["addressType"] == "IPv4"
    assert found["ports"] == [{"name": "http", "port": 8080, "protocol": "TCP", "appProtocol": "h2c"}]
    uid = lab.get("Pod", "one")["metadata"]["uid"]
    assert found["endpoints"] == [
        {
            "addresses": ["10.0.0.1"],
            "conditions": {"ready": True, "serving": True, "terminating": False},
            "targetRef": {"kind": "Pod", "namespace": "default", "name": "one", "uid": uid},
            "nodeName": "node1",
            "zone": "a",
        }
    ]
    assert found["metadata"]["labels"] == {
        "x": "y",
        "kubernetes.io/service-name": "web",
        MANAGED: "endpointslice-controller.k8s.io",
    }
    assert found["metadata"]["ownerReferences"][0]["name"] == "web"
    assert found["metadata"]["annotations"]["endpoints.kubernetes.io/last-change-trigger-time"].endswith("Z")


def test_a_service_without_pods_has_an_empty_slice(lab: Laboratory) -> None:
    lab.create(service())
    [found] = slices(lab)
    assert found["endpoints"] == []


def test_a_load_makes_one_event_for_each_service_and_slice(lab: Laboratory) -> None:
    services, found = follow(lab, SERVICES), follow(lab, ENDPOINTSLICES)
    lab.load(service("a"), service("b"), pod("one", "10.0.0.1"), pod("two", "10.0.0.2"))
    assert events(services) == [("ADDED", "a"), ("ADDED", "b")]
    assert [kind for kind, _ in events(found)] == ["ADDED", "ADDED"]
    assert addresses(lab, "a") == addresses(lab, "b") == ["10.0.0.1", "10.0.0.2"]


def test_a_change_touches_only_the_slices_it_concerns(lab: Laboratory) -> None:
    lab.load(
        pod("one", "10.0.0.1"),
        pod("two", "10.0.0.2", app="db"),
        service("web"),
        service("db", selector={"app": "db"}),
    )
    watch = follow(lab, ENDPOINTSLICES)
    lab.run_pod("two", "10.0.0.2", ready=False)
    assert events(watch) == [("MODIFIED", slices(lab, "db")[0]["metadata"]["name"])]


def test_a_change_that_endpoints_cannot_see_makes_no_event(lab: Laboratory) -> None:
    lab.load(pod("one", "10.0.0.1"), service())
    watch = follow(lab, ENDPOINTSLICES)
    lab.patch("Pod", "one", {"status": {"reason": "Whatever"}}, "status")
    lab.patch("Service", "web", {"metadata": {"annotations": {"a": "b"}}})
    assert events(watch) == []


def test_readiness_and_termination_show_in_the_conditions(lab: Laboratory) -> None:
    lab.load(
        pod("ready", "10.0.0.1", terminationGracePeriodSeconds=30),
        pod("unready", "10.0.0.2", ready=False, terminationGracePeriodSeconds=30),
        service(),
    )
    assert conditions(lab) == [(True, True, False), (False, False, False)]
    lab.delete("Pod", "ready")
    lab.delete("Pod", "unready")
    assert conditions(lab) == [(False, True, True), (False, False, True)]


def test_a_service_may_publish_pods_that_are_not_ready(lab: Laboratory) -> None:
    lab.load(pod("one", "10.0.0.1", ready=False), service(publishNotReadyAddresses=True))
    assert conditions(lab) == [(True, True, False)]


def test_pods_that_have_finished_or_have_no_address_are_no_endpoints(lab: Laboratory) -> None:
    done = pod("done", "10.0.0.1")
    done["status"]["phase"] = "Succeeded"
    lab.load(done, pod("pending"), service())
    assert addresses(lab) == []
    lab.run_pod("pending", "10.0.0.2")
    assert addresses(lab) == ["10.0.0.2"]


def test_a_terminating_pod_stays_an_endpoint_until_its_grace_is_over(lab: Laboratory) -> None:
    lab.load(pod("one", "10.0.0.1", terminationGracePeriodSeconds=7), service())
    lab.delete("Pod", "one")
    assert lab.get("Pod", "one")["metadata"]["deletionGracePeriodSeconds"] == 7
    assert addresses(lab) == ["10.0.0.1"]
    assert lab.pass_time() == 7
    assert addresses(lab) == []
    assert lab.all("Pod") == []


def test_the_kubelet_ends_a_grace_early(lab: Laboratory) -> None:
    lab.load(pod("one", "10.0.0.1", terminationGracePeriodSeconds=7), service())
    lab.delete("Pod", "one")
    lab.delete("Pod", "one", grace_s=0)
    assert addresses(lab) == []
    lab.load(pod("one", "10.0.0.3"))
    lab.pass_time()  # the timer of the old pod must leave the new one alone
    assert addresses(lab) == ["10.0.0.3"]


def test_named_ports_are_resolved_in_each_pod(lab: Laboratory) -> None:
    def with_port(name: str, address: str, number: int) -> Object:
        port = {"name": "http", "containerPort": number}
        return pod(name, address, containers=[{"name": "c", "ports": [port]}])

    lab.load(
        with_port("a", "10.0.0.1", 8080),
        with_port("b", "10.0.0.2", 9090),
        with_port("c", "10.0.0.3", 8080),
        service("web", {"port": 80, "targetPort": "http"}),
    )
    found = {item["ports"][0]["port"]: [e["addresses"][0] for e in item["endpoints"]] for item in slices(lab)}
    assert found == {8080: ["10.0.0.1", "10.0.0.3"], 9090: ["10.0.0.2"]}


def test_two_hundred_and_fifty_pods_need_three_slices_and_few_change(lab: Laboratory) -> None:
    lab.load(*(pod(f"p{n}", f"10.0.{n // 250}.{n % 250 + 1}") for n in range(250)), service())
    assert [len(item["endpoints"]) for item in slices(lab)] == [100, 100, 50]
    watch = follow(lab, ENDPOINTSLICES)
    lab.delete("Pod", "p3")
    assert len(events(watch)) == 1
    lab.load(pod("new", "10.1.0.1"))
    assert len(events(watch)) == 1
    assert [len(item["endpoints"]) for item in slices(lab)] == [100, 100, 50]


def test_dual_stack_services_have_a_slice_for_each_family() -> None:
    lab = Laboratory(service_cidr="10.96.0.0/12,fd00:10:96::/112")
    lab.load(
        pod("one", "10.0.0.1", "fd00::1"),
        pod("two", "10.0.0.2"),
        service(ipFamilyPolicy="PreferDualStack"),
    )
    found = {item["addressType"]: [e["addresses"][0] for e in item["endpoints"]] for item in slices(lab)}
    assert found == {"IPv4": ["10.0.0.1", "10.0.0.2"], "IPv6": ["fd00::1"]}


def test_slices_of_headless_services_are_labelled(lab: Laboratory) -> None:
    lab.load(pod("one", "10.0.0.1"), service(clusterIP="None"))
    assert slices(lab)[0]["metadata"]["labels"]["service.kubernetes.io/headless"] == ""


def test_slices_follow_a_services_selector_ports_and_labels(lab: Laboratory) -> None:
    lab.load(pod("one", "10.0.0.1"), pod("two", "10.0.0.2", app="db"), service())
    name = slices(lab)[0]["metadata"]["name"]
    lab.patch("Service", "web", {"spec": {"selector": {"app": "db"}}})
    assert addresses(lab) == ["10.0.0.2"]
    lab.patch("Service", "web", {"spec": {"ports": [{"port": 80, "targetPort": 81}]}})
    assert [item["ports"][0]["port"] for item in slices(lab)] == [81]
    lab.patch("Service", "web", {"metadata": {"labels": {"service.kubernetes.io/service-proxy-name": "x"}}})
    assert "service.kubernetes.io/service-proxy-name" in slices(lab)[0]["metadata"]["labels"]
    assert name not in names(lab, "EndpointSlice")


def test_slices_follow_the_labels_of_pods_and_the_zones_of_nodes(lab: Laboratory) -> None:
    lab.load(node("node1"), pod("one", "10.0.0.1"), service())
    lab.patch("Node", "node1", {"metadata": {"labels": {"topology.kubernetes.io/zone": "b"}}})
    assert slices(lab)[0]["endpoints"][0]["zone"] == "b"
    lab.patch("Pod", "one", {"metadata": {"labels": {"app": "other"}}})
    assert addresses(lab) == []


def test_a_service_that_prefers_close_endpoints_hints_at_zones_if_all_are_known(lab: Laboratory) -> None:
    lab.load(node("node1", zone="a"), node("node2"), pod("one", "10.0.0.1"))
    lab.load(service(trafficDistribution="PreferClose"))
    assert slices(lab)[0]["endpoints"][0]["hints"] == {"forZones": [{"name": "a"}]}
    lab.load(pod("two", "10.0.0.2", nodeName="node2"))
    assert not any("hints" in endpoint for endpoint in slices(lab)[0]["endpoints"])


def test_the_slices_of_a_service_go_with_it(lab: Laboratory) -> None:
    lab.load(pod("one", "10.0.0.1"), service("web"), service("other"))
    lab.delete("Service", "web")
    assert slices(lab) == []
    assert len(lab.all("EndpointSlice")) == 1


def test_a_service_without_a_selector_keeps_the_slices_made_by_hand(lab: Laboratory) -> None:
    lab.load(service(selector=None), endpoint_slice("mine", "192.0.2.1"))
    lab.patch("Service", "web", {"metadata": {"labels": {"a": "b"}}})
    assert names(lab, "EndpointSlice") == ["mine"]
    assert addresses(lab) == ["192.0.2.1"]
    assert slices(lab)[0]["endpoints"] == [{"addresses": ["192.0.2.1"]}]


def test_a_service_that_loses_its_selector_loses_its_own_slices_only(lab: Laboratory) -> None:
    lab.load(pod("one", "10.0.0.1"), service(), endpoint_slice("mine", "192.0.2.1"))
    lab.patch("Service", "web", {"spec": {"selector": None}})
    assert names(lab, "EndpointSlice") == ["mine"]


def test_what_others_do_to_a_slice_is_put_right(lab: Laboratory) -> None:
    lab.load(pod("one", "10.0.0.1"), service())
    lab.patch("EndpointSlice", slices(lab)[0]["metadata"]["name"], {"endpoints": []})
    assert addresses(lab) == ["10.0.0.1"]
    lab.delete("EndpointSlice", slices(lab)[0]["metadata"]["name"])
    assert addresses(lab) == ["10.0.0.1"]


def test_endpoints_appear_when_somebody_asks_and_follow_from_then_on(lab: Laboratory) -> None:
    lab.load(
        pod("one", "10.0.0.1"),
        pod("two", "10.0.0.2", ready=False),
        service("web", {"port": 80, "targetPort": 8080}),
    )
    assert lab.registry.store.list(ENDPOINTSLICES).records
    [found] = lab.all("Endpoints")
    [subset] = found["subsets"]
    assert [item["ip"] for item in subset["addresses"]] == ["10.0.0.1"]
    assert [item["ip"] for item in subset["notReadyAddresses"]] == ["10.0.0.2"]
    assert subset["ports"] == [{"name": "", "port": 8080, "protocol": "TCP"}]
    lab.run_pod("two", "10.0.0.2")
    assert len(lab.get("Endpoints", "web")["subsets"][0]["addresses"]) == 2
    lab.delete("Endpoints", "web")
    assert len(lab.get("Endpoints", "web")["subsets"][0]["addresses"]) == 2
    lab.delete("Service", "web")
    assert lab.all("Endpoints") == []


def test_endpoints_stop_at_their_capacity_and_say_so(lab: Laboratory) -> None:
    lab.load(*(pod(f"p{n}", f"10.0.{n // 250}.{n % 250 + 1}") for n in range(1001)), service())
    found = lab.get("Endpoints", "web")
    assert len(found["subsets"][0]["addresses"]) == 1000
    assert found["metadata"]["annotations"]["endpoints.kubernetes.io/over-capacity"] == "truncated"
    assert len(addresses(lab)) == 1001


def test_endpoints_made_by_hand_are_mirrored_into_slices(lab: Laboratory) -> None:
    subset: Object = {"addresses": [{"ip": "192.0.2.1"}], "ports": [{"port": 80, "name": "http"}]}
    endpoints: Object = {"kind": "Endpoints", "metadata": {"name": "web"}, "subsets": [subset]}
    lab.create(endpoints)
    assert lab.all("EndpointSlice") == []
    lab.create(service(selector=None))
    [found] = slices(lab)
    assert found["endpoints"] == [{"addresses": ["192.0.2.1"], "conditions": {"ready": True}}]
    assert found["ports"] == [{"name": "http", "port": 80, "protocol": "TCP"}]
    assert found["metadata"]["labels"][MANAGED] == "endpointslicemirroring-controller.k8s.io"
    lab.patch(
        "Endpoints", "web", {"subsets": [{**subset, "addresses": [{"ip": "192.0.2.2"}, {"ip": "fd00::1"}]}]}
    )
    assert sorted(addresses(lab)) == ["192.0.2.2", "fd00::1"]
    lab.delete("Endpoints", "web")
    assert lab.all("EndpointSlice") == []


ACTIONS = st.lists(
    st.tuples(
        st.sampled_from(
            ["pod", "unpod", "ready", "unready", "relabel", "service", "unservice", "select", "scale", "node"]
        ),
        st.integers(min_value=0, max_value=3),
    ),
    max_size=40,
)


@settings(max_examples=60, deadline=None)
@given(ACTIONS)
def test_slices_always_hold_exactly_the_selected_pods(actions: list[tuple[str, int]]) -> None:
    """For any sequence of changes, every Service's slices equal what a look at all pods gives."""
    lab = Laboratory()
    lab.load(node("node1"), deployment("deployed", replicas=1))
    for action, number in actions:
        _act(lab, action, number)
        for kind in ("Pod", "Service", "EndpointSlice"):
            assert len(set(names(lab, kind))) == len(names(lab, kind))
    for item in lab.all("Service"):
        wanted = sorted(
            (p["status"]["podIP"], p["status"]["conditions"][0]["status"] == "True")
            for p in lab.all("Pod")
            if p["status"].get("podIP")
            and item["spec"]["selector"].items() <= p["metadata"]["labels"].items()
        )
        found = sorted(
            (e["addresses"][0], e["conditions"]["ready"])
            for part in slices(lab, item["metadata"]["name"])
            for e in part["endpoints"]
        )
        assert found == wanted
    services = {item["metadata"]["name"] for item in lab.all("Service")}
    owners = {item["metadata"]["labels"]["kubernetes.io/service-name"] for item in lab.all("EndpointSlice")}
    assert owners == services


def _act(lab: Laboratory, action: str, number: int) -> None:
    name, app = f"x{number}", f"a{number % 2}"
    pods = [item for item in names(lab, "Pod") if item == name]
    exists = name in names(lab, "Service")
    if action == "pod" and not pods:
        lab.create(pod(name, f"10.0.0.{number + 1}", app=app))
    elif action == "unpod" and pods:
        lab.delete("Pod", name)
    elif action in ("ready", "unready") and pods:
        status: Any = running(f"10.0.0.{number + 1}", ready=action == "ready")
        lab.patch("Pod", name, {"status": status}, "status")
    elif action == "relabel" and pods:
        lab.patch("Pod", name, {"metadata": {"labels": {"app": "a1"}}})
    elif action == "service" and not exists:
        lab.create(service(name, selector={"app": app}))
    elif action == "unservice" and exists:
        lab.delete("Service", name)
    elif action == "select" and exists:
        lab.patch("Service", name, {"spec": {"selector": {"app": "deployed"}}})
    elif action == "scale":
        lab.patch("Deployment", "deployed", {"spec": {"replicas": number}})
        for place, item in enumerate(lab.all("Pod")):
            if item["metadata"]["name"].startswith("deployed") and not item["status"].get("podIP"):
                lab.run_pod(item["metadata"]["name"], f"10.1.{number}.{place + 1}")
    elif action == "node":
        lab.patch("Node", "node1", {"metadata": {"labels": {"topology.kubernetes.io/zone": app}}})


def test_observers_see_each_write_once(lab: Laboratory) -> None:
    seen: list[Event] = []
    lab.registry.store.observe(SERVICES, seen.append)
    lab.create(service())
    lab.patch("Service", "web", {"metadata": {"labels": {"a": "b"}}})
    lab.delete("Service", "web")
    assert [event.type for event in seen] == ["ADDED", "MODIFIED", "DELETED"]
    assert [event.previous is None for event in seen] == [True, False, False]
