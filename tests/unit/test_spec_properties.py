"""Whatever people write is a topology that holds together, or is refused in our own words."""

from __future__ import annotations

import copy
from itertools import pairwise
from typing import Any

import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from testbed.errors import SpecError
from testbed.spec import Topology, load_topology, objects, place

GOOD: dict[str, Any] = {
    "name": "lab",
    "nodes": 2,
    "pods_per_node": 3,
    "links": {"pod": {"rate": "1gbit", "delay": "1ms"}},
    "deployments": [{"name": "shop", "replicas": 2, "ports": [{"name": "http", "port": 8080}]}],
    "services": [
        {"name": "web", "port": 80, "endpoints": 3},
        {"name": "shop", "selector": {"app": "shop"}, "ports": [{"port": 80, "target_port": "http"}]},
        {"name": "out", "type": "NodePort", "endpoints": 1, "ports": [{"port": 80, "node_port": 30080}]},
    ],
    "proxy": {"scheduler": "lc", "arguments": ["--masquerade-all"]},
    "sweep": {"modes": ["iptables", "ipvs"], "services": [1, 100], "budget": "60s"},
}
JUNK = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-1, 100_000),
    st.floats(),
    st.sampled_from(["", "web", "10ms", "ipvs", "None", "x" * 300, "a/b", "fd00::1", "Ä", "🙂"]),
    st.just([]),
    st.just({}),
    st.just([[1], {"a": 2}]),
    st.just({"port": {"port": []}}),
)


def places(data: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    items = data.items() if isinstance(data, dict) else enumerate(data) if isinstance(data, list) else ()
    return [path, *(found for step, inner in items for found in places(inner, (*path, step)))]


def put(data: Any, path: tuple[Any, ...], value: Any) -> None:
    for step in path[:-1]:
        data = data[step]
    data[path[-1]] = value


@settings(deadline=None, max_examples=300)
@given(st.data())
def test_junk_anywhere_is_read_or_refused_in_our_own_words(tmp_path_factory, data: st.DataObject) -> None:
    wrong = copy.deepcopy(GOOD)
    for path in data.draw(st.lists(st.sampled_from(places(GOOD)[1:]), min_size=1, max_size=3)):
        try:
            put(wrong, path, data.draw(JUNK))
        except (KeyError, IndexError, TypeError):
            continue  # An earlier junk value has taken this place away.
    file = tmp_path_factory.getbasetemp() / "junk.yaml"
    file.write_text(yaml.safe_dump(wrong, allow_unicode=True), encoding="utf-8")
    refused: SpecError | None = None
    try:
        topology = load_topology(file)
    except SpecError as error:
        refused = error
    if refused is None:
        assert Topology.model_validate_json(topology.model_dump_json()) == topology
        return
    assert refused.problems
    for problem in refused.problems:
        assert problem.file == str(file)
        assert problem.line
        assert "Input should" not in problem.message
        assert "cannot be used here" not in problem.message


@st.composite
def topologies(draw: st.DrawFn) -> dict[str, Any]:
    nodes, pods = draw(st.integers(1, 5)), draw(st.integers(1, 6))
    replicas = draw(st.lists(st.integers(0, 4), max_size=3))
    deployments = [
        {"name": f"app-{index}", "replicas": count, "ports": [8000 + index]}
        for index, count in enumerate(replicas)
    ]
    counted = st.fixed_dictionaries({"endpoints": st.integers(0, nodes * pods)})
    chosen = [counted] + [st.just({"selector": {"app": deployment["name"]}}) for deployment in deployments]
    services = [
        {
            "name": f"svc-{index}",
            "port": draw(st.integers(1, 65535)),
            "type": draw(st.sampled_from(["ClusterIP", "NodePort", "LoadBalancer"])),
            "session_affinity": draw(st.sampled_from(["None", "ClientIP"])),
            **draw(st.one_of(chosen)),
        }
        for index in range(draw(st.integers(0, 5)))
    ]
    return {"nodes": nodes, "pods_per_node": pods, "deployments": deployments, "services": services}


@settings(deadline=None, max_examples=100)
@given(topologies())
def test_right_topologies_come_up_and_come_back(data: dict[str, Any]) -> None:
    topology = Topology(**data)
    assert Topology.model_validate_json(topology.model_dump_json()) == topology
    pods = place(topology)
    assert len({pod.name for pod in pods}) == len(pods)
    assert {pod.node for pod in pods} <= set(topology.node_names)
    for service, made in zip(topology.services, objects.service_objects(topology), strict=True):
        selector = made["spec"]["selector"]
        chosen = [pod for pod in pods if selector.items() <= pod.labels.items()]
        assert service.endpoints is None or len(chosen) == service.endpoints
        for port in made["spec"]["ports"]:
            assert all((port["targetPort"], port["protocol"]) in pod.listens for pod in chosen)


@settings(deadline=None, max_examples=100)
@given(st.lists(st.integers(1, 10_000), min_size=1, max_size=5, unique=True), st.data())
def test_cells_are_all_combinations_and_services_never_shrink(services: list[int], data) -> None:
    endpoints = data.draw(st.lists(st.integers(1, 6), min_size=1, max_size=3, unique=True))
    topology = Topology(
        services=[{"name": "web", "port": 80, "endpoints": 1}],
        sweep={"services": services, "endpoints": endpoints},
    )
    assert topology.sweep is not None
    cells = list(topology.sweep.cells())
    assert len(set(cells)) == len(cells) == len(services) * len(endpoints) * 2
    assert all(one.services <= other.services for one, other in pairwise(cells))
