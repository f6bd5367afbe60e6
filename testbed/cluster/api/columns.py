"""The columns of each kind in kubectl's output, as data: a title, and how to read the cell."""

from __future__ import annotations

import time
from calendar import timegm
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

from testbed.cluster.resources import (
    CONFIGMAPS,
    DAEMONSETS,
    DEPLOYMENTS,
    ENDPOINTS,
    ENDPOINTSLICES,
    NAMESPACES,
    NODES,
    PODS,
    SERVICEACCOUNTS,
    SERVICES,
    Resource,
)

Object = dict[str, Any]
Cell = str | int
NONE = "<none>"


class Column(NamedTuple):
    """One column; `wide` ones show with `-o wide` only."""

    title: str
    cell: Callable[[Object], Cell]
    type: str = "string"
    wide: bool = False

    @property
    def definition(self) -> Object:
        """The column as a Table announces it."""
        return {
            "name": self.title,
            "type": self.type,
            "format": "name" if self.title == "Name" else "",
            "description": "",
            "priority": int(self.wide),
        }


def age(stamp: str, now_s: float | None = None) -> str:
    """Return the time since an RFC 3339 stamp as kubectl writes it: 45s, 3m10s, 5h, 12d."""
    try:
        then_s = timegm(time.strptime(stamp[:19], "%Y-%m-%dT%H:%M:%S"))
    except ValueError:
        return "<unknown>"
    seconds = max(0, int((time.time() if now_s is None else now_s) - then_s))
    minutes, hours, days = seconds // 60, seconds // 3600, seconds // 86_400
    if seconds < 120:
        return f"{seconds}s"
    if minutes < 10:
        return f"{minutes}m{seconds % 60}s" if seconds % 60 else f"{minutes}m"
    if hours < 3:
        return f"{minutes}m"
    if hours < 8:
        return f"{hours}h{minutes % 60}m" if minutes % 60 else f"{hours}h"
    if hours < 48:
        return f"{hours}h"
    if days < 8:
        return f"{days}d{hours % 24}h" if hours % 24 else f"{days}d"
    return f"{days}d"


def _spec(obj: Object) -> Mapping[str, Any]:
    return obj.get("spec") or {}


def _status(obj: Object) -> Mapping[str, Any]:
    return obj.get("status") or {}


def _joined(items: Iterable[object], most: int | None = None) -> str:
    texts = [str(item) for item in items]
    if most is not None and len(texts) > most:
        return f"{','.join(texts[:most])} + {len(texts) - most} more..."
    return ",".join(texts) or NONE


def _labels(labels: Mapping[str, str]) -> str:
    return _joined(f"{key}={value}" for key, value in labels.items())


def _condition(obj: Object, kind: str) -> str:
    conditions = _status(obj).get("conditions", ())
    return next((item.get("status", "") for item in conditions if item.get("type") == kind), "Unknown")


def _node_status(obj: Object) -> str:
    ready = {"True": "Ready", "False": "NotReady"}.get(_condition(obj, "Ready"), "Unknown")
    return f"{ready},SchedulingDisabled" if _spec(obj).get("unschedulable") else ready


def _node_roles(obj: Object) -> str:
    prefix = "node-role.kubernetes.io/"
    labels = obj["metadata"].get("labels", {})
    return _joined(key.removeprefix(prefix) for key in labels if key.startswith(prefix))


def _node_info(field: str) -> Callable[[Object], Cell]:
    return lambda obj: (_status(obj).get("nodeInfo") or {}).get(field, "<unknown>")


def _node_address(kind: str) -> Callable[[Object], Cell]:
    def read(obj: Object) -> Cell:
        found = (a.get("address", "") for a in _status(obj).get("addresses", ()) if a.get("type") == kind)
        return next(found, NONE)

    return read


def _service_ports(obj: Object) -> str:
    return _joined(
        f"{port['port']}:{port['nodePort']}/{port['protocol']}"
        if port.get("nodePort")
        else f"{port['port']}/{port['protocol']}"
        for port in _spec(obj).get("ports", ())
    )


def _external_ip(obj: Object) -> str:
    spec = _spec(obj)
    if spec["type"] == "ExternalName":
        return str(spec["externalName"])
    ingress = (_status(obj).get("loadBalancer") or {}).get("ingress", ())
    addresses = [item.get("ip") or item.get("hostname", "") for item in ingress]
    addresses += spec.get("externalIPs", ())
    if spec["type"] == "LoadBalancer" and not addresses:
        return "<pending>"
    return _joined(addresses)


def _containers(obj: Object) -> list[Object]:
    return list(_spec(obj).get("containers", ()))


def _pod_ready(obj: Object) -> str:
    total = max(1, len(_containers(obj)))
    statuses = _status(obj).get("containerStatuses")
    if statuses is not None:
        return f"{sum(item.get('ready', False) for item in statuses)}/{total}"
    return f"{total if _condition(obj, 'Ready') == 'True' else 0}/{total}"


def _pod_status(obj: Object) -> str:
    if "deletionTimestamp" in obj["metadata"]:
        return "Terminating"
    for item in _status(obj).get("containerStatuses", ()):
        if reason := ((item.get("state") or {}).get("waiting") or {}).get("reason"):
            return str(reason)
    return str(_status(obj).get("reason") or _status(obj).get("phase", "Unknown"))


def _pod_restarts(obj: Object) -> int:
    return sum(item.get("restartCount", 0) for item in _status(obj).get("containerStatuses", ()))


def _template_containers(field: str) -> Callable[[Object], Cell]:
    def read(obj: Object) -> Cell:
        containers = obj["spec"]["template"]["spec"].get("containers", ())
        return _joined(container.get(field, "") for container in containers)

    return read


def _selector(obj: Object) -> str:
    selector = obj["spec"]["selector"]
    texts = [f"{key}={value}" for key, value in selector.get("matchLabels", {}).items()]
    for item in selector.get("matchExpressions", ()):
        values = f" ({','.join(item.get('values', ()))})" if item.get("values") else ""
        texts.append(f"{item['key']} {item['operator'].lower()}{values}")
    return _joined(texts)


def _slice_ports(obj: Object) -> str:
    ports = [port.get("port", "*") for port in obj.get("ports", ())]
    return _joined(ports, 3) if ports else "<unset>"


def _slice_endpoints(obj: Object) -> str:
    addresses = [address for item in obj.get("endpoints", ()) for address in item.get("addresses", ())]
    return _joined(addresses, 3) if addresses else "<unset>"


def _endpoint_addresses(obj: Object) -> str:
    texts = []
    for subset in obj.get("subsets", ()):
        for address in subset.get("addresses", ()):
            ip = f"[{address['ip']}]" if ":" in address["ip"] else address["ip"]
            texts += [f"{ip}:{port['port']}" for port in subset.get("ports", ())] or [ip]
    return _joined(texts, 3)


def _field(part: Callable[[Object], Mapping[str, Any]], name: str, default: Cell) -> Callable[[Object], Cell]:
    return lambda obj: part(obj).get(name) or default


NAME = Column("Name", lambda obj: obj["metadata"]["name"])
AGE = Column("Age", lambda obj: age(obj["metadata"].get("creationTimestamp", "")))
DEFAULT_COLUMNS = (NAME, AGE)

COLUMNS: Mapping[Resource, tuple[Column, ...]] = {
    NAMESPACES: (NAME, Column("Status", _field(_status, "phase", "Unknown")), AGE),
    NODES: (
        NAME,
        Column("Status", _node_status),
        Column("Roles", _node_roles),
        AGE,
        Column("Version", _node_info("kubeletVersion")),
        Column("Internal-IP", _node_address("InternalIP"), wide=True),
        Column("External-IP", _node_address("ExternalIP"), wide=True),
        Column("OS-Image", _node_info("osImage"), wide=True),
        Column("Kernel-Version", _node_info("kernelVersion"), wide=True),
        Column("Container-Runtime", _node_info("containerRuntimeVersion"), wide=True),
    ),
    SERVICES: (
        NAME,
        Column("Type", _field(_spec, "type", NONE)),
        Column("Cluster-IP", _field(_spec, "clusterIP", NONE)),
        Column("External-IP", _external_ip),
        Column("Port(s)", _service_ports),
        AGE,
        Column("Selector", lambda obj: _labels(_spec(obj).get("selector", {})), wide=True),
    ),
    ENDPOINTS: (NAME, Column("Endpoints", _endpoint_addresses), AGE),
    ENDPOINTSLICES: (
        NAME,
        Column("AddressType", lambda obj: obj["addressType"]),
        Column("Ports", _slice_ports),
        Column("Endpoints", _slice_endpoints),
        AGE,
    ),
    PODS: (
        NAME,
        Column("Ready", _pod_ready),
        Column("Status", _pod_status),
        Column("Restarts", _pod_restarts, "integer"),
        AGE,
        Column("IP", _field(_status, "podIP", NONE), wide=True),
        Column("Node", _field(_spec, "nodeName", NONE), wide=True),
        Column("Nominated Node", lambda obj: NONE, wide=True),
        Column("Readiness Gates", lambda obj: NONE, wide=True),
    ),
    DEPLOYMENTS: (
        NAME,
        Column("Ready", lambda obj: f"{_status(obj).get('readyReplicas', 0)}/{obj['spec']['replicas']}"),
        Column("Up-to-date", _field(_status, "updatedReplicas", 0), "integer"),
        Column("Available", _field(_status, "availableReplicas", 0), "integer"),
        AGE,
        Column("Containers", _template_containers("name"), wide=True),
        Column("Images", _template_containers("image"), wide=True),
        Column("Selector", _selector, wide=True),
    ),
    DAEMONSETS: (
        NAME,
        Column("Desired", _field(_status, "desiredNumberScheduled", 0), "integer"),
        Column("Current", _field(_status, "currentNumberScheduled", 0), "integer"),
        Column("Ready", _field(_status, "numberReady", 0), "integer"),
        Column("Up-to-date", _field(_status, "updatedNumberScheduled", 0), "integer"),
        Column("Available", _field(_status, "numberAvailable", 0), "integer"),
        Column("Node Selector", lambda obj: _labels(obj["spec"]["template"]["spec"].get("nodeSelector", {}))),
        AGE,
        Column("Containers", _template_containers("name"), wide=True),
        Column("Images", _template_containers("image"), wide=True),
        Column("Selector", _selector, wide=True),
    ),
    CONFIGMAPS: (
        NAME,
        Column("Data", lambda obj: len(obj.get("data", ())) + len(obj.get("binaryData", ())), "integer"),
        AGE,
    ),
    SERVICEACCOUNTS: (NAME, Column("Secrets", lambda obj: len(obj.get("secrets", ())), "integer"), AGE),
}
