"""The three ways to patch an object: JSON merge patch, JSON patch, and Kubernetes' strategic merge.

Pure functions: they return a patched copy and leave their arguments alone.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from testbed.cluster.api import failures

MERGE = "application/merge-patch+json"
JSON = "application/json-patch+json"
STRATEGIC = "application/strategic-merge-patch+json"

MERGE_KEYS: Mapping[str, str | None] = {
    "conditions": "type",
    "containers": "name",
    "initContainers": "name",
    "ephemeralContainers": "name",
    "volumes": "name",
    "volumeMounts": "mountPath",
    "volumeDevices": "devicePath",
    "env": "name",
    "imagePullSecrets": "name",
    "hostAliases": "ip",
    "topologySpreadConstraints": "topologyKey",
    "podIPs": "ip",
    "hostIPs": "ip",
    "secrets": "name",
    "ownerReferences": "uid",
    "finalizers": None,
}
"""Lists that strategic merge merges: by the field named, or (None) as sets of plain values.

From the patchMergeKey and patchStrategy tags of k8s.io/api; `ports` and `addresses`, whose key depends on
the kind, are in `_merge_key`. Every other list is replaced whole.
"""


def apply_patch(content_type: str, obj: dict[str, Any], patch: Any) -> dict[str, Any]:
    """Return `obj` patched. Raises ApiError: 400 for a malformed patch, 415 for an unknown type."""
    if content_type == JSON:
        return _json_patch(obj, patch)
    if content_type not in (MERGE, STRATEGIC):
        raise failures.unsupported_media_type(content_type, (JSON, MERGE, STRATEGIC))
    if not isinstance(patch, dict):
        raise failures.bad_request("the patch must be an object")
    merged = merge_patch(obj, patch) if content_type == MERGE else strategic_merge(obj, patch)
    if not isinstance(merged, dict):
        raise failures.bad_request("the patch would replace the object")
    return merged


def merge_patch(target: Any, patch: Any) -> Any:
    """Merge by RFC 7386: null deletes, objects merge, anything else replaces."""
    if not isinstance(patch, dict):
        return copy.deepcopy(patch)
    merged = dict(target) if isinstance(target, dict) else {}
    for key, value in patch.items():
        if value is None:
            merged.pop(key, None)
        else:
            merged[key] = merge_patch(merged.get(key), value)
    return merged


def strategic_merge(target: Any, patch: dict[str, Any]) -> Any:
    """Merge as Kubernetes does: like a merge patch, but lists of named things merge item by item.

    Understands the directives `$patch: replace|delete|merge`, `$deleteFromPrimitiveList/...`,
    `$setElementOrder/...` and `$retainKeys`.
    """
    directive = patch.get("$patch")
    if directive == "replace":
        return {key: value for key, value in patch.items() if key != "$patch"}
    if directive == "delete":
        return {}
    merged = dict(target) if isinstance(target, dict) else {}
    if isinstance(retain := patch.get("$retainKeys"), list):
        merged = {key: value for key, value in merged.items() if key in retain}
    for key, value in patch.items():
        if key.startswith("$deleteFromPrimitiveList/"):
            field = key.partition("/")[2]
            merged[field] = [item for item in _as_list(merged.get(field)) if item not in _as_list(value)]
        elif key.startswith("$"):
            continue
        elif value is None:
            merged.pop(key, None)
        elif isinstance(value, dict):
            merged[key] = strategic_merge(merged.get(key), value)
        elif isinstance(value, list):
            merged[key] = _merge_lists(key, _as_list(merged.get(key)), value)
        else:
            merged[key] = value
    for key, order in patch.items():
        field = key.removeprefix("$setElementOrder/")
        if field != key and field in merged:
            merged[field] = _ordered(field, _as_list(merged[field]), _as_list(order))
    return merged


def _as_list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _merge_key(field: str, items: Sequence[Any]) -> str | None:
    """Return the identifying field of the items of a list, or None when it has none."""
    if field == "ports":
        return "containerPort" if any("containerPort" in item for item in items) else "port"
    if field == "addresses":
        return "type" if any("type" in item for item in items) else None
    return MERGE_KEYS.get(field)


def _merge_lists(field: str, target: list[Any], patch: list[Any]) -> list[Any]:
    if field == "finalizers":
        return target + [item for item in patch if item not in target]
    if not all(isinstance(item, dict) for item in (*target, *patch)):
        return copy.deepcopy(patch)
    directives = [item for item in patch if item.get("$patch") == "replace" and len(item) == 1]
    key = _merge_key(field, (*target, *patch))
    if directives or key is None:
        return [copy.deepcopy(item) for item in patch if item not in directives]
    merged = list(target)
    for item in patch:
        if key not in item:
            raise failures.bad_request(f"map: {item} does not contain declared merge key: {key}")
        places = [n for n, known in enumerate(merged) if _same(field, key, known, item)]
        if item.get("$patch") == "delete":
            merged = [known for n, known in enumerate(merged) if n not in places]
        elif places:
            merged[places[0]] = strategic_merge(merged[places[0]], item)
        else:
            merged.append(strategic_merge({}, item))
    return merged


def _same(field: str, key: str, known: Mapping[str, Any], item: Mapping[str, Any]) -> bool:
    """Say whether an item of a patch means `known`; ports are told apart by their protocol, too."""
    if known.get(key) != item.get(key):
        return False
    if field != "ports" or "protocol" not in item:
        return True
    return bool(known.get("protocol", "TCP") == item["protocol"])


def _ordered(field: str, items: list[Any], order: list[Any]) -> list[Any]:
    """Put the items that `order` names into its order; the others stay behind the one they followed."""
    key = _merge_key(field, [item for item in (*items, *order) if isinstance(item, dict)])

    def identity(item: Any) -> Any:
        return item.get(key) if isinstance(item, dict) and key else item

    places = {repr(identity(item)): place for place, item in enumerate(order)}
    last = -1
    ranked = []
    for number, item in enumerate(items):
        last = places.get(repr(identity(item)), last)
        ranked.append((last, number, item))
    return [item for _, _, item in sorted(ranked, key=lambda entry: entry[:2])]


def _json_patch(obj: dict[str, Any], patch: Any) -> dict[str, Any]:
    if not isinstance(patch, list):
        raise failures.bad_request("a JSON patch is an array of operations")
    document = {"": copy.deepcopy(obj)}  # so that the whole document has a parent, too
    for number, operation in enumerate(patch):
        try:
            _operate(document, operation)
        except (KeyError, IndexError, TypeError, ValueError, AttributeError) as error:
            raise failures.bad_request(f"JSON patch operation {number} cannot be applied: {error}") from error
    result = document.get("")
    if not isinstance(result, dict):
        raise failures.bad_request("the patch would replace the object")
    return result


def _operate(document: dict[str, Any], operation: Mapping[str, Any]) -> None:
    path = operation["path"]
    match operation["op"]:
        case "add":
            _put(document, path, operation["value"])
        case "remove":
            _take(document, path)
        case "replace":
            _take(document, path) if path else None
            _put(document, path, operation["value"])
        case "move":
            _put(document, path, _take(document, operation["from"]))
        case "copy":
            _put(document, path, copy.deepcopy(_look(document, operation["from"])))
        case "test":
            if _look(document, path) != operation["value"]:
                raise ValueError(f"test of {path} failed")
        case unknown:
            raise ValueError(f"unknown operation {unknown!r}")


def _parts(path: str) -> list[str]:
    if path and not path.startswith("/"):
        raise ValueError(f"{path!r} is not a JSON pointer")
    return [part.replace("~1", "/").replace("~0", "~") for part in path.split("/")]


def _parent(document: Any, path: str) -> tuple[Any, Any]:
    """Return the container that `path` points into, and the key or index in it."""
    *outer, last = _parts(path)
    for part in outer:
        document = document[int(part) if isinstance(document, list) else part]
    if isinstance(document, list):
        index = len(document) if last == "-" else int(last)
        if not 0 <= index <= len(document):
            raise IndexError(f"{path} is out of range")
        return document, index
    if not isinstance(document, dict):
        raise TypeError(f"{path} leads through a plain value")
    return document, last


def _look(document: dict[str, Any], path: str) -> Any:
    container, key = _parent(document, path)
    return container[key]


def _put(document: dict[str, Any], path: str, value: Any) -> None:
    container, key = _parent(document, path)
    put: Callable[[Any, Any], None] = (
        container.insert if isinstance(container, list) else container.__setitem__
    )
    put(key, copy.deepcopy(value))


def _take(document: dict[str, Any], path: str) -> Any:
    container, key = _parent(document, path)
    return container.pop(key)
