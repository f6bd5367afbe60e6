"""The documents by which clients find out what the server serves, made from the table of resources."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

from testbed.cluster.resources import RESOURCES, Resource

Document = dict[str, Any]

VERSION: Document = {
    "major": "1",
    "minor": "30",
    "gitVersion": "v1.30.0+testbed",
    "gitCommit": "",
    "gitTreeState": "clean",
    "buildDate": "1970-01-01T00:00:00Z",
    "goVersion": "",
    "compiler": "",
    "platform": "linux/amd64",
}

_VERBS = ["create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"]
_PART_VERBS = ["get", "patch", "update"]


def documents() -> dict[str, Document]:
    """Return every discovery document by its path."""
    by_version: dict[tuple[str, str], list[Resource]] = defaultdict(list)
    for resource in RESOURCES:
        by_version[resource.group, resource.version].append(resource)
    found: dict[str, Document] = {
        "/version": VERSION,
        "/api": {
            "kind": "APIVersions",
            "versions": [version for group, version in by_version if not group],
            "serverAddressByClientCIDRs": [],
        },
    }
    groups = []
    for (group, _), resources in by_version.items():
        found[resources[0].root] = _resource_list(resources)
        if group:
            groups.append(_group(resources[0]))
            found[f"/apis/{group}"] = {"kind": "APIGroup", "apiVersion": "v1", **groups[-1]}
    found["/apis"] = {"kind": "APIGroupList", "apiVersion": "v1", "groups": groups}
    return found


def _group(resource: Resource) -> Document:
    version = {"groupVersion": resource.api_version, "version": resource.version}
    return {"name": resource.group, "versions": [version], "preferredVersion": version}


def _resource_list(resources: list[Resource]) -> Document:
    entries = []
    for resource in resources:
        entry: Document = {
            "name": resource.plural,
            "singularName": resource.singular,
            "namespaced": resource.namespaced,
            "kind": resource.kind,
            "verbs": _VERBS,
        }
        if resource.short:
            entry["shortNames"] = list(resource.short)
        if resource.categories:
            entry["categories"] = list(resource.categories)
        entries.append(entry)
        entries += [_part(resource, subresource) for subresource in resource.subresources]
    return {
        "kind": "APIResourceList",
        "apiVersion": "v1",
        "groupVersion": resources[0].api_version,
        "resources": entries,
    }


def _part(resource: Resource, subresource: str) -> Document:
    part: Document = {
        "name": f"{resource.plural}/{subresource}",
        "singularName": "",
        "namespaced": resource.namespaced,
        "kind": resource.kind,
        "verbs": _PART_VERBS,
    }
    if subresource == "scale":
        part |= {"group": "autoscaling", "version": "v1", "kind": "Scale"}
    return part
