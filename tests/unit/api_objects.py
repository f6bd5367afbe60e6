"""Objects and shortcuts for the tests of the control plane."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from testbed.cluster.api.registry import DeleteOptions, Registry, Settings
from testbed.cluster.apiclient import find_resource

Object = dict[str, Any]


class Laboratory:
    """A registry without a server; time passes only when `pass_time` says so."""

    def __init__(self, **settings: Any) -> None:
        self._later: list[tuple[float, Callable[[], None]]] = []
        self.registry = Registry(Settings(**settings), lambda s, call: self._later.append((s, call)))

    def create(self, obj: Object) -> Object:
        namespace = obj.get("metadata", {}).get("namespace", "default")
        resource = find_resource(obj["kind"])
        return self.registry.create(resource, namespace if resource.namespaced else "", obj).parsed()

    def load(self, *objects: Object) -> None:
        for _ in self.registry.load(list(objects)):
            continue

    def all(self, kind: str, namespace: str = "") -> list[Object]:
        resource = find_resource(kind)
        found = [record.parsed() for record in self.registry.read(resource).list(resource).records]
        return [obj for obj in found if namespace in ("", obj["metadata"].get("namespace"))]

    def get(self, kind: str, name: str, namespace: str = "default") -> Object:
        resource = find_resource(kind)
        place = namespace if resource.namespaced else ""
        return self.registry.read(resource).get(resource, place, name).parsed()

    def patch(self, kind: str, name: str, patch: Any, subresource: str = "") -> Object:
        resource = find_resource(kind)
        place = "default" if resource.namespaced else ""
        form = "application/merge-patch+json"
        return self.registry.patch(resource, place, name, form, patch, subresource).parsed()

    def delete(self, kind: str, name: str, namespace: str = "default", **options: Any) -> None:
        resource = find_resource(kind)
        place = namespace if resource.namespaced else ""
        self.registry.delete(resource, place, name, DeleteOptions(**options))

    def pass_time(self) -> float:
        """Do what is due next; returns after how many seconds it was to be done."""
        after_s, call = self._later.pop(0)
        call()
        return after_s

    def run_pod(self, name: str, address: str, *, ready: bool = True) -> Object:
        """Play the kubelet: the pod has an address and says whether it is ready."""
        return self.patch("Pod", name, {"status": running(address, ready=ready)}, "status")


def running(*addresses: str, ready: bool = True) -> Object:
    return {
        "phase": "Running",
        "podIP": addresses[0],
        "podIPs": [{"ip": address} for address in addresses],
        "conditions": [{"type": "Ready", "status": str(ready)}],
    }


def node(name: str, zone: str = "", **spec: Any) -> Object:
    labels = {"topology.kubernetes.io/zone": zone} if zone else {}
    return {"apiVersion": "v1", "kind": "Node", "metadata": {"name": name, "labels": labels}, "spec": spec}


def pod(name: str, *addresses: str, ready: bool = True, app: str = "web", **spec: Any) -> Object:
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "labels": {"app": app}},
        "spec": {"nodeName": "node1", **spec},
        "status": running(*addresses, ready=ready) if addresses else {},
    }


def service(name: str = "web", *ports: Object, **spec: Any) -> Object:
    """A Service over the pods of app `web` on port 80, unless told otherwise."""
    labels = spec.pop("labels", {})
    given: Object = {"selector": {"app": "web"}, "ports": list(ports) or [{"port": 80}], **spec}
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": name, "labels": labels},
        "spec": {key: value for key, value in given.items() if value is not None},
    }


def deployment(name: str = "web", replicas: int = 3, image: str = "one", **spec: Any) -> Object:
    labels = {"app": name}
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": name},
        "spec": {
            "replicas": replicas,
            "selector": {"matchLabels": labels},
            "template": {
                "metadata": {"labels": labels},
                "spec": {"containers": [{"name": "c", "image": image}]},
            },
            **spec,
        },
    }


def endpoint_slice(name: str, *addresses: str, service: str = "web", port: int = 80) -> Object:
    return {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {"name": name, "labels": {"kubernetes.io/service-name": service}},
        "addressType": "IPv4",
        "endpoints": [{"addresses": [address]} for address in addresses],
        "ports": [{"port": port}],
    }
