"""Which kinds of objects the control plane serves, as data: one line each.

Must not know how they are stored, checked or reconciled.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property


@dataclass(frozen=True, eq=False)
class Resource:
    """One kind of object and how it is addressed; compared by identity.

    `fields` are the paths that field selectors may use besides metadata.name and metadata.namespace;
    `name_rule` is the Kubernetes name format that metadata.name must have: `subdomain`, `label`, or
    `service` (a label that starts with a letter).
    """

    kind: str
    plural: str
    group: str = ""
    version: str = "v1"
    namespaced: bool = True
    short: tuple[str, ...] = ()
    categories: tuple[str, ...] = ()
    fields: tuple[str, ...] = ()
    subresources: tuple[str, ...] = ()
    name_rule: str = "subdomain"

    @property
    def singular(self) -> str:
        return self.kind.lower()

    @cached_property
    def api_version(self) -> str:
        """The object's `apiVersion`, such as `apps/v1`."""
        return f"{self.group}/{self.version}" if self.group else self.version

    @property
    def qualified(self) -> str:
        """The plural with its group, as error messages name it: `services`, `deployments.apps`."""
        return f"{self.plural}.{self.group}" if self.group else self.plural

    @cached_property
    def root(self) -> str:
        """URL path of the group and version: `/api/v1` or `/apis/<group>/<version>`."""
        return f"/apis/{self.api_version}" if self.group else f"/api/{self.version}"

    def path(self, namespace: str = "", name: str = "", subresource: str = "") -> str:
        """URL path of the collection, of one object, or of a part of one."""
        parts = [self.root]
        if self.namespaced and namespace:
            parts += ["namespaces", namespace]
        parts += [part for part in (self.plural, name, subresource) if part]
        return "/".join(parts)


ALL = ("all",)
STATUS = ("status",)

NAMESPACES = Resource(
    "Namespace", "namespaces", namespaced=False, short=("ns",), subresources=STATUS, name_rule="label"
)
NODES = Resource("Node", "nodes", namespaced=False, short=("no",), subresources=STATUS)
PODS = Resource(
    "Pod",
    "pods",
    short=("po",),
    categories=ALL,
    fields=("spec.nodeName", "status.phase", "status.podIP"),
    subresources=("status", "log"),
)
SERVICES = Resource(
    "Service",
    "services",
    short=("svc",),
    categories=ALL,
    fields=("spec.clusterIP", "spec.type"),
    subresources=STATUS,
    name_rule="service",
)
ENDPOINTS = Resource("Endpoints", "endpoints", short=("ep",))
CONFIGMAPS = Resource("ConfigMap", "configmaps", short=("cm",))
SERVICEACCOUNTS = Resource("ServiceAccount", "serviceaccounts", short=("sa",))
EVENTS = Resource("Event", "events", short=("ev",), fields=("involvedObject.name", "involvedObject.kind"))
ENDPOINTSLICES = Resource("EndpointSlice", "endpointslices", "discovery.k8s.io")
DEPLOYMENTS = Resource(
    "Deployment",
    "deployments",
    "apps",
    short=("deploy",),
    categories=ALL,
    subresources=("status", "scale"),
)

DAEMONSETS = Resource("DaemonSet", "daemonsets", "apps", short=("ds",), categories=ALL, subresources=STATUS)
TEMPLATED = (DEPLOYMENTS, DAEMONSETS)
"""Kinds whose specification has generations, by which their users see whether it was acted upon."""

RESOURCES = (
    NAMESPACES,
    NODES,
    PODS,
    SERVICES,
    ENDPOINTS,
    CONFIGMAPS,
    SERVICEACCOUNTS,
    EVENTS,
    ENDPOINTSLICES,
    DEPLOYMENTS,
    DAEMONSETS,
)

BY_KIND = {(resource.api_version, resource.kind): resource for resource in RESOURCES}
BY_PATH = {(resource.group, resource.version, resource.plural): resource for resource in RESOURCES}
KINDS = {resource.kind: resource for resource in RESOURCES}
