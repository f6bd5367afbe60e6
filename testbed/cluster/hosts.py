"""Names without packets: the hosts files that nodes and pods see as /etc/hosts.

Pure. A DNS server would put packets on the wires that are being measured; a file does not. Each
Kubernetes namespace has a file of its own, since a short name means the Service of one's own namespace.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

CLUSTER_DOMAIN = "cluster.local"
RESOLVER_TEXT = "nameserver 127.0.0.1\noptions attempts:1 timeout:1\n"
"""What nodes and pods see as /etc/resolv.conf: nobody serves names on loopback, which refuses at once. The
machine's own name server cannot be reached from inside, so that asking it would take ten seconds."""
_HEADLESS = "None"


def hosts_text(
    namespace: str,
    services: Iterable[Mapping[str, Any]],
    pods: Iterable[Mapping[str, Any]],
    nodes: Iterable[Mapping[str, Any]],
) -> str:
    """The hosts file for pods of `namespace`, from Kubernetes objects.

    A Service answers to `web`, `web.default`, `web.default.svc` and `web.default.svc.cluster.local` (the
    first only in its own namespace); pods and nodes answer to their names.
    """
    lines = ["127.0.0.1 localhost", "::1 localhost"]
    lines += [f"{address} {_name(node)}" for node in nodes for address in _node_addresses(node)]
    lines += [f"{address} {_name(pod)}" for pod in pods if (address := pod.get("status", {}).get("podIP"))]
    for service in services:
        names = " ".join(service_names(_name(service), service["metadata"]["namespace"], namespace))
        lines += [f"{address} {names}" for address in _cluster_ips(service)]
    return "\n".join(lines) + "\n"


def service_names(name: str, namespace: str, seen_from: str) -> tuple[str, ...]:
    """Every name by which a Service is known to a pod in namespace `seen_from`."""
    long = (f"{name}.{namespace}", f"{name}.{namespace}.svc", f"{name}.{namespace}.svc.{CLUSTER_DOMAIN}")
    return (name, *long) if namespace == seen_from else long


def _name(item: Mapping[str, Any]) -> str:
    return str(item["metadata"]["name"])


def _node_addresses(node: Mapping[str, Any]) -> list[str]:
    addresses = node.get("status", {}).get("addresses", [])
    return [entry["address"] for entry in addresses if entry["type"] == "InternalIP"]


def _cluster_ips(service: Mapping[str, Any]) -> list[str]:
    spec = service["spec"]
    addresses = spec.get("clusterIPs") or [spec.get("clusterIP", "")]
    return [address for address in addresses if address and address != _HEADLESS]
