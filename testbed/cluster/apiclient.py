"""The lab's own client of a control plane: synchronous, over its Unix socket.

Standard library only, so that every process of the lab can afford it.
"""

from __future__ import annotations

import http.client
import json
import socket
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self
from urllib.parse import urlencode

from testbed.cluster.api import failures
from testbed.cluster.resources import RESOURCES, Resource

Object = dict[str, Any]

MERGE = "application/merge-patch+json"
STRATEGIC = "application/strategic-merge-patch+json"
JSON_PATCH = "application/json-patch+json"

_LOAD_TIMEOUT_S = 600.0

_BY_NAME = {
    name: resource
    for resource in RESOURCES
    for name in (resource.kind, resource.plural, resource.singular, *resource.short)
}


class WatchEvent(NamedTuple):
    """What happened (ADDED, MODIFIED, DELETED or BOOKMARK), and the object as it then was."""

    type: str
    object: Object


class Listing(list[Object]):
    """The objects of a list, with the version at which they stood so: where a watch goes on from."""

    resource_version: str = ""


class ApiClient:
    """Speaks to one control plane; may be shared between threads, which then take turns.

    Kinds are named as kubectl takes them: `Service`, `services`, `svc`. Every method raises ApiError when
    the server refuses, and OSError when it does not answer within `timeout_s`.
    """

    def __init__(self, socket_path: Path, timeout_s: float = 60.0) -> None:
        self._socket_path = socket_path
        self._timeout_s = timeout_s
        self._connection: _UnixConnection | None = None
        self._lock = threading.Lock()

    def load(self, objects: Sequence[Mapping[str, Any]]) -> None:
        """Create many objects of any kinds, in order; returns when all that follows from them is there."""
        connection = _UnixConnection(self._socket_path, _LOAD_TIMEOUT_S)
        try:
            connection.request(
                "POST", "/load", json.dumps(objects).encode(), {"Content-Type": "application/json"}
            )
            response = connection.getresponse()
            answer = json.loads(response.read())
        finally:
            connection.close()
        if response.status >= 400:
            raise failures.from_status(response.status, answer)

    def get(self, kind: str, name: str, namespace: str = "default") -> Object:
        """Return one object."""
        return self._request("GET", find_resource(kind).path(namespace, name))

    def list(self, kind: str, namespace: str = "", *, labels: str = "", fields: str = "") -> Listing:
        """Return the objects of a kind in order of creation; no namespace means all of them."""
        answer = self._request(
            "GET",
            _with_query(
                find_resource(kind).path(namespace), {"labelSelector": labels, "fieldSelector": fields}
            ),
        )
        listing = Listing(answer["items"])
        listing.resource_version = answer["metadata"]["resourceVersion"]
        return listing

    def create(self, obj: Mapping[str, Any], namespace: str = "") -> Object:
        """Create an object, by default in the namespace that it names, or in `default`."""
        resource = find_resource(obj["kind"])
        place = namespace or obj.get("metadata", {}).get("namespace", "default")
        return self._request("POST", resource.path(place), obj)

    def replace(self, obj: Mapping[str, Any], subresource: str = "") -> Object:
        """Put a new state in the place of the old; with a resourceVersion only if that is the present one."""
        metadata = obj["metadata"]
        path = find_resource(obj["kind"]).path(
            metadata.get("namespace", "default"), metadata["name"], subresource
        )
        return self._request("PUT", path, obj)

    def patch(
        self,
        kind: str,
        name: str,
        patch: Any,
        namespace: str = "default",
        *,
        subresource: str = "",
        form: str = MERGE,
    ) -> Object:
        """Change an object; a pod's or node's status is changed through the subresource `status`."""
        path = find_resource(kind).path(namespace, name, subresource)
        return self._request("PATCH", path, patch, content_type=form)

    def scale(self, name: str, replicas: int, namespace: str = "default") -> None:
        """Set the number of replicas of a Deployment."""
        self.patch("Deployment", name, {"spec": {"replicas": replicas}}, namespace, subresource="scale")

    def delete(
        self, kind: str, name: str, namespace: str = "default", *, grace_s: int | None = None
    ) -> Object:
        """Delete an object or begin to; returns its state if it stays on for now, else a Status."""
        options = {"gracePeriodSeconds": grace_s} if grace_s is not None else {}
        return self._request("DELETE", find_resource(kind).path(namespace, name), options)

    def watch(
        self,
        kind: str,
        namespace: str = "",
        *,
        resource_version: str = "",
        labels: str = "",
        fields: str = "",
        timeout_s: int = 0,
    ) -> Watch:
        """Follow what happens after `resource_version`, or the present objects first.

        Ends after `timeout_s` (0: when the server likes). Raises ApiError (410) when the version is too old.
        """
        query = {
            "watch": "true",
            "allowWatchBookmarks": "true",
            "resourceVersion": resource_version,
            "labelSelector": labels,
            "fieldSelector": fields,
            "timeoutSeconds": str(timeout_s or ""),
        }
        return Watch(self._socket_path, _with_query(find_resource(kind).path(namespace), query))

    def ready(self) -> bool:
        """Say whether the control plane answers."""
        try:
            return self._send("GET", "/readyz", None, "")[0] == 200
        except OSError:
            return False

    def close(self) -> None:
        """Close the connection; the next call opens another."""
        with self._lock:
            self._disconnect()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _request(
        self, method: str, path: str, body: Any = None, *, content_type: str = "application/json"
    ) -> Object:
        data = None if body is None else json.dumps(body).encode()
        status, answer = self._send(method, path, data, content_type)
        decoded: Object = json.loads(answer)
        if status >= 400:
            raise failures.from_status(status, decoded)
        return decoded

    def _send(self, method: str, path: str, body: bytes | None, content_type: str) -> tuple[int, bytes]:
        with self._lock:
            if self._connection is not None:
                try:
                    return self._exchange(method, path, body, content_type)
                except (http.client.RemoteDisconnected, BrokenPipeError):
                    self._disconnect()  # it had been idle for too long: the request was never read
            return self._exchange(method, path, body, content_type)

    def _exchange(self, method: str, path: str, body: bytes | None, content_type: str) -> tuple[int, bytes]:
        if self._connection is None:
            self._connection = _UnixConnection(self._socket_path, self._timeout_s)
        headers = {"Content-Type": content_type} if body is not None else {}
        try:
            self._connection.request(method, path, body, headers)
            response = self._connection.getresponse()
            return response.status, response.read()
        except OSError:
            self._disconnect()
            raise
        except http.client.HTTPException as error:
            self._disconnect()
            raise ConnectionError(f"{self._socket_path}: {error!r}") from error

    def _disconnect(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None


class _UnixConnection(http.client.HTTPConnection):
    """HTTP over a Unix socket."""

    def __init__(self, path: Path, timeout_s: float | None) -> None:
        super().__init__("localhost", timeout=timeout_s)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))


class Watch(Iterator[WatchEvent]):
    """The events of a watch, on a connection of its own; a context manager.

    Another thread may `close` it, which ends the iteration.
    """

    def __init__(self, socket_path: Path, path: str) -> None:
        self._connection = _UnixConnection(socket_path, None)
        self._connection.request("GET", path)
        self._socket = self._connection.sock
        self._response = self._connection.getresponse()
        if self._response.status != 200:
            refusal = failures.from_status(self._response.status, json.loads(self._response.read()))
            self._connection.close()
            raise refusal

    def __next__(self) -> WatchEvent:
        try:
            line = self._response.readline()
        except (OSError, http.client.HTTPException):
            line = b""
        if not line:
            raise StopIteration
        event = json.loads(line)
        if event["type"] == "ERROR":
            raise failures.from_status(event["object"].get("code", 500), event["object"])
        return WatchEvent(event["type"], event["object"])

    def close(self) -> None:
        """End the watch; harmless when done twice."""
        with suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
        self._connection.close()


def find_resource(name: str) -> Resource:
    """Return the resource that a kind, plural, singular or short name means. Raises ApiError (404)."""
    if name not in _BY_NAME:
        raise failures.from_status(404, {"reason": "NotFound", "message": f"no resource is called {name!r}"})
    return _BY_NAME[name]


def _with_query(path: str, query: Mapping[str, str]) -> str:
    stated = {name: value for name, value in query.items() if value}
    return f"{path}?{urlencode(stated)}" if stated else path
