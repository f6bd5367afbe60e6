"""Admission of Services: Kubernetes' defaults and its rules.

Pure: knows neither the store nor what is allocated to whom.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from testbed.cluster.api.checks import PROTOCOLS, Mistakes, is_address

Spec = dict[str, Any]

TYPES = ("ClusterIP", "ExternalName", "LoadBalancer", "NodePort")
DISTRIBUTIONS = ("PreferClose", "PreferSameNode", "PreferSameZone")
POLICIES = ("Cluster", "Local")
AFFINITY_TIMEOUT_S = 10_800  # Kubernetes' DefaultClientIPServiceAffinitySeconds
_AFFINITY_LIMIT_S = 86_400  # Kubernetes' MaxClientIPServiceAffinitySeconds


def has_node_ports(spec: Mapping[str, Any]) -> bool:
    """Say whether a Service of this spec is reachable at ports of every node."""
    kind = spec.get("type")
    return kind == "NodePort" or (
        kind == "LoadBalancer" and spec.get("allocateLoadBalancerNodePorts", True) is True
    )


def is_headless(spec: Mapping[str, Any]) -> bool:
    """Say whether a Service explicitly has no cluster address."""
    return spec.get("clusterIP") == "None"


def cluster_addresses(spec: Mapping[str, Any]) -> list[str]:
    """Return the cluster addresses that a spec names, without the `None` of headless Services."""
    named = spec.get("clusterIPs") or [spec.get("clusterIP", "")]
    return [address for address in named if address not in ("", "None")]


def needs_health_port(spec: Mapping[str, Any]) -> bool:
    return spec.get("type") == "LoadBalancer" and spec.get("externalTrafficPolicy") == "Local"


def default_service(obj: dict[str, Any]) -> None:
    """Fill in what Kubernetes fills in, short of allocations."""
    spec: Spec = obj.setdefault("spec", {})
    kind = spec.setdefault("type", "ClusterIP")
    spec.setdefault("sessionAffinity", "None")
    if spec["sessionAffinity"] == "ClientIP":
        client_ip = spec.setdefault("sessionAffinityConfig", {}).setdefault("clientIP", {})
        client_ip.setdefault("timeoutSeconds", AFFINITY_TIMEOUT_S)
    else:
        spec.pop("sessionAffinityConfig", None)
    for port in spec.get("ports", ()):
        port.setdefault("protocol", "TCP")
        if port.get("targetPort", 0) in (0, "") and "port" in port:
            port["targetPort"] = port["port"]
    if kind != "ExternalName":
        spec.setdefault("internalTrafficPolicy", "Cluster")
    if kind in ("NodePort", "LoadBalancer") or spec.get("externalIPs"):
        spec.setdefault("externalTrafficPolicy", "Cluster")
    if kind == "LoadBalancer":
        spec.setdefault("allocateLoadBalancerNodePorts", True)
    obj.setdefault("status", {}).setdefault("loadBalancer", {})


def keep_allocated(new: dict[str, Any], old: Mapping[str, Any]) -> None:
    """Let an update that is silent about allocated values keep them, and drop those it has no use for."""
    spec, before = new["spec"], old["spec"]
    if spec["type"] != "ExternalName" != before["type"]:
        if not spec.get("clusterIP") and not spec.get("clusterIPs"):
            spec["clusterIP"] = before.get("clusterIP", "")
            spec["clusterIPs"] = list(before.get("clusterIPs", ()))
        for field in ("ipFamilies", "ipFamilyPolicy"):
            if field in before:
                spec.setdefault(field, before[field])
    known = {(port["port"], port["protocol"]): port.get("nodePort", 0) for port in before.get("ports", ())}
    for port in spec.get("ports", ()):
        node_port = known.get((port.get("port"), port["protocol"]), 0)
        if has_node_ports(spec) and not port.get("nodePort") and node_port:
            port["nodePort"] = node_port
        elif spec["type"] in ("ClusterIP", "ExternalName") and port.get("nodePort") == node_port:
            port.pop("nodePort", None)
    if not needs_health_port(spec) and spec.get("healthCheckNodePort") == before.get("healthCheckNodePort"):
        spec.pop("healthCheckNodePort", None)
    elif needs_health_port(spec) and before.get("healthCheckNodePort"):
        spec.setdefault("healthCheckNodePort", before["healthCheckNodePort"])


def check_service(obj: dict[str, Any], old: Mapping[str, Any] | None, mistakes: Mistakes) -> None:
    """Collect the mistakes of a Service that has its defaults."""
    spec: Spec = obj["spec"]
    kind = spec["type"]
    mistakes.choice("spec.type", kind, TYPES)
    mistakes.choice("spec.sessionAffinity", spec["sessionAffinity"], ("ClientIP", "None"))
    mistakes.choice("spec.internalTrafficPolicy", spec.get("internalTrafficPolicy"), POLICIES)
    mistakes.choice("spec.externalTrafficPolicy", spec.get("externalTrafficPolicy"), POLICIES)
    mistakes.choice("spec.trafficDistribution", spec.get("trafficDistribution"), DISTRIBUTIONS)
    mistakes.labels("spec.selector", spec.get("selector", {}))
    if kind == "ExternalName":
        if not spec.get("externalName"):
            mistakes.required("spec.externalName")
    elif not spec.get("ports") and not is_headless(spec):
        mistakes.required("spec.ports")
    if is_headless(spec) and kind in ("NodePort", "LoadBalancer"):
        mistakes.invalid("spec.clusterIPs[0]", "None", f"may not be set to 'None' for {kind} services")
    _check_ports(spec, mistakes)
    _check_addresses(spec, mistakes)
    if old:
        _check_immutable(spec, old["spec"], mistakes)
    if spec["sessionAffinity"] == "ClientIP":
        timeout = spec["sessionAffinityConfig"]["clientIP"]["timeoutSeconds"]
        mistakes.number("spec.sessionAffinityConfig.clientIP.timeoutSeconds", timeout, 1, _AFFINITY_LIMIT_S)
    if spec.get("healthCheckNodePort") and not needs_health_port(spec):
        mistakes.forbidden(
            "spec.healthCheckNodePort",
            "may only be used when `type` is 'LoadBalancer' and `externalTrafficPolicy` is 'Local'",
        )


def _check_ports(spec: Spec, mistakes: Mistakes) -> None:
    ports: Sequence[Mapping[str, Any]] = spec.get("ports", ())
    names: set[str] = set()
    numbers: set[tuple[int, str]] = set()
    for index, port in enumerate(ports):
        path = f"spec.ports[{index}]"
        name, number, target = port.get("name", ""), port.get("port"), port.get("targetPort", 1)
        if name:
            mistakes.dns_label(f"{path}.name", name)
            if name in names:
                mistakes.duplicate(f"{path}.name", name)
            names.add(name)
        elif len(ports) > 1:
            mistakes.required(f"{path}.name")
        mistakes.choice(f"{path}.protocol", port["protocol"], PROTOCOLS)
        if number is None:
            mistakes.required(f"{path}.port")
        else:
            mistakes.number(f"{path}.port", number, 1, 65535)
            if (number, port["protocol"]) in numbers:
                mistakes.duplicate(path, {"port": number, "protocol": port["protocol"]})
            numbers.add((number, port["protocol"]))
        if isinstance(target, str):
            mistakes.port_name(f"{path}.targetPort", target)
        else:
            mistakes.number(f"{path}.targetPort", target, 1, 65535)
        if port.get("nodePort") and spec["type"] not in ("NodePort", "LoadBalancer"):
            mistakes.forbidden(f"{path}.nodePort", f"may not be used when `type` is '{spec['type']}'")


def _check_addresses(spec: Spec, mistakes: Mistakes) -> None:
    for index, address in enumerate(spec.get("externalIPs", ())):
        mistakes.address(f"spec.externalIPs[{index}]", address)
    for index, network in enumerate(spec.get("loadBalancerSourceRanges", ())):
        mistakes.network(f"spec.loadBalancerSourceRanges[{index}]", network)
    if spec.get("loadBalancerIP"):
        mistakes.address("spec.loadBalancerIP", spec["loadBalancerIP"])
    several: list[str] = spec.get("clusterIPs", [])
    if several and spec.get("clusterIP") not in (None, "", several[0]):
        mistakes.invalid("spec.clusterIPs", several, "first value must match `clusterIP`")
    for index, address in enumerate(several or [spec.get("clusterIP") or "None"]):
        if address != "None" and not is_address(address):
            mistakes.invalid(f"spec.clusterIPs[{index}]", address, "must be a valid IP address")
    mistakes.choice(
        "spec.ipFamilyPolicy",
        spec.get("ipFamilyPolicy"),
        ("SingleStack", "PreferDualStack", "RequireDualStack"),
    )
    for index, family in enumerate(spec.get("ipFamilies", ())):
        mistakes.choice(f"spec.ipFamilies[{index}]", family or "''", ("IPv4", "IPv6"))


def _check_immutable(spec: Spec, before: Mapping[str, Any], mistakes: Mistakes) -> None:
    address = before.get("clusterIP")
    if address and spec["type"] != "ExternalName" != before["type"] and spec.get("clusterIP") != address:
        mistakes.invalid("spec.clusterIPs[0]", spec.get("clusterIP", ""), "may not change once set")
