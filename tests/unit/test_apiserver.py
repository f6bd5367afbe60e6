"""The server speaks Kubernetes' HTTP: paths, codes, lists, streams, tables; and nothing takes it down."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

import pytest
from api_objects import deployment, node, pod, service
from http_client import SERVICES_PATH, TABLE, Server

from testbed.cluster.api.discovery import documents
from testbed.cluster.api.paths import parse_target
from testbed.cluster.controlplane import start_control_plane
from testbed.cluster.resources import DEPLOYMENTS, NAMESPACES, NODES, PODS, SERVICES


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    with start_control_plane([], socket_path=tmp_path / "s", log=tmp_path / "log"):
        yield Server(tmp_path / "s")


@pytest.fixture(scope="module")
def shared_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    directory = tmp_path_factory.mktemp("api")
    with start_control_plane([], socket_path=directory / "s", log=directory / "log") as child:
        yield Server(directory / "s")
        child.check()


@pytest.mark.parametrize(
    ("path", "target"),
    [
        ("/api/v1/services", (SERVICES, "", "", "")),
        ("/api/v1/namespaces/default/services/", (SERVICES, "default", "", "")),
        ("/api/v1/namespaces/default/pods/web/status", (PODS, "default", "web", "status")),
        ("/api/v1/nodes/node1", (NODES, "", "node1", "")),
        ("/api/v1/namespaces", (NAMESPACES, "", "", "")),
        ("/api/v1/namespaces/default", (NAMESPACES, "", "default", "")),
        ("/api/v1/namespaces/default/status", (NAMESPACES, "", "default", "status")),
        ("/apis/apps/v1/namespaces/a/deployments/web/scale", (DEPLOYMENTS, "a", "web", "scale")),
    ],
)
def test_a_path_says_which_object_it_is_about(path: str, target: Any) -> None:
    assert parse_target(path) == target


@pytest.mark.parametrize(
    "path",
    [
        "/",
        "/api/v1",
        "/api/v2/services",
        "/api/v1/unicorns",
        "/api/v1/services/web",
        "/api/v1/namespaces/default/nodes/node1",
        "/api/v1/namespaces/default/services/web/scale",
        "/api/v1/namespaces/default/services/web/status/more",
        "/api/v1/namespaces//services",
        "/apis/apps/v1/services",
    ],
)
def test_other_paths_are_about_nothing(path: str) -> None:
    assert parse_target(path) is None


def test_an_object_is_created_read_replaced_patched_and_deleted(server: Server) -> None:
    status, created = server.call("POST", SERVICES_PATH, service())
    assert (status, created["kind"], created["apiVersion"]) == (201, "Service", "v1")
    assert server.call("GET", f"{SERVICES_PATH}/web") == (200, created)
    created["metadata"]["labels"] = {"a": "b"}
    status, replaced = server.call("PUT", f"{SERVICES_PATH}/web", created)
    assert (status, replaced["metadata"]["labels"]) == (200, {"a": "b"})
    assert server.call("PUT", f"{SERVICES_PATH}/web", created)[0] == 409
    status, patched = server.call(
        "PATCH",
        f"{SERVICES_PATH}/web",
        {"metadata": {"labels": {"a": None}}},
        Content_Type="application/strategic-merge-patch+json",
    )
    assert (status, patched["metadata"]["labels"]) == (200, {})
    status, gone = server.call("DELETE", f"{SERVICES_PATH}/web")
    assert (status, gone["status"], gone["details"]["name"]) == (200, "Success", "web")
    assert server.call("GET", f"{SERVICES_PATH}/web")[0] == 404


def test_yaml_bodies_are_read_too(server: Server) -> None:
    body = b"kind: ConfigMap\nmetadata: {name: a}\ndata: {since: '2024-01-01', x: y}\n"
    path = "/api/v1/namespaces/default/configmaps"
    status, created = server.call("POST", path, body, Content_Type="application/yaml")
    assert (status, created["data"]) == (201, {"since": "2024-01-01", "x": "y"})


def test_nulls_count_as_absent(server: Server) -> None:
    status, _ = server.call("POST", SERVICES_PATH, service(clusterIP="") | {"status": None})
    assert status == 201
    obj = service("b")
    obj["spec"]["externalIPs"] = None
    assert server.call("POST", SERVICES_PATH, obj)[0] == 201


def test_a_refusal_is_a_status_object(server: Server) -> None:
    status, answer = server.call("GET", f"{SERVICES_PATH}/absent")
    assert status == 404
    assert answer == {
        "kind": "Status",
        "apiVersion": "v1",
        "metadata": {},
        "status": "Failure",
        "message": 'services "absent" not found',
        "reason": "NotFound",
        "code": 404,
        "details": {"name": "absent", "kind": "services"},
    }


@pytest.mark.parametrize(
    ("method", "path", "body", "headers", "status"),
    [
        ("POST", SERVICES_PATH, b"{", {}, 400),
        ("POST", SERVICES_PATH, b"[]", {}, 400),
        ("POST", SERVICES_PATH, b"\xff", {}, 400),
        ("POST", SERVICES_PATH, b"a: [", {"Content_Type": "application/yaml"}, 400),
        ("POST", SERVICES_PATH, b"{1: 2}", {"Content_Type": "application/yaml"}, 400),
        ("POST", SERVICES_PATH, b"[" * 100_000, {}, 400),
        ("POST", SERVICES_PATH, b"[" * 900 + b"]" * 900, {}, 400),
        ("POST", SERVICES_PATH, b"{}", {"Content_Type": "application/vnd.kubernetes.protobuf"}, 415),
        ("POST", SERVICES_PATH, b" " * (4 << 20), {}, 413),
        ("POST", "/api/v1/services", b"{}", {}, 405),
        ("PUT", SERVICES_PATH, b"{}", {}, 405),
        ("GET", f"{SERVICES_PATH}?labelSelector=" + quote("a in b"), None, {}, 400),
        ("GET", f"{SERVICES_PATH}?fieldSelector=spec.x%3D1", None, {}, 400),
        ("GET", f"{SERVICES_PATH}?limit=many", None, {}, 400),
        ("GET", f"{SERVICES_PATH}?continue=%00", None, {}, 400),
        ("GET", f"{SERVICES_PATH}?watch=true&resourceVersion=999999", None, {}, 410),
        ("POST", f"{SERVICES_PATH}?dryRun=All", b"{}", {}, 400),
        ("DELETE", f"{SERVICES_PATH}/web?gracePeriodSeconds=x", None, {}, 400),
        ("DELETE", f"{SERVICES_PATH}/web?propagationPolicy=Maybe", None, {}, 400),
        ("PATCH", f"{SERVICES_PATH}/web", b"{}", {}, 404),
        ("GET", "/api/v1/unicorns", None, {}, 404),
        ("POST", "/version", b"{}", {}, 404),
        ("POST", "/load", b"{}", {}, 400),
        ("POST", "/load", b"[7]", {}, 400),
    ],
)
def test_a_bad_request_gets_its_code(
    shared_server: Server, method: str, path: str, body: bytes | None, headers: Any, status: int
) -> None:
    found, answer = shared_server.call(method, path, body, **headers)
    assert (found, answer["kind"]) == (status, "Status")


def test_a_long_list_comes_in_pages_of_one_version(server: Server) -> None:
    server.client.load([service(f"s{number}") for number in range(5)])
    query = {"limit": "2"}
    seen, versions, sizes = [], set(), []
    while True:
        _, page = server.call("GET", f"/api/v1/services?{urlencode(query)}")
        seen += [item["metadata"]["name"] for item in page["items"]]
        versions.add(page["metadata"]["resourceVersion"])
        sizes.append(page["metadata"].get("remainingItemCount", 0))
        server.client.create(service(f"later{len(sizes)}"))
        if "continue" not in page["metadata"]:
            break
        query["continue"] = page["metadata"]["continue"]
    assert seen == ["s0", "s1", "s2", "s3", "s4"]
    assert sizes == [3, 1, 0]
    assert len(versions) == 1


def test_a_watch_streams_until_its_time_is_over(server: Server) -> None:
    created = server.client.create(service())
    connection = server.connect()
    version = created["metadata"]["resourceVersion"]
    connection.request("GET", f"/api/v1/services?watch=1&resourceVersion={version}&timeoutSeconds=1")
    response = connection.getresponse()
    server.client.patch("Service", "web", {"metadata": {"labels": {"a": "b"}}})
    server.client.delete("Service", "web")
    events = [json.loads(line) for line in response.read().splitlines()]
    assert [event["type"] for event in events] == ["MODIFIED", "DELETED"]
    assert events[0]["object"]["metadata"]["labels"] == {"a": "b"}


def test_bookmarks_tell_how_far_a_quiet_watch_has_come(server: Server) -> None:
    server.client.create(node("node1"))
    path = "/api/v1/services?watch=1&resourceVersion=1&allowWatchBookmarks=true&timeoutSeconds=1"
    _, _, body = server.send("GET", path)
    [event] = [json.loads(line) for line in body.splitlines()]
    assert event["type"] == "BOOKMARK"
    assert event["object"]["metadata"] == {"resourceVersion": server.client.list("nodes").resource_version}


def test_a_watch_may_begin_with_the_list_and_a_mark_behind_it(server: Server) -> None:
    server.client.load([service("a"), service("b")])
    query = "watch=1&sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true"
    connection = server.connect()
    connection.request("GET", f"/api/v1/services?{query}")
    response = connection.getresponse()
    events = [json.loads(response.readline()) for _ in range(3)]
    assert [event["type"] for event in events] == ["ADDED", "ADDED", "BOOKMARK"]
    assert events[2]["object"]["metadata"]["annotations"] == {"k8s.io/initial-events-end": "true"}
    connection.close()


def test_a_client_that_goes_away_ends_its_watch(server: Server) -> None:
    for _ in range(50):
        connection = server.connect()
        connection.request("GET", "/api/v1/services?watch=1")
        connection.getresponse()
        connection.close()
    server.client.load([service(f"s{number}") for number in range(100)])
    assert len(server.client.list("Service")) == 100


def test_tables_have_the_columns_that_kubectl_shows(server: Server) -> None:
    server.client.load(
        [
            node("node1"),
            pod("one", "10.0.0.1", containers=[{"name": "c"}]),
            service("web", {"port": 80, "name": "http"}, {"port": 53, "name": "dns", "protocol": "UDP"}),
            service("lb", type="LoadBalancer"),
            deployment("app", replicas=0),
            {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "cm"}, "data": {"a": "b"}},
        ]
    )

    def rows(path: str) -> dict[str, list[Any]]:
        status, table = server.call("GET", path, Accept=TABLE)
        assert (status, table["kind"], table["apiVersion"]) == (200, "Table", "meta.k8s.io/v1")
        titles = [column["name"] for column in table["columnDefinitions"] if not column["priority"]]
        assert table["rows"][0]["object"]["kind"] == "PartialObjectMetadata"
        return {
            "titles": titles,
            **{row["cells"][0]: row["cells"][1 : len(titles) - 1] for row in table["rows"]},
        }

    found = rows("/api/v1/services")
    assert found["titles"] == ["Name", "Type", "Cluster-IP", "External-IP", "Port(s)", "Age"]
    assert found["web"] == ["ClusterIP", "10.96.0.1", "<none>", "80/TCP,53/UDP"]
    assert found["lb"] == ["LoadBalancer", "10.96.0.2", "10.240.0.1", "80:30000/TCP"]
    assert rows("/api/v1/pods")["one"] == ["1/1", "Running", 0]
    assert rows("/api/v1/nodes")["node1"][:2] == ["Ready", "<none>"]
    assert rows("/apis/apps/v1/deployments")["app"] == ["0/0", 0, 0]
    assert rows("/api/v1/configmaps")["cm"] == [1]
    assert rows("/api/v1/endpoints")["web"] == ["10.0.0.1:80,10.0.0.1:53"]
    [cells] = [c for n, c in rows("/apis/discovery.k8s.io/v1/endpointslices").items() if n.startswith("web-")]
    assert cells == ["IPv4", "80,53", "10.0.0.1"]


def test_a_watch_of_tables_is_for_kubectl_get_w(server: Server) -> None:
    server.client.create(service())
    _, _, body = server.send("GET", "/api/v1/services?watch=1&timeoutSeconds=1", Accept=TABLE)
    [event] = [json.loads(line) for line in body.splitlines()]
    assert (event["type"], event["object"]["kind"]) == ("ADDED", "Table")
    assert event["object"]["rows"][0]["cells"][0] == "web"


def test_scale_reads_and_sets_replicas(server: Server) -> None:
    server.client.load([node("node1"), deployment(replicas=1)])
    path = "/apis/apps/v1/namespaces/default/deployments/web/scale"
    _, scale = server.call("GET", path)
    scale["spec"]["replicas"] = 3
    status, scaled = server.call("PUT", path, scale)
    assert (status, scaled["kind"], scaled["spec"]) == (200, "Scale", {"replicas": 3})
    assert len(server.client.list("pods")) == 3
    assert server.call("PUT", path, scale)[0] == 409
    assert server.call("PUT", path, {"spec": {"replicas": "x"}})[0] == 400


def test_a_collection_is_deleted_by_selector(server: Server) -> None:
    server.client.load([service("a", labels={"x": "1"}), service("b")])
    status, gone = server.call("DELETE", f"{SERVICES_PATH}?labelSelector=x%3D1")
    assert (status, [item["metadata"]["name"] for item in gone["items"]]) == (200, ["a"])
    assert [item["metadata"]["name"] for item in server.client.list("Service")] == ["b"]


def test_a_terminating_pod_is_shown_and_goes_when_its_grace_is_over(server: Server) -> None:
    server.client.load([pod("one", "10.0.0.1", terminationGracePeriodSeconds=1)])
    version = server.client.list("pods").resource_version
    status, answer = server.call("DELETE", "/api/v1/namespaces/default/pods/one")
    assert (status, answer["kind"]) == (200, "Pod")
    assert "deletionTimestamp" in answer["metadata"]
    events = server.client.watch("Pod", resource_version=version, timeout_s=20)
    assert [next(events).type, next(events).type] == ["MODIFIED", "DELETED"]


def test_discovery_names_every_resource(server: Server) -> None:
    for path in documents():
        status, document = server.call("GET", path)
        assert status == 200, path
        assert document
    _, core = server.call("GET", "/api/v1")
    by_name = {item["name"]: item for item in core["resources"]}
    assert by_name["services"]["shortNames"] == ["svc"]
    assert "pods/status" in by_name
    _, groups = server.call("GET", "/apis")
    assert [group["name"] for group in groups["groups"]] == ["discovery.k8s.io", "apps"]


@pytest.mark.parametrize("path", ["/healthz", "/livez", "/readyz"])
def test_health_is_told(shared_server: Server, path: str) -> None:
    assert shared_server.send("GET", path)[::2] == (200, b"ok")


def test_openapi_comes_in_both_encodings(shared_server: Server) -> None:
    _, content_type, body = shared_server.send(
        "GET", "/openapi/v2", Accept="application/com.github.proto-openapi.spec.v2@v1.0+protobuf"
    )
    assert content_type.endswith("+protobuf")
    assert body.startswith(b"\x0a\x032.0")
    assert shared_server.call("GET", "/openapi/v2")[1]["swagger"] == "2.0"


def test_a_load_leaves_the_server_responsive(server: Server) -> None:
    """Other requests are answered between the steps of a load, not only after it."""
    connection = server.connect()
    body = json.dumps([service(f"s{number}") for number in range(6000)]).encode()
    connection.request("POST", "/load", body, {"Content-Type": "application/json"})
    counts: list[int] = []
    while not counts or counts[-1] < 6000:
        counts.append(len(server.client.list("Service")))
    assert connection.getresponse().status == 201
    assert any(0 < count < 6000 for count in counts)
