"""Bytes in and out: bodies decoded, stored encodings joined to lists and streams without re-encoding."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import orjson

from testbed.cluster.api import failures
from testbed.cluster.api.options import make_token
from testbed.cluster.api.shapes import without_nulls
from testbed.cluster.resources import Resource
from testbed.cluster.store import Object, Page, Record
from testbed.errors import ApiError

JSON = "application/json"
YAML = "application/yaml"
OPENAPI_PROTOBUF = "application/com.github.proto-openapi.spec.v2.v1.0+protobuf"

_LINE_START = {
    kind: b'{"type":"' + kind.encode() + b'","object":' for kind in ("ADDED", "MODIFIED", "DELETED")
}


class Body(NamedTuple):
    """What a client sent."""

    content_type: str
    data: bytes


def decode(body: Body) -> Any:
    """Return the value that a JSON or YAML body holds. Raises ApiError: 400 or 415."""
    if body.content_type == YAML:
        return _from_yaml(body.data)
    if body.content_type not in (JSON, "application/octet-stream", "text/plain"):
        raise failures.unsupported_media_type(body.content_type, (JSON, YAML))
    try:
        return orjson.loads(body.data)
    except orjson.JSONDecodeError as error:
        raise failures.bad_request(f"the body is not JSON: {error}") from error


def decode_object(body: Body) -> Any:
    """Return what a body holds as an object to store: without nulls. Raises ApiError: 400 or 415."""
    value = decode(body)
    return without_nulls(value) if b"null" in body.data or body.content_type == YAML else value


def _from_yaml(data: bytes) -> Any:
    import yaml

    try:
        return orjson.loads(orjson.dumps(yaml.safe_load(data)))  # dates become text, as in JSON
    except (yaml.YAMLError, orjson.JSONEncodeError, ValueError, RecursionError) as error:
        raise failures.bad_request(f"the body is not YAML that fits into JSON: {error}") from error


def paging(page: Page) -> Object:
    """Return the list metadata that tell a client where to go on."""
    if page.position is None:
        return {}
    return {"continue": make_token(page.version, page.position), "remainingItemCount": page.remaining}


def object_list(
    resource: Resource, records: Sequence[Record], version: int, metadata: Object | None = None
) -> list[bytes]:
    """Return the pieces of a List object."""
    head = orjson.dumps(
        {
            "kind": f"{resource.kind}List",
            "apiVersion": resource.api_version,
            "metadata": {"resourceVersion": str(version), **(metadata or {})},
        }
    )
    parts = [head[:-1], b',"items":[']
    for record in records:
        parts += (record.data, b",")
    if records:
        parts.pop()
    parts.append(b"]}")
    return parts


def event_lines(events: Iterable[tuple[str, Record]]) -> bytes:
    """Return watch events as lines."""
    return b"".join([_LINE_START[kind] + record.data + b"}\n" for kind, record in events])


def bookmark(resource: Resource, version: int, *, initial: bool) -> bytes:
    """Return the line that says: everything up to `version` has been sent."""
    metadata: Object = {"resourceVersion": str(version)}
    if initial:
        metadata["annotations"] = {"k8s.io/initial-events-end": "true"}
    obj = {"kind": resource.kind, "apiVersion": resource.api_version, "metadata": metadata}
    return orjson.dumps({"type": "BOOKMARK", "object": obj}) + b"\n"


def error_line(error: ApiError) -> bytes:
    """Return the line that ends a watch for a reason."""
    return orjson.dumps({"type": "ERROR", "object": failures.as_status(error)}) + b"\n"


def openapi(accept: str) -> tuple[str, bytes]:
    """Return type and body of an OpenAPI document without schemas, in the encoding asked for.

    It names no kinds, so clients leave checking to the server and merge by what they know of the kinds.
    The protobuf form (gnostic's openapi.v2.Document) has field 1 `swagger`, and field 2 `info` of fields 1
    `title` and 2 `version`.
    """
    if "protobuf" in accept:
        info = _text(1, "testbed") + _text(2, "v1")
        return OPENAPI_PROTOBUF, _text(1, "2.0") + _bytes(2, info)
    info_object = {"title": "testbed", "version": "v1"}
    return JSON, orjson.dumps({"swagger": "2.0", "info": info_object, "paths": {}, "definitions": {}})


def _text(field: int, value: str) -> bytes:
    return _bytes(field, value.encode())


def _bytes(field: int, value: bytes) -> bytes:
    """Encode a short length-delimited protobuf field."""
    return bytes((field << 3 | 2, len(value))) + value
