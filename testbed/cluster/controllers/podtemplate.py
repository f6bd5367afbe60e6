"""A pod from a controller's template.

Owns what a pod takes over from the template and what the controller adds. Must not know which controller.
"""

from __future__ import annotations

import copy
from typing import Any

from testbed.cluster.mint import Mint
from testbed.cluster.resources import PODS
from testbed.cluster.store import Object, Store


def pod_from(
    template: Object,
    *,
    namespace: str,
    stem: str,
    labels: dict[str, str],
    owner: dict[str, Any],
    store: Store,
    mint: Mint,
) -> Object:
    """A pending pod of `template`, on no node yet, with a name that begins with `stem` and is free."""
    template = copy.deepcopy(template)
    metadata = template["metadata"]
    while store.find(PODS, namespace, name := stem + mint.suffix()):
        continue
    return {
        "kind": "Pod",
        "apiVersion": "v1",
        "metadata": {
            **{field: metadata[field] for field in ("annotations",) if field in metadata},
            "name": name,
            "generateName": stem,
            "namespace": namespace,
            "uid": mint.uid(),
            "creationTimestamp": mint.now(),
            "labels": {**metadata.get("labels", {}), **labels},
            "ownerReferences": [owner],
        },
        "spec": template["spec"],
        "status": {"phase": "Pending"},
    }
