"""Whatever clients send, the API server answers with a Status and lives on."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

import pytest
from api_objects import Object, deployment, node, pod, service
from http_client import SERVICES_PATH, TABLE, Server
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from testbed.cluster.controlplane import start_control_plane


@pytest.fixture(scope="module")
def shared_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    directory = tmp_path_factory.mktemp("api")
    with start_control_plane([], socket_path=directory / "s", log=directory / "log") as child:
        yield Server(directory / "s")
        child.check()


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=12,
)
KINDS = {
    "/api/v1/namespaces/default/services": service("base"),
    "/api/v1/namespaces/default/pods": pod(
        "base", "10.0.0.1", containers=[{"name": "c", "ports": [{"containerPort": 1}]}]
    ),
    "/apis/apps/v1/namespaces/default/deployments": deployment("base", replicas=1),
    "/api/v1/nodes": node("base"),
    "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices": {
        "addressType": "IPv4",
        "metadata": {"name": "base"},
        "endpoints": [{"addresses": ["10.0.0.1"], "conditions": {"ready": True}}],
        "ports": [{"port": 1}],
    },
    "/api/v1/namespaces/default/endpoints": {
        "metadata": {"name": "base"},
        "subsets": [{"addresses": [{"ip": "10.0.0.1"}], "ports": [{"port": 1}]}],
    },
}


def paths_in(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    items: list[tuple[Any, Any]] = []
    if isinstance(value, dict):
        items = list(value.items())
    elif isinstance(value, list):
        items = list(enumerate(value))
    return [path, *(found for key, item in items for found in paths_in(item, (*path, key)))]


@st.composite
def spoilt(draw: st.DrawFn) -> tuple[str, Object]:
    """An object that would be fine but for one field, which holds anything."""
    path = draw(st.sampled_from(sorted(KINDS)))
    obj = json.loads(json.dumps(KINDS[path]))
    place = draw(st.sampled_from(paths_in(obj)))
    value = draw(JSON_VALUES)
    if not place:
        return path, value
    inner = obj
    for key in place[:-1]:
        inner = inner[key]
    inner[place[-1]] = value
    if isinstance(obj.get("metadata"), dict):
        obj["metadata"].setdefault("generateName", "x-")
        if obj["metadata"].get("name") == "base":
            del obj["metadata"]["name"]
    return path, obj


SLOW = settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def answers(server: Server, method: str, path: str, body: bytes | None, content_type: str) -> int:
    status, _, _ = server.send(method, path, body, Content_Type=content_type)
    assert status != 500
    return status


@SLOW
@given(spoilt())
def test_no_spoilt_object_breaks_the_server(shared_server: Server, request_of: tuple[str, Object]) -> None:
    path, obj = request_of
    try:
        body = json.dumps(obj).encode()
    except UnicodeEncodeError:
        return
    status = answers(shared_server, "POST", path, body, "application/json")
    assert status in (201, 400, 409, 422, 404)
    if status == 201:  # then it can be shown, too
        assert shared_server.send("GET", path, Accept=TABLE)[0] == 200
        shared_server.send("DELETE", path)


@SLOW
@given(
    st.sampled_from(["GET", "POST", "PUT", "PATCH", "DELETE"]),
    st.text(st.characters(min_codepoint=33, max_codepoint=0x24F), max_size=30),
    st.binary(max_size=40),
    st.sampled_from(["application/json", "application/yaml", "application/json-patch+json", "x"]),
    st.sampled_from(["/", "/api/v1/", "/apis/", f"{SERVICES_PATH}/", f"{SERVICES_PATH}?", "/load?"]),
)
def test_no_garbage_breaks_the_server(
    shared_server: Server, method: str, tail: str, body: bytes, content_type: str, head: str
) -> None:
    answers(shared_server, method, head + quote(tail, safe="/?&=%"), body, content_type)


@SLOW
@given(
    st.sampled_from(
        [
            "application/json-patch+json",
            "application/merge-patch+json",
            "application/strategic-merge-patch+json",
        ]
    ),
    JSON_VALUES
    | st.lists(
        st.fixed_dictionaries(
            {
                "op": st.sampled_from(["add", "remove", "replace", "move", "copy", "test"]),
                "path": st.sampled_from(
                    ["", "/spec", "/spec/ports/0", "/spec/ports/-", "/metadata/name", "/x/y"]
                ),
                "from": st.sampled_from(["", "/spec", "/spec/ports", "/metadata"]),
                "value": JSON_VALUES,
            }
        ),
        max_size=3,
    )
    | st.fixed_dictionaries({"spec": JSON_VALUES, "metadata": JSON_VALUES})
    | st.fixed_dictionaries(
        {"spec": st.fixed_dictionaries({"ports": JSON_VALUES, "$setElementOrder/ports": JSON_VALUES})}
    ),
)
def test_no_patch_breaks_the_server(shared_server: Server, form: str, patch: Any) -> None:
    shared_server.send("POST", SERVICES_PATH, service("patched"))
    try:
        body = json.dumps(patch).encode()
    except UnicodeEncodeError:
        return
    answers(shared_server, "PATCH", f"{SERVICES_PATH}/patched", body, form)
