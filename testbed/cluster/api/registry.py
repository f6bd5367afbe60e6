"""The verbs of the API over the store: what a request means once its HTTP is taken off.

Every method is one step: it admits, writes, and lets the controllers settle before it returns. Must not
know HTTP or event loops.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from testbed.cluster.api import failures
from testbed.cluster.api.admission import admit
from testbed.cluster.api.allocation import ServiceAllocator
from testbed.cluster.api.patches import apply_patch
from testbed.cluster.api.shapes import check_shape, without_nulls
from testbed.cluster.controllers import Controllers
from testbed.cluster.mint import Mint
from testbed.cluster.removal import Later, Removal
from testbed.cluster.resources import (
    BY_KIND,
    DEPLOYMENTS,
    ENDPOINTS,
    NAMESPACES,
    SERVICES,
    TEMPLATED,
    Resource,
)
from testbed.cluster.selectors import Selection
from testbed.cluster.store import DELETED, Event, Object, Record, Store
from testbed.errors import ApiError
from testbed.spec.networks import LOAD_BALANCER_NETWORK

SYSTEM_NAMESPACES = ("default", "kube-system", "kube-public")
_LOAD_STEP = 500  # objects loaded between two looks at other requests: some 30 ms


@dataclass(frozen=True)
class Settings:
    """What a control plane is told at its start.

    The CIDRs are one network, or an IPv4 and an IPv6 one separated by a comma. `default_grace_s` is the
    grace of pods that state none, `pod_logs` the directory of pods' logs, if they have any.
    """

    service_cidr: str = "10.96.0.0/12"
    node_port_range: tuple[int, int] = (30000, 32767)
    lb_cidr: str = str(LOAD_BALANCER_NETWORK)
    seed: int = 0
    default_grace_s: int = 0
    pod_logs: Path | None = None


@dataclass(frozen=True)
class DeleteOptions:
    """How to delete: a pod's grace, what happens to dependents, and which object is meant."""

    grace_s: int | None = None
    orphan: bool = False
    uid: str = ""
    version: str = ""


class Registry:
    """All objects of one cluster, as the API's verbs see them. `later` calls a function after seconds."""

    def __init__(self, settings: Settings, later: Later) -> None:
        self.store = Store()
        self._mint = Mint(settings.seed)
        self._allocator = ServiceAllocator(settings.service_cidr, settings.node_port_range, settings.lb_cidr)

        def later_settled(after_s: float, action: Callable[[], None]) -> None:
            def act() -> None:
                action()
                self._controllers.settle()

            later(after_s, act)

        self._removal = Removal(self.store, self._mint, later_settled, settings.default_grace_s)
        self._controllers = Controllers(self.store, self._mint, self._removal)
        self.store.observe(SERVICES, self._release_service)
        for name in SYSTEM_NAMESPACES:
            self.create(NAMESPACES, "", {"metadata": {"name": name}})

    def _release_service(self, event: Event) -> None:
        if event.type == DELETED:
            self._allocator.release(event.record.parsed())

    def read(self, resource: Resource) -> Store:
        """Return the store for reading objects of `resource`, which are then there if anything makes them."""
        if resource is ENDPOINTS:
            self._controllers.want_endpoints()
        return self.store

    def create(self, resource: Resource, namespace: str, obj: Any) -> Record:
        """Store a new object. Raises ApiError: 400, 404 (namespace), 409 or 422."""
        record = self._create(resource, namespace, obj)
        self._controllers.settle()
        return self.store.find(resource, *record.key) or record

    def _create(self, resource: Resource, namespace: str, obj: Any) -> Record:
        _check_kind(resource, obj)
        check_shape(resource, obj)
        metadata = obj.setdefault("metadata", {})
        self._place(resource, namespace, metadata)
        if not metadata.get("name") and metadata.get("generateName"):
            metadata["name"] = metadata["generateName"] + self._mint.suffix()
        if not metadata.get("name"):
            raise failures.invalid(
                resource,
                "",
                [
                    failures.Cause(
                        "metadata.name",
                        "FieldValueRequired",
                        "Required value: name or generateName is required",
                    )
                ],
            )
        if self.store.find(resource, metadata.get("namespace", ""), metadata["name"]):
            raise failures.already_exists(resource, metadata["name"])
        admit(resource, obj, None)
        if resource is SERVICES:
            self._allocator.allocate(obj, None)
        for field in ("deletionTimestamp", "deletionGracePeriodSeconds"):
            metadata.pop(field, None)
        metadata["uid"] = self._mint.uid()
        metadata["creationTimestamp"] = self._mint.now()
        if resource in TEMPLATED:
            metadata["generation"] = 1
        head = {"kind": resource.kind, "apiVersion": resource.api_version}
        try:
            return self.store.create(resource, {**head, **obj})
        except orjson.JSONEncodeError:
            if resource is SERVICES:
                self._allocator.release(obj)
            raise

    def _place(self, resource: Resource, namespace: str, metadata: Object) -> None:
        """Put a new object into its namespace, which must exist."""
        if not resource.namespaced:
            metadata.pop("namespace", None)
            return
        stated = metadata.setdefault("namespace", namespace)
        if stated != namespace:
            raise failures.bad_request(
                f"the namespace of the provided object does not match the namespace sent on the request "
                f"({stated!r} and {namespace!r})"
            )
        self.store.get(NAMESPACES, "", namespace)

    def load(self, objects: Any) -> Iterator[int]:
        """Create objects of any kinds in order; yields their number so far between steps.

        Whoever iterates may do other things between the steps. The controllers settle once, at the end,
        and addresses and ports that any of `objects` names are kept for it. Raises ApiError naming the
        first object that is refused; those before it stay.
        """
        if not isinstance(objects, list):
            raise failures.bad_request("the body must be an array of objects")
        self._allocator.hold(objects)
        try:
            for index, obj in enumerate(objects):
                if index and index % _LOAD_STEP == 0:
                    yield index
                self._load_one(index, obj)
        finally:
            self._allocator.hold(())
            self._controllers.settle()

    def _load_one(self, index: int, obj: Any) -> None:
        try:
            if not isinstance(obj, dict):
                raise failures.bad_request("not an object")
            resource = BY_KIND.get((str(obj.get("apiVersion")), str(obj.get("kind"))))
            if resource is None:
                raise failures.bad_request(f"no kind {obj.get('kind')!r} in {obj.get('apiVersion')!r}")
            metadata = obj.get("metadata")
            if not isinstance(metadata, dict):
                metadata = {}
            if resource is NAMESPACES and self.store.find(NAMESPACES, "", str(metadata.get("name"))):
                return  # a list of objects may begin with the namespaces that it needs
            namespace = metadata.get("namespace")
            self._create(resource, namespace if isinstance(namespace, str) else "default", obj)
        except ApiError as error:
            raise ApiError(error.code, error.reason, f"[{index}]: {error.message}", error.details) from error

    def replace(
        self, resource: Resource, namespace: str, name: str, obj: Any, subresource: str = ""
    ) -> Record:
        """Put a new state in the place of the old. Raises ApiError: 400, 404, 409 or 422."""
        _check_kind(resource, obj)
        return self._write(resource, self.store.get(resource, namespace, name), obj, subresource)

    def patch(
        self,
        resource: Resource,
        namespace: str,
        name: str,
        content_type: str,
        patch: Any,
        subresource: str = "",
    ) -> Record:
        """Change an object by a patch. Raises ApiError: 400, 404, 409, 415 or 422."""
        old = self.store.get(resource, namespace, name)
        return self._write(
            resource, old, without_nulls(apply_patch(content_type, old.parsed(), patch)), subresource
        )

    def _write(self, resource: Resource, old: Record, new: Any, subresource: str) -> Record:
        check_shape(resource, new)
        metadata = new.setdefault("metadata", {})
        metadata.setdefault("name", old.name)
        if old.namespace:
            metadata.setdefault("namespace", old.namespace)
        if (metadata.get("namespace", ""), metadata["name"]) != old.key:
            raise failures.bad_request(
                f"the name of the object ({metadata['name']}) does not match the name on the URL ({old.name})"
            )
        expected = metadata.get("resourceVersion") or str(old.version)
        if expected != str(old.version) or metadata.get("uid", old.uid) != old.uid:
            raise failures.conflict(resource, old.name)
        before = old.parsed()
        _keep_what_is_not_theirs(resource, new, before, subresource)
        admit(resource, new, before)
        if resource is SERVICES:
            self._allocator.allocate(new, before)
        if resource in TEMPLATED and new["spec"] != before["spec"]:
            new["metadata"]["generation"] = before["metadata"].get("generation", 0) + 1
        new = {"kind": resource.kind, "apiVersion": resource.api_version, **new}
        if new == before:
            return old
        record = self._removal.finish(resource, self.store.update(resource, new))
        self._controllers.settle()
        return self.store.find(resource, *record.key) or record

    def delete(self, resource: Resource, namespace: str, name: str, options: DeleteOptions) -> Record:
        """Delete an object or begin to; returns its last or present state.

        Raises ApiError: 403 for a namespace the cluster needs, 404, or 409 when another one is meant.
        """
        record = self.store.get(resource, namespace, name)
        if options.uid not in ("", record.uid) or options.version not in ("", str(record.version)):
            raise failures.conflict(resource, name, "the preconditions do not hold")
        if resource is NAMESPACES:
            self._empty_namespace(name)
        if options.orphan:
            self._removal.orphan(record.uid)
        record = self._removal.delete(resource, namespace, name, options.grace_s)
        self._controllers.settle()
        return record

    def _empty_namespace(self, name: str) -> None:
        if name in SYSTEM_NAMESPACES:
            raise failures.forbidden(NAMESPACES, name, "this namespace may not be deleted")
        for resource in BY_KIND.values():
            if resource.namespaced:
                for record in self.store.list(resource, Selection(name)).records:
                    self._removal.delete(resource, name, record.name, 0)

    def delete_all(
        self, resource: Resource, selection: Selection, options: DeleteOptions
    ) -> Sequence[Record]:
        """Delete the selected objects; returns what they were."""
        records = self.store.list(resource, selection).records
        for record in records:
            self.delete(resource, record.namespace, record.name, options)
        return records

    def scale_of(self, record: Record) -> Object:
        """Return the Scale of a Deployment."""
        deployment = record.parsed()
        metadata = deployment["metadata"]
        fields = ("name", "namespace", "uid", "resourceVersion", "creationTimestamp")
        labels = deployment["spec"]["selector"].get("matchLabels", {})
        return {
            "kind": "Scale",
            "apiVersion": "autoscaling/v1",
            "metadata": {field: metadata[field] for field in fields},
            "spec": {"replicas": deployment["spec"]["replicas"]},
            "status": {
                "replicas": deployment["status"].get("replicas", 0),
                "selector": ",".join(f"{key}={value}" for key, value in labels.items()),
            },
        }

    def replace_scale(self, namespace: str, name: str, scale: Any) -> Record:
        """Set the replicas of a Deployment to those of a Scale. Raises ApiError: 400, 404, 409 or 422."""
        check_shape(DEPLOYMENTS, scale, "Scale")
        old = self.store.get(DEPLOYMENTS, namespace, name)
        new = old.parsed()
        new["spec"]["replicas"] = scale.get("spec", {}).get("replicas", 0)
        version = scale.get("metadata", {}).get("resourceVersion")
        if version:
            new["metadata"]["resourceVersion"] = version
        return self._write(DEPLOYMENTS, old, new, "")

    def patch_scale(self, namespace: str, name: str, content_type: str, patch: Any) -> Record:
        """Patch the Scale of a Deployment. Raises ApiError: 400, 404, 409, 415 or 422."""
        scale = self.scale_of(self.store.get(DEPLOYMENTS, namespace, name))
        return self.replace_scale(namespace, name, without_nulls(apply_patch(content_type, scale, patch)))


def _check_kind(resource: Resource, obj: Any) -> None:
    if not isinstance(obj, dict):
        raise failures.bad_request("the body must be an object")
    for field, wanted in (("apiVersion", resource.api_version), ("kind", resource.kind)):
        if obj.get(field, wanted) != wanted:
            raise failures.bad_request(
                f"the {field} in the data ({obj[field]}) does not match the expected one ({wanted})"
            )


def _keep_what_is_not_theirs(
    resource: Resource, new: Object, before: Mapping[str, Any], subresource: str
) -> None:
    """Undo what a write may not change: the status, or (through /status) everything else; the history."""
    if subresource == "status":
        status = new.get("status", {})
        new.clear()
        new.update(before, status=status)
        new["metadata"] = dict(before["metadata"])
    elif "status" in resource.subresources and "status" in before:
        new["status"] = before["status"]
    for field in (
        "uid",
        "creationTimestamp",
        "deletionTimestamp",
        "deletionGracePeriodSeconds",
        "generation",
    ):
        new["metadata"].pop(field, None)
        if field in before["metadata"]:
            new["metadata"][field] = before["metadata"][field]
    new["metadata"]["resourceVersion"] = before["metadata"]["resourceVersion"]
