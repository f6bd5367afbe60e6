"""Kubernetes' JSON objects from the models. Pure: dictionaries as `kubectl get -o json` shows them.

What came from a manifest stays as it was written; the rest is made from the models. Uids, times, resource
versions and allocated addresses are the API server's to give.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from testbed.spec.placement import DEFAULT_NAMESPACE, PodPort, PodSpec, endpoints_selector, selector_of

if TYPE_CHECKING:
    from testbed.spec.service import Port, Service
    from testbed.spec.topology import Topology
    from testbed.spec.workload import Deployment

Object = dict[str, Any]

IMAGE = "testbed/backend"
_COPY_DIGITS = 5


def namespace_objects(topology: Topology) -> list[Object]:
    """One Namespace for each that something in the topology is in, `default` first."""
    workloads = [workload.namespace for workload in topology.deployments]
    services = [service.namespace for service in topology.services]
    names = dict.fromkeys([DEFAULT_NAMESPACE, *workloads, *services])
    return [
        {
            "apiVersion": "v1",
            "kind": "Namespace",
            "metadata": {"name": name, "labels": {"kubernetes.io/metadata.name": name}},
            "status": {"phase": "Active"},
        }
        for name in names
    ]


def node_object(
    name: str, addresses: Sequence[str], pod_cidrs: Sequence[str], *, kernel: str = "", pods: int = 110
) -> Object:
    """A ready Node. `pods` is how many it takes, `kernel` the release that it runs."""
    labels = {
        "kubernetes.io/hostname": name,
        "kubernetes.io/os": "linux",
    }
    info = {"kernelVersion": kernel, "operatingSystem": "linux", "kubeletVersion": "v1.30.0-testbed"}
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": name, "labels": labels},
        "spec": {"podCIDR": pod_cidrs[0], "podCIDRs": list(pod_cidrs)},
        "status": {
            "addresses": [
                *({"type": "InternalIP", "address": address} for address in addresses),
                {"type": "Hostname", "address": name},
            ],
            "capacity": {"pods": str(pods)},
            "allocatable": {"pods": str(pods)},
            "conditions": [{"type": "Ready", "status": "True", "reason": "KubeletReady"}],
            "nodeInfo": info,
        },
    }


def pod_object(pod: PodSpec, addresses: Sequence[str], node_addresses: Sequence[str]) -> Object:
    """A running, ready Pod with its addresses, the primary family's first.

    The specification is the owner's template where there is one, with the ports that the pod listens on.
    """
    template = _template(pod.owner) if pod.owner else {}
    metadata = {
        **_kept(template.get("metadata", {}), "annotations"),
        "name": pod.name,
        "namespace": pod.namespace,
        "labels": dict(pod.labels),
    }
    spec = {
        **template.get("spec", {}),
        "nodeName": pod.node,
        "hostname": pod.name.replace(".", "-")[:63].rstrip("-"),
    }
    spec["containers"] = _containers(spec.get("containers") or [], pod.ports)
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": metadata,
        "spec": spec,
        "status": pod_status(spec["containers"], addresses, node_addresses),
    }


def pod_status(
    containers: Sequence[Mapping[str, Any]], addresses: Sequence[str], node_addresses: Sequence[str]
) -> Object:
    """The status of a pod whose containers all run."""
    conditions = ("PodScheduled", "Initialized", "ContainersReady", "Ready")
    return {
        "phase": "Running",
        "conditions": [{"type": kind, "status": "True"} for kind in conditions],
        "hostIP": node_addresses[0],
        "hostIPs": [{"ip": address} for address in node_addresses],
        "podIP": addresses[0],
        "podIPs": [{"ip": address} for address in addresses],
        "containerStatuses": [
            {
                "name": container["name"],
                "image": container.get("image", IMAGE),
                "ready": True,
                "started": True,
                "restartCount": 0,
                "state": {"running": {}},
            }
            for container in containers
        ],
    }


def deployment_objects(topology: Topology) -> list[Object]:
    """The Deployments, without those of other kinds: their pods stand alone in the lab's API."""
    return [deployment_object(item) for item in topology.deployments if item.kind == "Deployment"]


def deployment_object(deployment: Deployment) -> Object:
    """A Deployment as its manifest has it, or made from the model."""
    if deployment.manifest is not None:
        return _in_namespace(deployment.manifest, deployment.namespace)
    labels = dict(deployment.labels)
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": _metadata(deployment.name, deployment.namespace, labels, deployment.annotations),
        "spec": {
            "replicas": deployment.replicas,
            "selector": {"matchLabels": labels},
            "template": _template(deployment),
        },
    }


def service_objects(topology: Topology) -> list[Object]:
    """The Services in the order of the file."""
    return [service_object(service) for service in topology.services]


def service_object(service: Service) -> Object:
    """A Service as its manifest has it, or made from the model."""
    if service.manifest is not None:
        return _in_namespace(service.manifest, service.namespace)
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": _metadata(service.name, service.namespace, service.labels, service.annotations),
        "spec": _service_spec(service),
    }


def service_copies(topology: Topology, count: int, endpoints: int, *, start: int = 0) -> Iterator[Object]:
    """`count` copies of the first Service, `<name>-00000` and on from number `start`, each of its own.

    They have `endpoints` endpoints where the Service counts them. Node ports and addresses are left for the
    API to allocate.
    """
    first = topology.services[0]
    template = service_object(first)
    spec, metadata = template["spec"], template["metadata"]
    for key in ("clusterIP", "clusterIPs", "healthCheckNodePort"):
        spec.pop(key, None)
    if first.endpoints is not None:
        spec["selector"] = endpoints_selector(endpoints)
    ports = [{key: value for key, value in port.items() if key != "nodePort"} for port in spec["ports"]]
    for number in range(start, start + count):
        yield {
            **template,
            "metadata": {**metadata, "name": copy_name(first.name, number)},
            "spec": {**spec, "selector": dict(spec["selector"]), "ports": [dict(port) for port in ports]},
        }


def copy_name(name: str, number: int) -> str:
    """The name of a Service's copy: `web-00042`."""
    return f"{name}-{number:0{_COPY_DIGITS}}"


def _metadata(name: str, namespace: str, labels: Mapping[str, str], annotations: Mapping[str, str]) -> Object:
    metadata: Object = {"name": name, "namespace": namespace}
    if labels:
        metadata["labels"] = dict(labels)
    if annotations:
        metadata["annotations"] = dict(annotations)
    return metadata


def _in_namespace(manifest: Mapping[str, Any], namespace: str) -> Object:
    """A copy of an object whose metadata, spec and lists of ports may be changed."""
    spec = {**manifest["spec"]}
    if "ports" in spec:
        spec["ports"] = [dict(port) for port in spec["ports"]]
    return {**manifest, "metadata": {**manifest["metadata"], "namespace": namespace}, "spec": spec}


def _kept(data: Mapping[str, Any], *keys: str) -> Object:
    return {key: data[key] for key in keys if key in data}


def _template(deployment: Deployment) -> Object:
    """The pod template of a workload."""
    manifest = deployment.manifest
    if manifest is not None:
        return dict(manifest if deployment.kind == "Pod" else manifest["spec"]["template"])
    metadata: Object = {"labels": dict(deployment.labels)}
    if deployment.annotations:
        metadata["annotations"] = dict(deployment.annotations)
    ports = [PodPort(port.port, port.protocol, port.name) for port in deployment.ports]
    return {"metadata": metadata, "spec": {"containers": _containers([], ports)}}


def _containers(containers: Sequence[Mapping[str, Any]], ports: Sequence[PodPort]) -> list[Object]:
    """The containers, the first of them with the ports that none of them names."""
    own = [dict(container) for container in containers] or [{"name": "backend", "image": IMAGE}]
    named = {
        (port.get("containerPort"), port.get("protocol", "TCP"))
        for container in own
        for port in container.get("ports") or ()
    }
    more = [_container_port(port) for port in ports if (port.number, port.protocol) not in named]
    if more:
        own[0] = {**own[0], "ports": [*(own[0].get("ports") or ()), *more]}
    return own


def _container_port(port: PodPort) -> Object:
    named = {"name": port.name} if port.name else {}
    return {**named, "containerPort": port.number, "protocol": port.protocol}


def _service_spec(service: Service) -> Object:
    spec: Object = {"type": service.type}
    if selector := selector_of(service):
        spec["selector"] = dict(selector)
    if service.ports:
        spec["ports"] = [_service_port(port) for port in service.ports]
    given = {
        "clusterIP": service.cluster_ip,
        "externalName": service.external_name,
        "externalIPs": list(service.external_ips),
        "loadBalancerSourceRanges": list(service.load_balancer_source_ranges),
        "healthCheckNodePort": service.health_check_node_port,
        "publishNotReadyAddresses": service.publish_not_ready_addresses,
        "ipFamilies": list(service.ip_families),
        "ipFamilyPolicy": service.ip_family_policy,
    }
    spec |= {key: value for key, value in given.items() if value}
    if service.type == "ExternalName":
        return spec
    spec["sessionAffinity"] = service.session_affinity
    if service.session_affinity_timeout_s is not None:
        spec["sessionAffinityConfig"] = {"clientIP": {"timeoutSeconds": service.session_affinity_timeout_s}}
    spec["internalTrafficPolicy"] = service.internal_traffic_policy
    if service.type in ("NodePort", "LoadBalancer") or service.external_ips:
        spec["externalTrafficPolicy"] = service.external_traffic_policy
    return spec


def _service_port(port: Port) -> Object:
    made: Object = {"name": port.name} if port.name else {}
    made |= {"port": port.port, "targetPort": port.target, "protocol": port.protocol}
    if port.node_port is not None:
        made["nodePort"] = port.node_port
    if port.app_protocol is not None:
        made["appProtocol"] = port.app_protocol
    return made
