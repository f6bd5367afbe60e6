"""How fast the control plane takes, gives and spreads objects: 10,000 Services of three endpoints each.

Run with `pytest tests/benchmarks/test_control_plane.py --benchmark-enable`.
"""

from __future__ import annotations

import http.client
import json
import socket
import threading
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from testbed.cluster.apiclient import ApiClient
from testbed.cluster.controlplane import start_control_plane

SERVICES = 10_000
WATCHERS = 5


def pods(number: int = 3) -> list[dict[str, Any]]:
    return [
        {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": f"pod{place}", "labels": {"app": "web"}},
            "spec": {"nodeName": "node1"},
            "status": {
                "phase": "Running",
                "podIP": f"10.244.0.{place + 2}",
                "conditions": [{"type": "Ready", "status": "True"}],
            },
        }
        for place in range(number)
    ]


def services(number: int) -> list[dict[str, Any]]:
    return [
        {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {"name": f"web-{place:05}"},
            "spec": {"selector": {"app": "web"}, "ports": [{"name": "http", "port": 80, "targetPort": 8080}]},
        }
        for place in range(number)
    ]


class Plane:
    """A control plane with three pods, and ways to time it from outside."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.api = ApiClient(path)
        self.api.load(pods())

    def connect(self) -> http.client.HTTPConnection:
        connection = http.client.HTTPConnection("localhost")
        connection.sock = socket.socket(socket.AF_UNIX)
        connection.sock.connect(str(self.path))
        return connection

    def read(self, path: str) -> int:
        """Read an answer and return its length."""
        connection = self.connect()
        connection.request("GET", path)
        length = len(connection.getresponse().read())
        connection.close()
        return length


@pytest.fixture
def planes(tmp_path: Path) -> Iterator[Iterator[Plane]]:
    """Fresh control planes, one after another."""
    children = []

    def fresh() -> Iterator[Plane]:
        for number in count():
            path = tmp_path / str(number)
            children.append(start_control_plane([], socket_path=path, log=tmp_path / "log"))
            yield Plane(path)

    yield fresh()
    for child in children:
        child.close()


def test_loading_services_with_their_slices(benchmark: BenchmarkFixture, planes: Iterator[Plane]) -> None:
    body = json.dumps(services(SERVICES)).encode()

    def load(plane: Plane) -> None:
        connection = plane.connect()
        connection.request("POST", "/load", body, {"Content-Type": "application/json"})
        assert connection.getresponse().status == 201

    benchmark.pedantic(load, setup=lambda: ((next(planes),), {}), rounds=5)


def test_listing_services(benchmark: BenchmarkFixture, planes: Iterator[Plane]) -> None:
    plane = next(planes)
    plane.api.load(services(SERVICES))
    length = benchmark(plane.read, "/api/v1/services")
    assert length > SERVICES * 300


def test_one_pod_change_behind_all_services(benchmark: BenchmarkFixture, planes: Iterator[Plane]) -> None:
    plane = next(planes)
    plane.api.load(services(SERVICES))
    ready = count()

    def change() -> None:
        status = {"conditions": [{"type": "Ready", "status": str(next(ready) % 2 == 1)}]}
        plane.api.patch("Pod", "pod0", {"status": status}, subresource="status")

    benchmark.pedantic(change, rounds=5)


def test_one_change_beside_all_services(benchmark: BenchmarkFixture, planes: Iterator[Plane]) -> None:
    plane = next(planes)
    plane.api.load(services(SERVICES))
    label = count()
    benchmark(
        lambda: plane.api.patch("Service", "web-05000", {"metadata": {"labels": {"n": str(next(label))}}})
    )


def test_spreading_a_load_to_watchers(benchmark: BenchmarkFixture, planes: Iterator[Plane]) -> None:
    """From the request to the last slice's event at the last of five watchers."""

    def watch(plane: Plane, started: threading.Barrier) -> None:
        connection = plane.connect()
        connection.request("GET", "/apis/discovery.k8s.io/v1/endpointslices?watch=1")
        response = connection.getresponse()
        started.wait()
        lines = 0
        while lines < SERVICES:
            lines += response.read1(1 << 20).count(b"\n")
        connection.close()

    def prepare() -> tuple[tuple[Plane, list[threading.Thread]], dict[str, Any]]:
        plane = next(planes)
        started = threading.Barrier(WATCHERS + 1)
        watchers = [threading.Thread(target=watch, args=(plane, started)) for _ in range(WATCHERS)]
        for watcher in watchers:
            watcher.start()
        started.wait()
        return (plane, watchers), {}

    body = services(SERVICES)

    def load(plane: Plane, watchers: list[threading.Thread]) -> None:
        plane.api.load(body)
        for watcher in watchers:
            watcher.join()

    benchmark.pedantic(load, setup=prepare, rounds=3)
