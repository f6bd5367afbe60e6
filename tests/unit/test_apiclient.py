"""The lab's client: every verb against a real control plane, and its failures as typed errors."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from api_objects import deployment, node, pod, running, service

from testbed.cluster.apiclient import JSON_PATCH, STRATEGIC, ApiClient, find_resource
from testbed.cluster.controlplane import start_control_plane
from testbed.errors import ApiError, ProcessDied
from testbed.net.process import Child


@pytest.fixture
def control_plane(tmp_path: Path) -> Iterator[Child]:
    with start_control_plane([], socket_path=tmp_path / "s", log=tmp_path / "log", seed=3) as child:
        yield child


@pytest.fixture
def api(tmp_path: Path, control_plane: Child) -> Iterator[ApiClient]:
    with ApiClient(tmp_path / "s") as client:
        yield client


def test_objects_are_created_listed_changed_and_deleted(api: ApiClient) -> None:
    created = api.create(service())
    assert api.get("svc", "web") == created
    assert api.list("services") == [created]
    created["metadata"]["labels"] = {"a": "b"}
    assert api.replace(created)["metadata"]["labels"] == {"a": "b"}
    patch = {"spec": {"ports": [{"port": 80, "name": "h"}]}}
    changed = api.patch("Service", "web", patch, form=STRATEGIC)
    assert changed["spec"]["ports"] == [{"port": 80, "protocol": "TCP", "targetPort": 80, "name": "h"}]
    api.delete("Service", "web")
    assert api.list("Service") == []


def test_lists_are_narrowed_by_namespace_labels_and_fields(api: ApiClient) -> None:
    api.load([pod("a", "10.0.0.1"), pod("b", "10.0.0.2", app="db", nodeName="node2")])
    assert [item["metadata"]["name"] for item in api.list("pods", labels="app=db")] == ["b"]
    assert [item["metadata"]["name"] for item in api.list("pods", fields="spec.nodeName=node1")] == ["a"]
    assert api.list("pods", "kube-system") == []


def test_the_kubelet_patches_a_status(api: ApiClient) -> None:
    api.load([node("node1"), deployment(replicas=1)])
    [made] = api.list("pods")
    name = made["metadata"]["name"]
    changed = api.patch("Pod", name, {"status": running("10.0.0.1")}, subresource="status")
    assert changed["status"]["podIP"] == "10.0.0.1"
    assert api.get("Deployment", "web")["status"]["readyReplicas"] == 1
    api.scale("web", 3)
    assert len(api.list("pods")) == 3


def test_a_watch_goes_on_from_a_list(api: ApiClient) -> None:
    api.create(service("old"))
    version = api.list("Service").resource_version
    api.create(service("new"))
    events = api.watch("Service", resource_version=version)
    first = next(events)
    assert (first.type, first.object["metadata"]["name"]) == ("ADDED", "new")
    api.delete("Service", "new")
    assert next(events).type == "DELETED"
    events.close()


def test_a_watch_ends_after_its_time(api: ApiClient) -> None:
    assert [event.type for event in api.watch("Service", timeout_s=1)] == ["BOOKMARK"]


def test_a_version_from_elsewhere_is_an_error_of_a_watch(api: ApiClient) -> None:
    with pytest.raises(ApiError) as caught:
        next(api.watch("Service", resource_version="999999"))
    assert (caught.value.code, caught.value.reason) == (410, "Expired")


def test_a_refusal_comes_with_code_reason_message_and_details(api: ApiClient) -> None:
    with pytest.raises(ApiError, match='services "absent" not found') as caught:
        api.get("Service", "absent")
    error = caught.value
    assert (error.code, error.reason, error.details) == (
        404,
        "NotFound",
        {"name": "absent", "kind": "services"},
    )


def test_a_json_patch_goes_through(api: ApiClient) -> None:
    api.create(service())
    patch = [{"op": "replace", "path": "/spec/ports/0/port", "value": 99}]
    assert api.patch("svc", "web", patch, form=JSON_PATCH)["spec"]["ports"][0]["port"] == 99


def test_an_unknown_kind_is_refused_at_once() -> None:
    with pytest.raises(ApiError, match="no resource is called 'unicorn'"):
        find_resource("unicorn")


def test_threads_share_a_client(api: ApiClient) -> None:
    def create(number: int) -> None:
        api.create(service(f"s{number}"))

    threads = [threading.Thread(target=create, args=(number,)) for number in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(api.list("Service")) == 20


def test_a_server_that_is_gone_is_an_error_and_not_ready(api: ApiClient, control_plane: Child) -> None:
    assert api.ready()
    assert control_plane.terminate() == 0
    assert not api.ready()
    with pytest.raises(ConnectionRefusedError):
        api.list("Service")


def test_a_connection_that_idled_away_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "s"
    with start_control_plane([], socket_path=path, log=tmp_path / "log") as first, ApiClient(path) as client:
        client.create(service())
        first.terminate()
        path.unlink()
        with start_control_plane([], socket_path=path, log=tmp_path / "log"):
            assert client.list("Service") == []


def test_a_clean_shutdown_ends_open_watches(api: ApiClient, control_plane: Child) -> None:
    events = api.watch("Service")
    api.create(service())
    assert next(events).type == "ADDED"
    assert control_plane.terminate() == 0


def test_a_control_plane_that_cannot_start_says_why(tmp_path: Path) -> None:
    with pytest.raises(ProcessDied, match="does not appear to be an IPv4 or IPv6 network"):
        start_control_plane([], socket_path=tmp_path / "s", log=tmp_path / "log", service_cidr="nonsense")


def test_a_seed_makes_names_repeatable(api: ApiClient, tmp_path: Path) -> None:
    api.create(service())
    with (
        start_control_plane([], socket_path=tmp_path / "t", log=tmp_path / "log2", seed=3),
        ApiClient(tmp_path / "t") as twin,
    ):
        twin.create(service())
        names = [client.list("endpointslices")[0]["metadata"]["name"] for client in (api, twin)]
    assert names[0] == names[1]
