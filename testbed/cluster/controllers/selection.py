"""Which pods stand behind which Service, and which Services a change concerns.

Owns the indexes from labels to pods and from labels to Services. Must not know what is made of it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import orjson

from testbed.cluster.api.checks import family_of
from testbed.cluster.mint import Mint
from testbed.cluster.resources import NODES, PODS, SERVICES
from testbed.cluster.store import DELETED, Event, Key, Object, Record, Store

ZONE = "topology.kubernetes.io/zone"
_CLOSE = ("PreferClose", "PreferSameZone")
_FINISHED = ("Succeeded", "Failed")


class EndpointPort(NamedTuple):
    """One port of endpoints: the Service port's name, and the number in the pods."""

    name: str
    port: int
    protocol: str
    app_protocol: str | None = None

    def as_object(self) -> Object:
        obj: Object = {"name": self.name, "port": self.port, "protocol": self.protocol}
        if self.app_protocol:
            obj["appProtocol"] = self.app_protocol
        return obj


class PodView:
    """What endpoints need to know of a pod; another object once that changes, and only then."""

    def __init__(self, record: Record, zones: Mapping[str, str]) -> None:
        pod = record.parsed()
        spec, status = pod.get("spec", {}), pod.get("status", {})
        self.key = record.key
        self.uid = record.uid
        self.labels = record.labels
        self.node: str = spec.get("nodeName", "")
        self.zone = zones.get(self.node, "")
        self.addresses = _addresses(status)
        self.ready = any(
            condition.get("type") == "Ready" and condition.get("status") == "True"
            for condition in status.get("conditions", ())
        )
        self.terminating = "deletionTimestamp" in pod["metadata"]
        self.finished = status.get("phase") in _FINISHED
        self.ports = {
            (port["name"], port.get("protocol", "TCP")): port["containerPort"]
            for container in spec.get("containers", ())
            for port in container.get("ports", ())
            if "name" in port and "containerPort" in port
        }
        self._encoded: dict[tuple[str, bool, bool], bytes] = {}

    @property
    def counts(self) -> bool:
        """Whether the pod can be an endpoint at all."""
        return bool(self.addresses) and not self.finished

    def looks_like(self, other: PodView) -> bool:
        """Say whether endpoints cannot tell the two states apart."""
        return self._look == other._look

    @property
    def _look(self) -> tuple[object, ...]:
        return (
            self.uid,
            dict(self.labels),
            self.node,
            self.zone,
            self.addresses,
            self.ready,
            self.terminating,
            self.finished,
            self.ports,
        )

    def endpoint(self, family: str, *, publish_not_ready: bool, hinted: bool) -> bytes:
        """Return the pod's encoded endpoint in a slice of that family, with its own zone as the hint."""
        form = (family, publish_not_ready, hinted)
        encoded = self._encoded.get(form)
        if encoded is None:
            endpoint = self._endpoint(family, publish_not_ready)
            if hinted and endpoint["conditions"]["ready"]:
                endpoint["hints"] = {"forZones": [{"name": self.zone}]}
            self._encoded[form] = encoded = orjson.dumps(endpoint)
        return encoded

    def _endpoint(self, family: str, publish_not_ready: bool) -> Object:
        serving = self.ready or publish_not_ready
        endpoint: Object = {
            "addresses": [self.addresses[family]],
            "conditions": {
                "ready": publish_not_ready or (self.ready and not self.terminating),
                "serving": serving,
                "terminating": self.terminating,
            },
            "targetRef": self.reference,
        }
        if self.node:
            endpoint["nodeName"] = self.node
        if self.zone:
            endpoint["zone"] = self.zone
        return endpoint

    @property
    def reference(self) -> Object:
        """An ObjectReference to the pod."""
        return {"kind": "Pod", "namespace": self.key[0], "name": self.key[1], "uid": self.uid}


def _addresses(status: Mapping[str, Any]) -> dict[str, str]:
    """Return a pod's address by family; the first of each counts."""
    found: dict[str, str] = {}
    for address in (status.get("podIP"), *(item.get("ip") for item in status.get("podIPs", ()))):
        if address:
            found.setdefault(family_of(address), address)
    return found


class ServiceView:
    """What endpoints need to know of one state of a Service; `selector` is None when it has none."""

    def __init__(self, record: Record) -> None:
        spec = record.parsed()["spec"]
        self.namespace = record.namespace
        self.name = record.name
        self.uid = record.uid
        self.labels = record.labels
        self.selector: dict[str, str] | None = spec.get("selector") or None
        if spec["type"] == "ExternalName":
            self.selector = None
        self.families: list[str] = spec.get("ipFamilies", ["IPv4"])
        self.headless: bool = spec.get("clusterIP") == "None"
        self.publish_not_ready: bool = spec.get("publishNotReadyAddresses", False)
        self.prefers_close: bool = spec.get("trafficDistribution") in _CLOSE
        self._ports: list[Object] = spec.get("ports", [])
        self.fixed_ports: tuple[EndpointPort, ...] | None = None
        if all(isinstance(port["targetPort"], int) for port in self._ports):
            self.fixed_ports = tuple(_port(port, port["targetPort"]) for port in self._ports)

    def ports_in(self, pod: PodView) -> tuple[EndpointPort, ...]:
        """Resolve the target ports in one pod; a name that the pod does not have is left out."""
        found = []
        for port in self._ports:
            number = port["targetPort"]
            if isinstance(number, str):
                number = pod.ports.get((number, port["protocol"]))
            if number is not None:
                found.append(_port(port, number))
        return tuple(found)

    def selects(self, labels: Mapping[str, str]) -> bool:
        return self.selector is not None and all(labels.get(k) == v for k, v in self.selector.items())


def _port(port: Mapping[str, Any], number: int) -> EndpointPort:
    return EndpointPort(port.get("name", ""), number, port["protocol"], port.get("appProtocol"))


_Pair = tuple[str, str, str]  # (namespace, label's key, label's value)


class ServicePods:
    """Follows Services, pods and nodes; `take` says which Services to look at again."""

    def __init__(self, store: Store, mint: Mint) -> None:
        self.services: dict[Key, ServiceView] = {}
        self._mint = mint
        self._pods: dict[Key, PodView] = {}
        self._pods_with: dict[_Pair, dict[Key, PodView]] = {}
        self._services_with: dict[_Pair, dict[Key, ServiceView]] = {}
        self._pods_on: dict[str, dict[Key, Record]] = {}
        self._zones: dict[str, str] = {}
        self._touched: dict[Key, str] = {}
        store.observe(SERVICES, self._observe_service)
        store.observe(PODS, self._observe_pod)
        store.observe(NODES, self._observe_node)

    def touch(self, service: Key) -> None:
        """Have a Service looked at again."""
        if service not in self._touched:
            self._touched[service] = self._mint.now_ns()

    def take(self) -> dict[Key, str]:
        """Return the Services to look at again, with the time at which each first had a reason."""
        touched, self._touched = self._touched, {}
        return touched

    def pods_of(self, service: ServiceView) -> list[PodView]:
        """Return the pods that a Service with a selector selects and that can be endpoints."""
        assert service.selector
        none: dict[Key, PodView] = {}
        sets = [self._pods_with.get((service.namespace, *pair), none) for pair in service.selector.items()]
        smallest = min(sets, key=len)
        if len(sets) == 1:
            return [pod for pod in smallest.values() if pod.counts]
        return [pod for pod in smallest.values() if pod.counts and service.selects(pod.labels)]

    def _observe_service(self, event: Event) -> None:
        key = event.record.key
        old = self.services.pop(key, None)
        if old and old.selector:
            del self._services_with[_first_pair(old)][key]
        if event.type != DELETED:
            service = ServiceView(event.record)
            self.services[key] = service
            if service.selector:
                self._services_with.setdefault(_first_pair(service), {})[key] = service
        self.touch(key)

    def _observe_pod(self, event: Event) -> None:
        record = event.record
        new = None if event.type == DELETED else PodView(record, self._zones)
        self._replace_pod(record, new)

    def _replace_pod(self, record: Record, new: PodView | None) -> None:
        old = self._pods.get(record.key)
        if old and new and new.looks_like(old):
            self._pods_on[old.node][old.key] = record
            return
        if old and not (new and new.labels == old.labels):
            for pair in _pairs(old):
                self._pods_with[pair].pop(old.key, None)
        if old:
            self._pods_on.get(old.node, {}).pop(old.key, None)
        if new:
            self._pods[new.key] = new
            self._pods_on.setdefault(new.node, {})[new.key] = record
            for pair in _pairs(new):
                self._pods_with.setdefault(pair, {})[new.key] = new
        else:
            self._pods.pop(record.key, None)
        for view in (old, new):
            if view and view.counts:
                self._touch_selecting(view)

    def _touch_selecting(self, pod: PodView) -> None:
        for pair in _pairs(pod):
            for key, service in self._services_with.get(pair, {}).items():
                if service.selects(pod.labels):
                    self.touch(key)

    def _observe_node(self, event: Event) -> None:
        name = event.record.name
        zone = "" if event.type == DELETED else event.record.labels.get(ZONE, "")
        if zone == self._zones.get(name, ""):
            return
        self._zones[name] = zone
        for record in list(self._pods_on.get(name, {}).values()):
            self._replace_pod(record, PodView(record, self._zones))


def _first_pair(service: ServiceView) -> _Pair:
    assert service.selector
    return service.namespace, *next(iter(service.selector.items()))


def _pairs(pod: PodView) -> list[_Pair]:
    return [(pod.key[0], key, value) for key, value in pod.labels.items()]
