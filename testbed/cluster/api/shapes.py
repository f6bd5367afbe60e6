"""The types of the fields that the control plane reads, as data, and the check against them.

A shape is a type, a tuple of types, a list of one shape, a map `{str: shape}`, or an object
`{"field": shape, ...}`. Fields that no shape names pass unchecked; null counts as absent.
"""

from __future__ import annotations

from typing import Any

from testbed.cluster.api import failures
from testbed.cluster.resources import Resource

LABELS = {str: str}
INT_OR_NAME = (int, str)

METADATA = {
    "name": str,
    "generateName": str,
    "namespace": str,
    "uid": str,
    "resourceVersion": str,
    "labels": LABELS,
    "annotations": LABELS,
    "finalizers": [str],
    "ownerReferences": [{"apiVersion": str, "kind": str, "name": str, "uid": str}],
    "deletionTimestamp": str,
}

CONDITION = {"type": str, "status": str, "lastTransitionTime": str}

SELECTOR = {
    "matchLabels": LABELS,
    "matchExpressions": [{"key": str, "operator": str, "values": [str]}],
}

CONTAINER = {
    "name": str,
    "image": str,
    "command": [str],
    "args": [str],
    "env": [{"name": str, "value": str}],
    "volumeMounts": [{"name": str, "mountPath": str}],
    "ports": [{"name": str, "containerPort": int, "protocol": str, "hostPort": int}],
}

POD_SPEC = {
    "nodeName": str,
    "nodeSelector": LABELS,
    "hostNetwork": bool,
    "terminationGracePeriodSeconds": int,
    "containers": [CONTAINER],
    "initContainers": [CONTAINER],
    "volumes": [{"name": str, "configMap": {"name": str}}],
}

ENDPOINT_PORT = {"name": str, "port": int, "protocol": str, "appProtocol": str}

ENDPOINT_ADDRESSES = [{"ip": str, "hostname": str, "nodeName": str, "targetRef": {"name": str}}]

SHAPES: dict[str, Any] = {
    "Service": {
        "spec": {
            "type": str,
            "clusterIP": str,
            "clusterIPs": [str],
            "ipFamilies": [str],
            "ipFamilyPolicy": str,
            "externalName": str,
            "externalIPs": [str],
            "selector": LABELS,
            "sessionAffinity": str,
            "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": int}},
            "internalTrafficPolicy": str,
            "externalTrafficPolicy": str,
            "healthCheckNodePort": int,
            "loadBalancerIP": str,
            "loadBalancerSourceRanges": [str],
            "loadBalancerClass": str,
            "allocateLoadBalancerNodePorts": bool,
            "publishNotReadyAddresses": bool,
            "trafficDistribution": str,
            "ports": [
                {
                    "name": str,
                    "port": int,
                    "targetPort": INT_OR_NAME,
                    "nodePort": int,
                    "protocol": str,
                    "appProtocol": str,
                }
            ],
        },
        "status": {
            "loadBalancer": {"ingress": [{"ip": str, "hostname": str, "ipMode": str}]},
            "conditions": [CONDITION],
        },
    },
    "EndpointSlice": {
        "addressType": str,
        "endpoints": [
            {
                "addresses": [str],
                "conditions": {"ready": bool, "serving": bool, "terminating": bool},
                "hostname": str,
                "nodeName": str,
                "zone": str,
                "targetRef": {"kind": str, "namespace": str, "name": str, "uid": str},
                "hints": {"forZones": [{"name": str}]},
            }
        ],
        "ports": [ENDPOINT_PORT],
    },
    "Endpoints": {
        "subsets": [
            {
                "addresses": ENDPOINT_ADDRESSES,
                "notReadyAddresses": ENDPOINT_ADDRESSES,
                "ports": [ENDPOINT_PORT],
            }
        ]
    },
    "Pod": {
        "spec": POD_SPEC,
        "status": {
            "phase": str,
            "podIP": str,
            "podIPs": [{"ip": str}],
            "hostIP": str,
            "conditions": [CONDITION],
            "containerStatuses": [{"name": str, "ready": bool, "restartCount": int}],
        },
    },
    "Deployment": {
        "spec": {
            "replicas": int,
            "selector": SELECTOR,
            "strategy": {"type": str},
            "template": {"metadata": METADATA, "spec": POD_SPEC},
        },
        "status": {"replicas": int, "conditions": [CONDITION]},
    },
    "DaemonSet": {
        "spec": {
            "selector": SELECTOR,
            "updateStrategy": {"type": str},
            "template": {"metadata": METADATA, "spec": POD_SPEC},
        },
        "status": {"conditions": [CONDITION]},
    },
    "Scale": {"spec": {"replicas": int}},
    "Node": {
        "spec": {"podCIDR": str, "podCIDRs": [str], "unschedulable": bool},
        "status": {
            "addresses": [{"type": str, "address": str}],
            "conditions": [CONDITION],
            "nodeInfo": {str: str},
        },
    },
    "Namespace": {"status": {"phase": str}},
    "ConfigMap": {"data": {str: str}, "binaryData": {str: str}},
    "Event": {"involvedObject": {"kind": str, "name": str}},
    "ServiceAccount": {},
}

for _shape in SHAPES.values():
    _shape["apiVersion"] = _shape["kind"] = str
    _shape["metadata"] = METADATA

_JSON_NAMES = {
    str: "string",
    int: "integer",
    bool: "boolean",
    float: "number",
    list: "array",
    dict: "object",
}


def check_shape(resource: Resource, obj: Any, kind: str = "") -> None:
    """Raise ApiError (400) with the path of the first field that has the wrong type."""
    kind = kind or resource.kind
    wrong = _first_wrong(obj, SHAPES[kind], "")
    if wrong:
        raise failures.bad_request(
            f'{kind} in version "{resource.version}" cannot be handled as a {kind}: {wrong}'
        )


def _first_wrong(value: Any, shape: Any, path: str) -> str | None:
    if value is None:
        return None
    if isinstance(shape, dict):
        return _wrong_in_object(value, shape, path)
    if isinstance(shape, list):
        if type(value) is not list:
            return _mismatch(value, list, path)
        for number, item in enumerate(value):
            if item is None:
                return _mismatch(item, dict, f"{path}[{number}]")
            if wrong := _first_wrong(item, shape[0], f"{path}[{number}]"):
                return wrong
        return None
    wanted = shape if isinstance(shape, tuple) else (shape,)
    return None if type(value) in wanted else _mismatch(value, wanted[0], path)


def _wrong_in_object(value: Any, shape: dict[Any, Any], path: str) -> str | None:
    if type(value) is not dict:
        return _mismatch(value, dict, path)
    item_shape = shape.get(str)
    for key, item in value.items():
        inner = item_shape or shape.get(key)
        if inner is None:
            continue
        if inner is str and type(item) is str:  # most fields, without building their path
            continue
        if wrong := _first_wrong(item, inner, f"{path}.{key}" if path else key):
            return wrong
    return None


def _mismatch(value: Any, wanted: type, path: str) -> str:
    found = "null" if value is None else _JSON_NAMES.get(type(value), type(value).__name__)
    return f"{path or 'body'}: expected {_JSON_NAMES[wanted]}, found {found}"


def without_nulls(value: Any) -> Any:
    """Return `value` without the fields that are null, as a typed decoder would read it."""
    if isinstance(value, dict):
        return {key: without_nulls(item) for key, item in value.items() if item is not None}
    if isinstance(value, list):
        return [without_nulls(item) for item in value]
    return value
