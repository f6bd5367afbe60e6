"""What a URL is about: parsed once, by Kubernetes' scheme of paths."""

from __future__ import annotations

from typing import NamedTuple

from testbed.cluster.resources import BY_PATH, NAMESPACES, Resource


class Target(NamedTuple):
    """A collection (no name), an object, or a part of one; an empty namespace means all."""

    resource: Resource
    namespace: str = ""
    name: str = ""
    subresource: str = ""


def parse_target(path: str) -> Target | None:
    """Return what a path such as `/api/v1/namespaces/default/pods/web/status` means, or None."""
    match path.strip("/").split("/"):
        case ["api", version, *rest] if rest:
            return _parse_rest("", version, rest)
        case ["apis", group, version, *rest] if rest and group:
            return _parse_rest(group, version, rest)
    return None


def _parse_rest(group: str, version: str, rest: list[str]) -> Target | None:
    if not all(rest):
        return None
    namespace = ""
    if len(rest) >= 3 and rest[0] == "namespaces" and (group or rest[2] not in NAMESPACES.subresources):
        namespace, rest = rest[1], rest[2:]
    resource = BY_PATH.get((group, version, rest[0]))
    if resource is None or len(rest) > 3:
        return None
    name, subresource = (*rest[1:], "", "")[:2]
    if name and resource.namespaced != bool(namespace):
        return None
    if namespace and not resource.namespaced:
        return None
    if subresource and subresource not in resource.subresources:
        return None
    return Target(resource, namespace, name, subresource)
