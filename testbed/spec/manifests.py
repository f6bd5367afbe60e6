"""Kubernetes manifests as topologies: workloads to pods, Services to Services, the rest passed over.

Objects keep their manifest, so that the API shows what was written. Mistakes are told in the manifest's own
terms: `Service/web.spec.ports[0].targetPort`, with the line.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pydantic import ValidationError

from testbed.errors import Problem, SpecError
from testbed.spec.mistakes import Mistake, Path, show, show_path
from testbed.spec.topology import Topology
from testbed.spec.yaml import Document

WORKLOADS = ("Deployment", "StatefulSet", "DaemonSet", "Pod")
DEFAULT_NODES = 2
_SERVICE_KEYS = {
    "type": "type",
    "clusterIP": "cluster_ip",
    "selector": "selector",
    "sessionAffinity": "session_affinity",
    "internalTrafficPolicy": "internal_traffic_policy",
    "externalTrafficPolicy": "external_traffic_policy",
    "externalIPs": "external_ips",
    "loadBalancerSourceRanges": "load_balancer_source_ranges",
    "healthCheckNodePort": "health_check_node_port",
    "externalName": "external_name",
    "publishNotReadyAddresses": "publish_not_ready_addresses",
    "ipFamilies": "ip_families",
    "ipFamilyPolicy": "ip_family_policy",
}
_PORT_KEYS = {
    "name": "name",
    "port": "port",
    "targetPort": "target_port",
    "protocol": "protocol",
    "nodePort": "node_port",
    "appProtocol": "app_protocol",
}
_METADATA_KEYS = ("name", "namespace", "labels", "annotations")


@dataclass(frozen=True)
class _Source:
    """One object of a manifest and where it stands."""

    data: dict[str, Any]
    path: Path
    document: Document

    @property
    def title(self) -> str:
        metadata = self.data.get("metadata")
        name = metadata.get("name") if isinstance(metadata, dict) else None
        return f"{self.data['kind']}/{name or '?'}"

    def line(self, path: Path) -> int | None:
        """The line of the nearest known value above `path` inside this object."""
        full = self.path + path
        while full and full not in self.document.marks:
            full = full[:-1]
        mark = self.document.marks.get(full)
        return mark[0] if mark else None


@dataclass
class _Item:
    """An element of the topology made from an object; `origin` maps its paths to the object's."""

    source: _Source
    data: dict[str, Any] = field(default_factory=dict)
    origin: dict[Path, Path] = field(default_factory=dict)

    def take(self, value: Any, path: Path, origin: Path) -> None:
        """Set `data[path]`, unless the manifest says nothing there."""
        if value is not None:
            self.data[str(path[0])] = value
        self.origin[path] = origin

    def original(self, path: Path) -> Path:
        """The object's path for a path of the topology's element."""
        for length in range(len(path), 0, -1):
            if path[:length] in self.origin:
                return self.origin[path[:length]] + path[length:]
        return path or ("metadata",)


def is_manifest(data: object) -> bool:
    """Whether a document is a Kubernetes object."""
    return isinstance(data, dict) and ("kind" in data or "apiVersion" in data)


def topology_of(documents: Sequence[Document], file: str, settings: Mapping[str, Any]) -> Topology:
    """The topology that a manifest file describes; `settings` are its other top-level keys.

    Raises:
        SpecError: objects that Kubernetes would refuse too, or that cannot be brought up.
    """
    workloads: list[_Item] = []
    services: list[_Item] = []
    passed_over: list[str] = []
    for source in _objects(documents, file):
        kind = source.data["kind"]
        if kind in WORKLOADS:
            workloads.append(_workload(source))
        elif kind == "Service":
            services.append(_service(source))
            if source.data.get("spec", {}).get("selector") is None and "endpoints" in services[-1].data:
                passed_over.append(
                    f"{_place(source, file)} {source.title} has no selector: it gets no endpoints"
                )
        else:
            passed_over.append(f"{_place(source, file)} {source.title} passed over")
    items = {"deployments": workloads, "services": services}
    data = {
        "nodes": DEFAULT_NODES,
        "pods_per_node": 0,
        **settings,
        **{key: [item.data for item in parts] for key, parts in items.items()},
        "passed_over": passed_over,
    }
    if not workloads and not services:
        raise SpecError([Problem("no Service and no workload in this manifest", file)])
    try:
        return Topology.model_validate(data)
    except ValidationError as error:
        found = [_problem(mistake, items, file) for mistake in Topology.explain(data, error)]
        raise SpecError(sorted(dict.fromkeys(found), key=lambda problem: problem.line or 0)) from None


def _place(source: _Source, file: str) -> str:
    return f"{file}:{source.line(())}"


def _objects(documents: Sequence[Document], file: str) -> list[_Source]:
    """All objects, those inside Lists included; what is no object is a mistake."""
    found: list[_Source] = []
    wrong: list[Problem] = []
    for document in documents:
        for path, data in _unfolded(document.data, ()):
            source = _Source(data, path, document)
            if not isinstance(data, dict) or not isinstance(data.get("kind"), str):
                where = source.line(())
                text = (
                    "an object without a kind" if isinstance(data, dict) else f"{show(data)} is not an object"
                )
                wrong.append(Problem(text, file, where, show_path(path), "add kind: Service, for one"))
                continue
            wrong += _shape_problems(source, file)
            found.append(source)
    if wrong:
        raise SpecError(wrong)
    return found


def _unfolded(data: Any, path: Path) -> Iterator[tuple[Path, Any]]:
    kind = data.get("kind") if isinstance(data, dict) else None
    if isinstance(kind, str) and kind.endswith("List") and isinstance(data.get("items"), list):
        for index, item in enumerate(data["items"]):
            if kind != "List" and isinstance(item, dict):
                item = {"kind": kind.removesuffix("List"), **item}
            yield from _unfolded(item, (*path, "items", index))
    else:
        yield path, data


_SHAPES: dict[str, dict[Path, type]] = {
    "Service": {("metadata",): dict, ("spec",): dict, ("spec", "ports"): list},
    "Pod": {("metadata",): dict, ("spec",): dict, ("spec", "containers"): list},
    **{
        kind: {
            ("metadata",): dict,
            ("spec",): dict,
            ("spec", "template"): dict,
            ("spec", "template", "metadata"): dict,
            ("spec", "template", "spec"): dict,
            ("spec", "template", "spec", "containers"): list,
        }
        for kind in ("Deployment", "StatefulSet", "DaemonSet")
    },
}
_MAY_BE_ABSENT = (("spec", "ports"), ("spec", "template", "metadata"))


def _shape_problems(source: _Source, file: str) -> Iterator[Problem]:
    """Whether the parts that are read are there at all; what is in them the models check."""
    for path, wanted in _SHAPES.get(source.data["kind"], {}).items():
        parent = _at(source.data, path[:-1])
        if not isinstance(parent, dict):
            continue
        value = parent.get(path[-1])
        if isinstance(value, wanted) or (value is None and path in _MAY_BE_ABSENT):
            continue
        noun = "a mapping" if wanted is dict else "a list"
        text = "this key is missing" if value is None else f"{show(value)} is not {noun}"
        remedy = f"{noun} is wanted" if value is None else ""
        yield Problem(text, file, source.line(path), f"{source.title}.{show_path(path)}", remedy)


def _at(data: Any, path: Path) -> Any:
    for step in path:
        data = data.get(step) if isinstance(data, dict) else None
    return data


def _from_metadata(item: _Item, metadata: Mapping[str, Any]) -> None:
    for key in _METADATA_KEYS:
        item.take(metadata.get(key), (key,), ("metadata", key))


def _service(source: _Source) -> _Item:
    spec = source.data["spec"]
    item = _Item(source, {"manifest": source.data})
    _from_metadata(item, source.data["metadata"])
    for theirs, ours in _SERVICE_KEYS.items():
        item.take(spec.get(theirs), (ours,), ("spec", theirs))
    timeout = _at(spec, ("sessionAffinityConfig", "clientIP", "timeoutSeconds"))
    if spec.get("sessionAffinity") == "ClientIP":
        path = ("spec", "sessionAffinityConfig", "clientIP", "timeoutSeconds")
        item.take(timeout, ("session_affinity_timeout_s",), path)
    ports = [
        {ours: port[theirs] for theirs, ours in _PORT_KEYS.items() if port.get(theirs) is not None}
        if isinstance(port, dict)
        else port
        for port in spec.get("ports") or ()
    ]
    item.take(ports, ("ports",), ("spec", "ports"))
    for index in range(len(ports)):
        for theirs, ours in _PORT_KEYS.items():
            item.origin["ports", index, ours] = ("spec", "ports", index, theirs)
    if not item.data.get("selector") and item.data.get("type") != "ExternalName":
        item.data.pop("selector", None)
        item.data["endpoints"] = 0
    if item.data.get("type") == "ExternalName":
        item.data.pop("selector", None)
    return item


def _workload(source: _Source) -> _Item:
    kind = source.data["kind"]
    item = _Item(source, {"manifest": source.data, "kind": kind})
    _from_metadata(item, source.data["metadata"])
    template: Path = () if kind == "Pod" else ("spec", "template")
    for key in ("labels", "annotations"):
        item.data.pop(key, None)
        item.take(_at(source.data, (*template, "metadata", key)), (key,), (*template, "metadata", key))
    if kind in ("Deployment", "StatefulSet"):
        item.take(source.data["spec"].get("replicas"), ("replicas",), ("spec", "replicas"))
    ports: list[Any] = []
    containers: Path = (*template, "spec", "containers")
    for number, container in enumerate(_at(source.data, containers)):
        for index, port in enumerate((container.get("ports") or ()) if isinstance(container, dict) else ()):
            path = (*containers, number, "ports", index)
            item.origin["ports", len(ports)] = path
            item.origin["ports", len(ports), "port"] = (*path, "containerPort")
            ports.append(_container_port(port))
    item.take(ports, ("ports",), containers)
    return item


def _container_port(port: Any) -> Any:
    if not isinstance(port, dict):
        return port
    names = {"containerPort": "port", "name": "name", "protocol": "protocol"}
    return {ours: port[theirs] for theirs, ours in names.items() if port.get(theirs) is not None}


def _problem(mistake: Mistake, items: Mapping[str, Sequence[_Item]], file: str) -> Problem:
    """A mistake in the topology, told as one in the manifest."""
    path = mistake.path
    if len(path) > 1 and path[0] in items and isinstance(path[1], int):
        item = items[str(path[0])][path[1]]
        original = item.original(path[2:])
        where = f"{item.source.title}.{show_path(original)}"
        return Problem(mistake.message, file, item.source.line(original), where, mistake.remedy)
    return Problem(mistake.message, file, None, show_path(path), mistake.remedy)
