"""The query parameters of lists, watches and deletions, read and checked."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from typing import Any, NamedTuple

import orjson

from testbed.cluster.api import failures
from testbed.cluster.api.paths import Target
from testbed.cluster.api.registry import DeleteOptions
from testbed.cluster.selectors import Selection, parse_fields, parse_labels

Query = Mapping[str, str]

WATCH_TIMEOUT_S = 86_400.0
"""How long a watch lasts that asks for no limit: a day, where Kubernetes ends it after half an hour to
balance its load."""


class ListOptions(NamedTuple):
    """Which objects, as of which version (None: now), from which position, how many (0: all)."""

    selection: Selection
    version: int | None
    position: int
    limit: int


class WatchOptions(NamedTuple):
    """Which events, after which version (None: the present objects first), and for how long."""

    selection: Selection
    since: int | None
    timeout_s: float
    bookmarks: bool
    initial_mark: bool  # send a bookmark once the present objects are through


class LogOptions(NamedTuple):
    """How much of a pod's log (None: all), and whether to go on with what it writes later."""

    tail_lines: int | None
    follow: bool


def log_options(query: Query) -> LogOptions:
    """Read what a request for a log says. Raises ApiError (400)."""
    tail_lines = _number(query, "tailLines") if query.get("tailLines") else None
    return LogOptions(tail_lines, _flag(query, "follow"))


def _number(query: Query, name: str, default: int = 0) -> int:
    text = query.get(name, "")
    if not text:
        return default
    if not (text.isascii() and text.isdigit() and len(text) < 19):
        raise failures.bad_request(f"{name}: Invalid value: {text!r}: must be a whole number")
    return int(text)


def _flag(query: Query, name: str) -> bool:
    return query.get(name, "false") in ("true", "1")


def _selection(query: Query, target: Target) -> Selection:
    return Selection(
        target.namespace,
        parse_labels(query.get("labelSelector", "")),
        parse_fields(query.get("fieldSelector", ""), target.resource),
    )


def list_options(query: Query, target: Target) -> ListOptions:
    """Read the options of a list. Raises ApiError (400)."""
    selection = _selection(query, target)
    limit = _number(query, "limit")
    token = query.get("continue", "")
    if token:
        version, position = read_token(token)
        return ListOptions(selection, version, position, limit)
    exact = query.get("resourceVersionMatch") == "Exact"
    return ListOptions(selection, _number(query, "resourceVersion") if exact else None, 0, limit)


def make_token(version: int, position: int) -> str:
    """Return the token by which a client asks for the rest of a list."""
    return base64.urlsafe_b64encode(orjson.dumps({"rv": version, "start": position})).decode().rstrip("=")


def read_token(token: str) -> tuple[int, int]:
    """Return the version and position in a token. Raises ApiError (400)."""
    try:
        content = orjson.loads(base64.urlsafe_b64decode(token + "=" * (-len(token) % 4)))
        version, position = content["rv"], content["start"]
    except (binascii.Error, ValueError, KeyError, TypeError) as error:
        raise failures.bad_request(f"continue key is not valid: {token!r}") from error
    if type(version) is not int or type(position) is not int:
        raise failures.bad_request(f"continue key is not valid: {token!r}")
    return version, position


def watch_options(query: Query, target: Target) -> WatchOptions:
    """Read the options of a watch. Raises ApiError (400)."""
    since = _number(query, "resourceVersion") or None
    initial = _flag(query, "sendInitialEvents")
    bookmarks = _flag(query, "allowWatchBookmarks")
    return WatchOptions(
        _selection(query, target),
        None if initial else since,
        float(_number(query, "timeoutSeconds")) or WATCH_TIMEOUT_S,
        bookmarks,
        initial and bookmarks,
    )


def delete_options(query: Query, body: Any) -> DeleteOptions:
    """Read the options of a deletion from the body, where clients put them, and the query."""
    if not isinstance(body, dict):
        raise failures.bad_request("the body must be a DeleteOptions object")
    grace = body.get("gracePeriodSeconds")
    if grace is None and "gracePeriodSeconds" in query:
        grace = _number(query, "gracePeriodSeconds")
    if grace is not None and type(grace) is not int:
        raise failures.bad_request("gracePeriodSeconds: expected integer")
    policy = body.get("propagationPolicy") or query.get("propagationPolicy", "Background")
    if policy not in ("Background", "Foreground", "Orphan"):
        raise failures.bad_request(f"propagationPolicy: Unsupported value: {policy!r}")
    preconditions = body.get("preconditions") or {}
    if not isinstance(preconditions, dict):
        raise failures.bad_request("preconditions: expected object")
    return DeleteOptions(
        grace,
        policy == "Orphan" or body.get("orphanDependents") is True,
        str(preconditions.get("uid") or ""),
        str(preconditions.get("resourceVersion") or ""),
    )
