"""The three kinds of patch, each by its own rules."""

from __future__ import annotations

from typing import Any

import pytest

from testbed.cluster.api.patches import JSON, MERGE, STRATEGIC, apply_patch
from testbed.errors import ApiError

SERVICE: dict[str, Any] = {
    "metadata": {"name": "web", "labels": {"app": "web", "old": "1"}},
    "spec": {
        "ports": [
            {"name": "dns", "port": 53, "protocol": "TCP"},
            {"name": "dns-udp", "port": 53, "protocol": "UDP"},
        ],
        "externalIPs": ["192.0.2.1"],
    },
}


def patched(form: str, patch: Any, obj: dict[str, Any] = SERVICE) -> dict[str, Any]:
    before = repr(obj)
    result = apply_patch(form, obj, patch)
    assert repr(obj) == before, "the original was changed"
    return result


def test_a_merge_patch_merges_objects_deletes_by_null_and_replaces_lists() -> None:
    result = patched(MERGE, {"metadata": {"labels": {"old": None, "new": "2"}}, "spec": {"ports": []}})
    assert result["metadata"]["labels"] == {"app": "web", "new": "2"}
    assert result["spec"] == {"ports": [], "externalIPs": ["192.0.2.1"]}


def test_strategic_merge_tells_ports_apart_by_number_and_protocol() -> None:
    patch = {"spec": {"ports": [{"port": 53, "protocol": "UDP", "targetPort": 5353}]}}
    assert patched(STRATEGIC, patch)["spec"]["ports"] == [
        {"name": "dns", "port": 53, "protocol": "TCP"},
        {"name": "dns-udp", "port": 53, "protocol": "UDP", "targetPort": 5353},
    ]


def test_strategic_merge_adds_and_deletes_items_by_their_key() -> None:
    patch = {
        "spec": {"ports": [{"port": 53, "protocol": "UDP", "$patch": "delete"}, {"port": 80, "name": "h"}]}
    }
    ports = patched(STRATEGIC, patch)["spec"]["ports"]
    assert [(port["port"], port.get("protocol")) for port in ports] == [(53, "TCP"), (80, None)]


def test_strategic_merge_puts_items_into_the_order_asked_for() -> None:
    patch = {
        "spec": {
            "$setElementOrder/ports": [{"port": 80}, {"port": 53}],
            "ports": [{"port": 80, "name": "h"}],
        }
    }
    obj = {"spec": {"ports": [{"port": 53}]}}
    assert [port["port"] for port in patched(STRATEGIC, patch, obj)["spec"]["ports"]] == [80, 53]


def test_strategic_merge_replaces_lists_of_plain_values() -> None:
    assert patched(STRATEGIC, {"spec": {"externalIPs": ["192.0.2.9"]}})["spec"]["externalIPs"] == [
        "192.0.2.9"
    ]


def test_strategic_merge_follows_its_directives() -> None:
    containers = [{"name": "a", "image": "1"}, {"name": "b", "image": "1"}]
    pod = {"metadata": {"finalizers": ["x", "y"]}, "spec": {"containers": containers, "strategy": {"a": 1}}}
    patch = {
        "metadata": {"$deleteFromPrimitiveList/finalizers": ["x"], "finalizers": ["z"]},
        "spec": {
            "containers": [{"name": "b", "image": "2"}],
            "strategy": {"$patch": "replace", "b": 2},
        },
    }
    result = patched(STRATEGIC, patch, pod)
    assert result["metadata"]["finalizers"] == ["y", "z"]
    assert result["spec"]["containers"] == [{"name": "a", "image": "1"}, {"name": "b", "image": "2"}]
    assert result["spec"]["strategy"] == {"b": 2}


def test_strategic_merge_replaces_a_whole_list_on_demand() -> None:
    patch = {"spec": {"ports": [{"$patch": "replace"}, {"port": 1}]}}
    assert patched(STRATEGIC, patch)["spec"]["ports"] == [{"port": 1}]


def test_strategic_merge_keeps_only_the_keys_asked_for() -> None:
    patch = {"strategy": {"$retainKeys": ["type"], "type": "Recreate"}}
    obj = {"strategy": {"type": "RollingUpdate", "rollingUpdate": {}}}
    assert patched(STRATEGIC, patch, obj) == {"strategy": {"type": "Recreate"}}


def test_addresses_merge_by_type_in_a_node_and_are_replaced_in_an_endpoint() -> None:
    node = {"addresses": [{"type": "Hostname", "address": "n"}]}
    patch = {"addresses": [{"type": "InternalIP", "address": "192.0.2.1"}]}
    assert len(patched(STRATEGIC, patch, node)["addresses"]) == 2
    subset = {"addresses": [{"ip": "192.0.2.1"}]}
    assert patched(STRATEGIC, {"addresses": [{"ip": "192.0.2.2"}]}, subset) == {
        "addresses": [{"ip": "192.0.2.2"}]
    }


def test_a_json_patch_does_its_operations_in_order() -> None:
    patch = [
        {"op": "test", "path": "/metadata/labels/app", "value": "web"},
        {"op": "add", "path": "/metadata/labels/a~1b", "value": "x"},
        {"op": "remove", "path": "/metadata/labels/old"},
        {"op": "replace", "path": "/spec/ports/0/port", "value": 54},
        {"op": "add", "path": "/spec/ports/-", "value": {"port": 1}},
        {"op": "copy", "from": "/spec/ports/2", "path": "/spec/ports/0"},
        {"op": "move", "from": "/spec/externalIPs", "path": "/spec/ips"},
    ]
    result = patched(JSON, patch)
    assert result["metadata"]["labels"] == {"app": "web", "a/b": "x"}
    assert [port["port"] for port in result["spec"]["ports"]] == [1, 54, 53, 1]
    assert result["spec"]["ips"] == ["192.0.2.1"]


@pytest.mark.parametrize(
    "patch",
    [
        {},
        [1],
        [{"op": "add"}],
        [{"op": "fly", "path": "/a"}],
        [{"op": "remove", "path": "/absent"}],
        [{"op": "test", "path": "/metadata/name", "value": "other"}],
        [{"op": "add", "path": "/spec/ports/9", "value": 1}],
        [{"op": "add", "path": "spec", "value": 1}],
        [{"op": "add", "path": "", "value": 1}],
        [{"op": "remove", "path": "/metadata/name/x"}],
    ],
)
def test_a_json_patch_that_cannot_be_applied_is_a_bad_request(patch: Any) -> None:
    with pytest.raises(ApiError) as caught:
        patched(JSON, patch)
    assert caught.value.code == 400


@pytest.mark.parametrize("form", [MERGE, STRATEGIC])
def test_a_patch_that_is_no_object_is_a_bad_request(form: str) -> None:
    with pytest.raises(ApiError) as caught:
        patched(form, [])
    assert caught.value.code == 400


def test_an_item_without_its_key_is_a_bad_request() -> None:
    with pytest.raises(ApiError, match="does not contain declared merge key: port"):
        patched(STRATEGIC, {"spec": {"ports": [{"name": "x"}]}})


def test_an_unknown_kind_of_patch_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ApiError, match="merge-patch") as caught:
        patched("application/apply-patch+yaml", {})
    assert caught.value.code == 415
