"""What becomes of an object before it is stored: defaults and checks, kind by kind.

Pure but for the allocation of what Services need, which the registry does afterwards.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from testbed.cluster import selectors
from testbed.cluster.api.checks import PROTOCOLS, Mistakes, family_of, is_address
from testbed.cluster.api.services import check_service, default_service, keep_allocated
from testbed.cluster.resources import (
    DAEMONSETS,
    DEPLOYMENTS,
    ENDPOINTS,
    ENDPOINTSLICES,
    NAMESPACES,
    NODES,
    PODS,
    SERVICES,
    Resource,
)

Object = dict[str, Any]
Default = Callable[[Object], None]
Check = Callable[[Object, Mapping[str, Any] | None, Mistakes], None]

_SLICE_LIMIT = 1_000  # endpoints; Kubernetes' maxEndpoints of one EndpointSlice
_REPLICAS_LIMIT = 10_000  # pods: more than any one machine holds
_ADDRESS_TYPES = ("FQDN", "IPv4", "IPv6")


def admit(resource: Resource, new: Object, old: Mapping[str, Any] | None) -> None:
    """Complete `new` with its defaults and check it; its types are known to be right.

    Raises ApiError (422) with every mistake.
    """
    DEFAULTS.get(resource, _nothing)(new)
    if resource is SERVICES and old:
        keep_allocated(new, old)
    mistakes = Mistakes()
    metadata = new["metadata"]
    mistakes.name("metadata.name", metadata["name"], resource.name_rule)
    mistakes.labels("metadata.labels", metadata.get("labels", {}))
    mistakes.annotations("metadata.annotations", metadata.get("annotations", {}))
    _check_owners(metadata.get("ownerReferences", ()), mistakes)
    if resource in CHECKS:
        CHECKS[resource](new, old, mistakes)
    mistakes.raise_if_any(resource, metadata["name"])


def _nothing(obj: Object) -> None:
    """Most kinds need no defaults."""


def _check_owners(owners: Any, mistakes: Mistakes) -> None:
    for index, owner in enumerate(owners):
        for field in ("apiVersion", "kind", "name", "uid"):
            if not owner.get(field):
                mistakes.required(f"metadata.ownerReferences[{index}].{field}")


def _default_namespace(obj: Object) -> None:
    obj.setdefault("spec", {"finalizers": ["kubernetes"]})
    obj.setdefault("status", {}).setdefault("phase", "Active")


def _default_node(obj: Object) -> None:
    name = obj["metadata"]["name"]
    labels = obj["metadata"].setdefault("labels", {})
    labels.setdefault("kubernetes.io/hostname", name)
    labels.setdefault("kubernetes.io/os", "linux")
    obj.setdefault("spec", {})
    status = obj.setdefault("status", {})
    addresses = status.setdefault("addresses", [])
    if not any(address.get("type") == "Hostname" for address in addresses):
        addresses.append({"type": "Hostname", "address": name})
    conditions = status.setdefault("conditions", [])
    if not any(condition.get("type") == "Ready" for condition in conditions):
        conditions.append({"type": "Ready", "status": "True", "reason": "LabReady"})


def _default_pod_spec(spec: Object) -> None:
    spec.setdefault("restartPolicy", "Always")
    for container in spec.get("containers", ()):
        for port in container.get("ports", ()):
            port.setdefault("protocol", "TCP")


def _default_pod(obj: Object) -> None:
    _default_pod_spec(obj.setdefault("spec", {}))
    status = obj.setdefault("status", {})
    status.setdefault("phase", "Pending")
    if "podIP" in status:
        status.setdefault("podIPs", [{"ip": status["podIP"]}])


def _check_pod_spec(spec: Mapping[str, Any], path: str, mistakes: Mistakes) -> None:
    names: set[str] = set()
    for index, container in enumerate(spec.get("containers", ())):
        place = f"{path}.containers[{index}]"
        name = container.get("name", "")
        if not name:
            mistakes.required(f"{place}.name")
        else:
            mistakes.dns_label(f"{place}.name", name)
            if name in names:
                mistakes.duplicate(f"{place}.name", name)
            names.add(name)
        for number, port in enumerate(container.get("ports", ())):
            spot = f"{place}.ports[{number}]"
            if "containerPort" not in port:
                mistakes.required(f"{spot}.containerPort")
            else:
                mistakes.number(f"{spot}.containerPort", port["containerPort"], 1, 65535)
            mistakes.choice(f"{spot}.protocol", port["protocol"], PROTOCOLS)
            if "name" in port:
                mistakes.port_name(f"{spot}.name", port["name"])


def _check_pod(obj: Object, old: Mapping[str, Any] | None, mistakes: Mistakes) -> None:
    _check_pod_spec(obj["spec"], "spec", mistakes)
    before = (old or {}).get("spec", {}).get("nodeName")
    if before and obj["spec"].get("nodeName") != before:
        mistakes.forbidden("spec.nodeName", "pod updates may not change the node")
    status = obj["status"]
    if status.get("podIP"):
        mistakes.address("status.podIP", status["podIP"])
    for index, item in enumerate(status.get("podIPs", ())):
        mistakes.address(f"status.podIPs[{index}].ip", item.get("ip", ""))


def _default_template(spec: Object) -> None:
    template = spec.setdefault("template", {})
    template.setdefault("metadata", {})
    _default_pod_spec(template.setdefault("spec", {}))


def _default_deployment(obj: Object) -> None:
    spec = obj.setdefault("spec", {})
    spec.setdefault("replicas", 1)
    strategy = spec.setdefault("strategy", {})
    if strategy.setdefault("type", "RollingUpdate") == "RollingUpdate":
        rolling = strategy.setdefault("rollingUpdate", {})
        if isinstance(rolling, dict):
            rolling.setdefault("maxUnavailable", "25%")
            rolling.setdefault("maxSurge", "25%")
    _default_template(spec)
    obj.setdefault("status", {})


def _check_deployment(obj: Object, old: Mapping[str, Any] | None, mistakes: Mistakes) -> None:
    spec = obj["spec"]
    mistakes.number("spec.replicas", spec["replicas"], 0, _REPLICAS_LIMIT)
    mistakes.choice("spec.strategy.type", spec["strategy"]["type"], ("Recreate", "RollingUpdate"))
    _check_template(spec, old, mistakes)


def _default_daemon_set(obj: Object) -> None:
    spec = obj.setdefault("spec", {})
    strategy = spec.setdefault("updateStrategy", {})
    if strategy.setdefault("type", "RollingUpdate") == "RollingUpdate":
        rolling = strategy.setdefault("rollingUpdate", {})
        if isinstance(rolling, dict):
            rolling.setdefault("maxUnavailable", 1)
            rolling.setdefault("maxSurge", 0)
    _default_template(spec)
    obj.setdefault("status", {})


def _check_daemon_set(obj: Object, old: Mapping[str, Any] | None, mistakes: Mistakes) -> None:
    spec = obj["spec"]
    mistakes.choice("spec.updateStrategy.type", spec["updateStrategy"]["type"], ("OnDelete", "RollingUpdate"))
    _check_template(spec, old, mistakes)


def _check_template(spec: Mapping[str, Any], old: Mapping[str, Any] | None, mistakes: Mistakes) -> None:
    """The pods that a specification wants, and the selector by which it knows them."""
    labels = spec["template"]["metadata"].get("labels", {})
    mistakes.labels("spec.template.metadata.labels", labels)
    _check_pod_spec(spec["template"]["spec"], "spec.template.spec", mistakes)
    selector = spec.get("selector", {})
    if not selector.get("matchLabels") and not selector.get("matchExpressions"):
        mistakes.required("spec.selector")
        return
    if old and old["spec"].get("selector") != selector:
        mistakes.invalid("spec.selector", selector, "field is immutable")
    mistakes.labels("spec.selector.matchLabels", selector.get("matchLabels", {}))
    before = len(mistakes.causes)
    for index, expression in enumerate(selector.get("matchExpressions", ())):
        path = f"spec.selector.matchExpressions[{index}]"
        if not expression.get("key"):
            mistakes.required(f"{path}.key")
        if expression.get("operator") not in selectors.OPERATORS:
            mistakes.unsupported(f"{path}.operator", expression.get("operator", ""), selectors.OPERATORS)
    if len(mistakes.causes) == before and not selectors.matches_labels(
        selectors.from_object(selector), labels
    ):
        mistakes.invalid(
            "spec.template.metadata.labels", labels, "`selector` does not match template `labels`"
        )


def _default_ports(ports: Any) -> None:
    for port in ports:
        port.setdefault("protocol", "TCP")


def _default_slice(obj: Object) -> None:
    _default_ports(obj.get("ports", ()))
    for port in obj.get("ports", ()):
        port.setdefault("name", "")
    obj.setdefault("endpoints", [])


def _check_slice(obj: Object, old: Mapping[str, Any] | None, mistakes: Mistakes) -> None:
    family = obj.get("addressType", "")
    if not family:
        mistakes.required("addressType")
    mistakes.choice("addressType", family, _ADDRESS_TYPES)
    if old and old["addressType"] != family:
        mistakes.invalid("addressType", family, "field is immutable")
    if len(obj["endpoints"]) > _SLICE_LIMIT:
        mistakes.invalid("endpoints", len(obj["endpoints"]), f"must have at most {_SLICE_LIMIT} items")
    for index, endpoint in enumerate(obj["endpoints"]):
        if not endpoint.get("addresses"):
            mistakes.required(f"endpoints[{index}].addresses")
        for number, address in enumerate(endpoint.get("addresses", ())):
            path = f"endpoints[{index}].addresses[{number}]"
            if family == "FQDN":
                mistakes.name(path, address, "subdomain")
            elif not is_address(address):
                mistakes.invalid(path, address, "must be a valid IP address")
            elif family_of(address) != family:
                mistakes.invalid(path, address, f"must be an {family} address")
    _check_endpoint_ports(obj.get("ports", ()), "ports", mistakes, number_required=False)


def _check_endpoint_ports(ports: Any, path: str, mistakes: Mistakes, *, number_required: bool) -> None:
    names: set[str] = set()
    for index, port in enumerate(ports):
        if "port" in port:
            mistakes.number(f"{path}[{index}].port", port["port"], 1, 65535)
        elif number_required:
            mistakes.required(f"{path}[{index}].port")
        mistakes.choice(f"{path}[{index}].protocol", port["protocol"], PROTOCOLS)
        name = port.get("name", "")
        if name:
            mistakes.dns_label(f"{path}[{index}].name", name)
        if name in names:
            mistakes.duplicate(f"{path}[{index}].name", name)
        names.add(name)


def _default_endpoints(obj: Object) -> None:
    for subset in obj.get("subsets", ()):
        _default_ports(subset.get("ports", ()))


def _check_endpoints(obj: Object, old: Mapping[str, Any] | None, mistakes: Mistakes) -> None:
    for index, subset in enumerate(obj.get("subsets", ())):
        path = f"subsets[{index}]"
        for field in ("addresses", "notReadyAddresses"):
            for number, address in enumerate(subset.get(field, ())):
                mistakes.address(f"{path}.{field}[{number}].ip", address.get("ip", ""))
        _check_endpoint_ports(subset.get("ports", ()), f"{path}.ports", mistakes, number_required=True)


DEFAULTS: Mapping[Resource, Default] = {
    NAMESPACES: _default_namespace,
    NODES: _default_node,
    PODS: _default_pod,
    SERVICES: default_service,
    ENDPOINTS: _default_endpoints,
    ENDPOINTSLICES: _default_slice,
    DEPLOYMENTS: _default_deployment,
    DAEMONSETS: _default_daemon_set,
}

CHECKS: Mapping[Resource, Check] = {
    PODS: _check_pod,
    SERVICES: check_service,
    ENDPOINTS: _check_endpoints,
    ENDPOINTSLICES: _check_slice,
    DEPLOYMENTS: _check_deployment,
    DAEMONSETS: _check_daemon_set,
}
