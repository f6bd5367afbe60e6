"""The control plane answers inside every node's namespace, and only on loopback."""

from __future__ import annotations

import http.client
import json
from pathlib import Path

import pytest

from testbed.cluster.apiclient import ApiClient
from testbed.cluster.controlplane import PORT, start_control_plane
from testbed.net.namespace import Namespace


def node_names() -> list[str]:
    connection = http.client.HTTPConnection("127.0.0.1", PORT, timeout=10)
    connection.request("GET", "/api/v1/nodes")
    names = [item["metadata"]["name"] for item in json.loads(connection.getresponse().read())["items"]]
    connection.close()
    return names


def test_every_given_namespace_is_served_and_no_other(tmp_path: Path) -> None:
    with Namespace.create("a") as a, Namespace.create("b") as b, Namespace.create("c") as c:
        with (
            start_control_plane([a, b], socket_path=tmp_path / "s", log=tmp_path / "log"),
            ApiClient(tmp_path / "s") as api,
        ):
            api.create({"kind": "Node", "metadata": {"name": "node1"}})
            assert a.run(node_names) == b.run(node_names) == ["node1"]
            with pytest.raises(ConnectionRefusedError):
                c.run(node_names)
        with pytest.raises(ConnectionRefusedError):
            a.run(node_names)


def test_an_address_in_use_is_an_error_before_anything_starts(tmp_path: Path) -> None:
    with (
        Namespace.create("a") as a,
        start_control_plane([a], socket_path=tmp_path / "s", log=tmp_path / "log"),
        pytest.raises(OSError, match="Address already in use"),
    ):
        start_control_plane([a], socket_path=tmp_path / "t", log=tmp_path / "log2")
