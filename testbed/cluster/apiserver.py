"""The Kubernetes API over HTTP: requests in, the registry's verbs called, answers and streams out.

Owns connections, encodings and the event loop's part. What requests mean is in `testbed.cluster.api`.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from http import HTTPStatus
from pathlib import Path
from typing import Any

import orjson
from aiohttp import web

from testbed.cluster.api import encoding, failures
from testbed.cluster.api.discovery import documents
from testbed.cluster.api.encoding import Body
from testbed.cluster.api.options import delete_options, list_options, log_options, watch_options
from testbed.cluster.api.paths import Target, parse_target
from testbed.cluster.api.registry import Registry
from testbed.cluster.api.tables import TableForm
from testbed.cluster.podlogs import last_lines, log_path, read_log
from testbed.cluster.store import Record
from testbed.errors import ApiError

_BODY_LIMIT = 3 * 1024 * 1024  # bytes; Kubernetes' limit of a request
_LOAD_LIMIT = 1024**3  # bytes
_CHUNK = 1000  # objects or events encoded into one write
_BOOKMARK_EVERY_S = 60.0
_LOG_EVERY_S = 0.2  # between two looks at a log that is being followed
_JSON = "application/json"

log = logging.getLogger(__name__)


class ApiServer:
    """Answers requests from one registry; the object itself is aiohttp's request handler.

    `pod_logs` is the directory of the pods' logs; without one they have none.
    """

    def __init__(self, registry: Registry, pod_logs: Path | None = None) -> None:
        self._registry = registry
        self._pod_logs = pod_logs
        self._loading = asyncio.Lock()
        self._documents = {path: orjson.dumps(document) for path, document in documents().items()}

    async def __call__(self, request: web.BaseRequest) -> web.StreamResponse:
        """Answer one request; whatever it holds, the next one will be answered, too."""
        try:
            return await self._answer(request)
        except ApiError as error:
            return _status(error)
        except ConnectionError:
            raise
        except (RecursionError, orjson.JSONEncodeError) as error:
            return _status(failures.bad_request(f"the body is nested too deeply: {error}"))
        except Exception:
            log.exception("%s %s", request.method, request.path_qs)
            return _status(failures.internal("see the log of the control plane"))

    async def _answer(self, request: web.BaseRequest) -> web.StreamResponse:
        path = request.path
        if path == "/load" and request.method == "POST":
            return await self._load(request)
        if target := parse_target(path):
            return await self._serve(request, target)
        if request.method not in ("GET", "HEAD"):
            raise failures.no_such_path()
        if path in ("/healthz", "/livez", "/readyz"):
            return web.Response(text="ok")
        if path == "/openapi/v2":
            content_type, body = encoding.openapi(request.headers.get("Accept", ""))
            return web.Response(body=body, headers={"Content-Type": content_type})
        document = self._documents.get(path.rstrip("/"))
        if document is None:
            raise failures.no_such_path()
        return web.Response(body=document, content_type=_JSON)

    async def _load(self, request: web.BaseRequest) -> web.Response:
        body = encoding.decode_object(await _read(request, _LOAD_LIMIT))
        async with self._loading:
            for _ in self._registry.load(body):
                await asyncio.sleep(0)
        version = str(self._registry.store.version)
        answer = {"kind": "Status", "apiVersion": "v1", "metadata": {"resourceVersion": version}}
        return _json({**answer, "status": "Success"}, HTTPStatus.CREATED)

    async def _serve(self, request: web.BaseRequest, target: Target) -> web.StreamResponse:
        if "dryRun" in request.query:
            raise failures.bad_request("dry runs are not supported")
        if target.subresource == "scale":
            return await self._scale(request, target)
        if target.subresource == "log":
            return await self._log(request, target)
        if not target.name:
            return await self._serve_collection(request, target)
        resource, namespace, name, subresource = target
        match request.method:
            case "GET":
                record = self._registry.read(resource).get(resource, namespace, name)
                return self._object(request, target, record)
            case "PUT":
                obj = await _body(request)
                record = self._registry.replace(resource, namespace, name, obj, subresource)
            case "PATCH":
                body = await _read(request)
                patch = encoding.decode(body._replace(content_type=_JSON))
                record = self._registry.patch(
                    resource, namespace, name, body.content_type, patch, subresource
                )
            case "DELETE" if not subresource:
                return await self._delete(request, target)
            case _:
                raise failures.method_not_allowed()
        return self._object(request, target, record)

    async def _serve_collection(self, request: web.BaseRequest, target: Target) -> web.StreamResponse:
        resource, namespace = target.resource, target.namespace
        match request.method:
            case "GET" if request.query.get("watch", "false") in ("true", "1"):
                return await self._watch(request, target)
            case "GET":
                return await self._list(request, target)
            case "POST" if namespace or not resource.namespaced:
                record = self._registry.create(resource, namespace, await _body(request))
                return self._object(request, target, record, HTTPStatus.CREATED)
            case "DELETE" if namespace or not resource.namespaced:
                options = delete_options(request.query, await _optional_body(request))
                selection = list_options(request.query, target).selection
                gone = self._registry.delete_all(resource, selection, options)
                body = encoding.object_list(resource, gone, self._registry.store.version)
                return web.Response(body=b"".join(body), content_type=_JSON)
        raise failures.method_not_allowed()

    async def _delete(self, request: web.BaseRequest, target: Target) -> web.Response:
        resource, namespace, name, _ = target
        options = delete_options(request.query, await _optional_body(request))
        record = self._registry.delete(resource, namespace, name, options)
        if self._registry.store.find(resource, namespace, name):  # it takes its time: show its state
            return web.Response(body=record.data, content_type=_JSON)
        details = {"name": name, "group": resource.group, "kind": resource.plural, "uid": record.uid}
        status = {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success"}
        return _json({**status, "details": details})

    async def _scale(self, request: web.BaseRequest, target: Target) -> web.Response:
        registry, namespace, name = self._registry, target.namespace, target.name
        match request.method:
            case "GET":
                record = registry.store.get(target.resource, namespace, name)
            case "PUT":
                record = registry.replace_scale(namespace, name, await _body(request))
            case "PATCH":
                body = await _read(request)
                patch = encoding.decode(body._replace(content_type=_JSON))
                record = registry.patch_scale(namespace, name, body.content_type, patch)
            case _:
                raise failures.method_not_allowed()
        return _json(registry.scale_of(record))

    async def _log(self, request: web.BaseRequest, target: Target) -> web.StreamResponse:
        """What a pod has written; with `follow`, also what it goes on to write, until it is gone."""
        if request.method != "GET":
            raise failures.method_not_allowed()
        options = log_options(request.query)
        place = (target.resource, target.namespace, target.name)
        uid = self._registry.store.get(*place).uid
        path = self._pod_logs and log_path(self._pod_logs, target.namespace, target.name)
        whole = read_log(path) if path else b""
        data = last_lines(whole, options.tail_lines)
        if not options.follow or not path:
            return web.Response(body=data, content_type="text/plain")
        response = web.StreamResponse(headers={"Content-Type": "text/plain"})
        await response.prepare(request)
        told = len(whole)
        while True:
            await response.write(data)
            record = self._registry.store.find(*place)
            if record is None or record.uid != uid:
                break
            await asyncio.sleep(_LOG_EVERY_S)
            data = read_log(path, told)
            told += len(data)
        await response.write_eof()
        return response

    def _object(
        self, request: web.BaseRequest, target: Target, record: Record, status: HTTPStatus = HTTPStatus.OK
    ) -> web.Response:
        form = TableForm.wanted(request.headers.get("Accept", ""), request.query)
        body = record.data
        if form:
            body = form.encode(target.resource, [record], record.version)
        return web.Response(body=body, status=status, content_type=_JSON)

    async def _list(self, request: web.BaseRequest, target: Target) -> web.StreamResponse:
        options = list_options(request.query, target)
        page = self._registry.read(target.resource).list(
            target.resource,
            options.selection,
            version=options.version,
            position=options.position,
            limit=options.limit,
        )
        form = TableForm.wanted(request.headers.get("Accept", ""), request.query)
        if form:
            table = form.encode(target.resource, page.records, page.version, encoding.paging(page))
            return web.Response(body=table, content_type=_JSON)
        parts = encoding.object_list(target.resource, page.records, page.version, encoding.paging(page))
        response = web.StreamResponse(headers={"Content-Type": _JSON})
        response.content_length = sum(map(len, parts))
        await response.prepare(request)
        for start in range(0, len(parts), 2 * _CHUNK):
            await response.write(b"".join(parts[start : start + 2 * _CHUNK]))
        await response.write_eof()
        return response

    async def _watch(self, request: web.BaseRequest, target: Target) -> web.StreamResponse:
        options = watch_options(request.query, target)
        form = TableForm.wanted(request.headers.get("Accept", ""), request.query)
        wake = asyncio.Event()
        store = self._registry.read(target.resource)
        watch = store.watch(target.resource, options.selection, since=options.since, notify=wake.set)
        stream = _EventStream(target, form)
        try:
            await stream.start(request)
            await stream.send(watch.take())
            if options.initial_mark:
                await stream.bookmark(store.version, initial=True)
            loop = asyncio.get_running_loop()
            end_s = loop.time() + options.timeout_s
            while (left_s := end_s - loop.time()) > 0:
                try:
                    async with asyncio.timeout(min(left_s, _BOOKMARK_EVERY_S)):
                        await wake.wait()
                except TimeoutError:
                    if options.bookmarks:
                        await stream.bookmark(store.version)
                    continue
                wake.clear()
                if watch.overrun:
                    await stream.error(failures.expired("the watch lags too far behind"))
                    break
                await stream.send(watch.take())
            await stream.response.write_eof()
        finally:
            store.unwatch(target.resource, watch)
        return stream.response


class _EventStream:
    """The answer to a watch: one JSON object a line, as plain objects or as tables."""

    def __init__(self, target: Target, form: TableForm | None) -> None:
        self.response = web.StreamResponse(headers={"Content-Type": _JSON})
        self._resource = target.resource
        self._form = form

    async def start(self, request: web.BaseRequest) -> None:
        await self.response.prepare(request)

    async def send(self, events: Sequence[tuple[str, Record]]) -> None:
        for start in range(0, len(events), _CHUNK):
            some = events[start : start + _CHUNK]
            if self._form:
                some = [(kind, self._as_table(record)) for kind, record in some]
            await self.response.write(encoding.event_lines(some))

    def _as_table(self, record: Record) -> Record:
        assert self._form
        return record._replace(data=self._form.encode(self._resource, [record], record.version))

    async def bookmark(self, version: int, *, initial: bool = False) -> None:
        await self.response.write(encoding.bookmark(self._resource, version, initial=initial))

    async def error(self, error: ApiError) -> None:
        await self.response.write(encoding.error_line(error))


async def _read(request: web.BaseRequest, limit: int = _BODY_LIMIT) -> Body:
    chunks = []
    size = 0
    async for chunk in request.content.iter_any():
        size += len(chunk)
        if size > limit:
            raise failures.too_large(limit)
        chunks.append(chunk)
    return Body(request.content_type, b"".join(chunks))


async def _body(request: web.BaseRequest) -> Any:
    return encoding.decode_object(await _read(request))


async def _optional_body(request: web.BaseRequest) -> Any:
    body = await _read(request)
    return encoding.decode(body) if body.data else {}


def _json(value: Any, status: HTTPStatus = HTTPStatus.OK) -> web.Response:
    return web.Response(body=orjson.dumps(value), status=status, content_type=_JSON)


def _status(error: ApiError) -> web.Response:
    return web.Response(body=orjson.dumps(failures.as_status(error)), status=error.code, content_type=_JSON)
