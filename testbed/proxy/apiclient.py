"""Reading a Kubernetes API over HTTP: one-off gets, and reflectors that list and then watch one resource.

Owns connections, paging, resource versions, reconnecting with backoff, and listing anew after 410 Gone. Must
not know what the objects mean: a sink is told of each.
"""

from __future__ import annotations

import http.client
import logging
import random
import socket
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol
from urllib.parse import quote, urlencode, urlsplit

import orjson

from testbed.errors import TestbedError, UserError

if TYPE_CHECKING:
    from ssl import SSLContext

log = logging.getLogger(__name__)

PAGE_SIZE = 500  # client-go's default
SERVICES_PATH = "/api/v1/services"
SLICES_PATH = "/apis/discovery.k8s.io/v1/endpointslices"
NODES_PATH = "/api/v1/nodes"
OURS_SELECTOR = "!service.kubernetes.io/service-proxy-name,!service.kubernetes.io/headless"

_CONNECT_TIMEOUT_S = 10.0
_LIST_TIMEOUT_S = 60.0
_WATCH_S = (300, 600)  # a watch ends by itself after a random time between these, as client-go's do
_BACKOFF_S = (0.1, 30.0)
_READ_BYTES = 1 << 16

Object = dict[str, Any]


class ApiRefused(TestbedError):
    """The API server answered with an error; `code` is the HTTP status."""

    def __init__(self, code: int, what: str) -> None:
        self.code = code
        super().__init__(f"API server answered {code}: {what}")


class Sink(Protocol):
    """Is told what a reflector learns of one kind of object; called in the reflector's thread."""

    def update(self, item: Object) -> None:
        """An object exists, with this content."""

    def remove(self, name: tuple[str, str]) -> None:
        """The object of this namespace and name is gone."""

    def listed(self, names: set[tuple[str, str]]) -> None:
        """A list is complete: exactly the objects of these namespaces and names exist."""

    def settled(self) -> None:
        """What the server had to tell at once has been told."""


@dataclass(frozen=True)
class ApiServer:
    """Where the API is and how one is admitted.

    `url` is `http://host:port` or `https://...`; `tls_name` is the name that the server's certificate must
    bear, if it is another than the host's; `token_file` is read anew for each request, since it rotates.
    """

    url: str
    headers: dict[str, str] = field(default_factory=dict)
    tls: SSLContext | None = None
    tls_name: str = ""
    token_file: str = ""

    def get(self, path: str, **query: str) -> Object:
        """Fetch one object or list. Raises ApiRefused, OSError when unreachable."""
        return document(self.ask(path, query))

    def ask(
        self, path: str, query: Mapping[str, str], timeout_s: float = _LIST_TIMEOUT_S
    ) -> http.client.HTTPConnection:
        """Send a GET; the answer waits in the connection. `timeout_s` is for each read of it."""
        connection = self._connect()
        try:
            connection.request("GET", f"{path}?{urlencode(query)}", headers=self._headers())
            connection.sock.settimeout(timeout_s)
        except BaseException:
            connection.close()
            raise
        return connection

    def _connect(self) -> http.client.HTTPConnection:
        place = urlsplit(self.url)
        if place.scheme not in ("http", "https") or not place.hostname:
            raise UserError(f"{self.url!r} is not the URL of an API server (expected http://host:port)")
        connection: http.client.HTTPConnection
        if place.scheme == "https":
            connection = _TlsConnection(
                place.hostname, place.port or 443, timeout=_CONNECT_TIMEOUT_S, context=self.tls
            )
            connection.name = self.tls_name
        else:
            connection = http.client.HTTPConnection(
                place.hostname, place.port or 80, timeout=_CONNECT_TIMEOUT_S
            )
        connection.connect()
        connection.sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        return connection

    def _headers(self) -> dict[str, str]:
        headers = {"Accept": "application/json", "User-Agent": "kube-proxy/testbed", **self.headers}
        if self.token_file:
            with open(self.token_file, encoding="ascii") as file:  # noqa: PTH123  pathlib is slower to import
                headers["Authorization"] = f"Bearer {file.read().strip()}"
        return headers


class _TlsConnection(http.client.HTTPSConnection):
    """Asks the server for the certificate of `name`, where there is one."""

    name = ""
    _context: SSLContext

    def connect(self) -> None:
        http.client.HTTPConnection.connect(self)
        self.sock = self._context.wrap_socket(self.sock, server_hostname=self.name or self.host)


def document(connection: http.client.HTTPConnection) -> Object:
    """The JSON that a request is answered with; closes the connection. Raises ApiRefused."""
    try:
        response = _accepted(connection)
        body: Object = orjson.loads(response.read())
    except ValueError as error:
        raise ApiRefused(http.client.OK, f"no JSON ({error})") from error
    finally:
        connection.close()
    return body


def _accepted(connection: http.client.HTTPConnection) -> http.client.HTTPResponse:
    """The answer, its body not yet read, if the server said yes."""
    response = connection.getresponse()
    if response.status != http.client.OK:
        raise ApiRefused(response.status, response.read(2000).decode(errors="replace").strip())
    return response


class Reflector:
    """Keeps a sink informed of one resource, for ever: call `run` in a thread of its own."""

    def __init__(
        self,
        server: ApiServer,
        path: str,
        sink: Sink,
        *,
        selector: str = "",
        name: str = "",
        backoff_s: tuple[float, float] = _BACKOFF_S,
    ) -> None:
        """`name` narrows the resource to one object; `backoff_s` is the first and the longest pause."""
        self._server = server
        self._path = path
        self._sink = sink
        self._query = {"labelSelector": selector} if selector else {}
        if name:
            self._query["fieldSelector"] = f"metadata.name={name}"
        self._backoff_s = backoff_s
        self._version = ""
        self._stopped = threading.Event()

    def start(self) -> threading.Thread:
        """Run in a daemon thread."""
        thread = threading.Thread(target=self.run, name=f"watch {self._path}", daemon=True)
        thread.start()
        return thread

    def stop(self) -> None:
        """End at the next opportunity; a watch that is waiting for events is not interrupted."""
        self._stopped.set()

    def run(self) -> None:
        """List, watch, and begin again as errors demand, until stopped."""
        pause_s = self._backoff_s[0]
        while not self._stopped.is_set():
            try:
                if not self._version:
                    self._list()
                if self._watch():
                    pause_s = self._backoff_s[0]
                    continue
                log.info("watch of %s ended at once", self._path)
            except ApiRefused as refusal:
                log.warning("%s: %s", self._path, refusal)
                if refusal.code == http.client.GONE:
                    self._version = ""
                    continue
            except (OSError, http.client.HTTPException) as error:
                log.warning(
                    "API server %s, %s: %s", self._server.url, self._path, error or type(error).__name__
                )
            self._stopped.wait(pause_s * random.uniform(1, 2))  # noqa: S311  jitter
            pause_s = min(2 * pause_s, self._backoff_s[1])

    def _list(self) -> None:
        """Tell the sink of every object, page by page, and of those that are gone."""
        names: set[tuple[str, str]] = set()
        query = {**self._query, "limit": str(PAGE_SIZE)}
        asked = self._server.ask(self._path, query)
        while True:
            page = document(asked)
            meta = page.get("metadata") or {}
            if more := meta.get("continue"):  # the server prepares the next page while we read this one
                asked = self._server.ask(self._path, {**query, "continue": more})
            for item in page.get("items") or ():
                if name := _name_of(item):
                    names.add(name)
                    self._sink.update(item)
                else:
                    log.warning("%s lists something without a name: %.200r", self._path, item)
            if not more:
                break
        self._version = meta.get("resourceVersion", "") or "0"
        self._sink.listed(names)
        self._sink.settled()

    def _watch(self) -> bool:
        """Follow events until the server ends the watch; False if it brought nothing at all."""
        seconds = random.randint(*_WATCH_S)  # noqa: S311  spreads reconnects
        query = {
            **self._query,
            "watch": "true",
            "allowWatchBookmarks": "true",
            "resourceVersion": self._version,
            "timeoutSeconds": str(seconds),
        }
        connection = self._server.ask(self._path, query, seconds + 30.0)
        told = False
        rest = b""
        try:
            response = _accepted(connection)
            while data := response.read1(_READ_BYTES):
                *lines, rest = (rest + data).split(b"\n")
                for line in filter(None, lines):
                    told = self._event(line) or told
                if lines:
                    self._sink.settled()
                if self._stopped.is_set():
                    break
        finally:
            connection.close()
        return told

    def _event(self, line: bytes) -> bool:
        """Handle one watch event. Raises ApiRefused for an ERROR event and for what is no event."""
        try:
            event = orjson.loads(line)
            kind, item = event["type"], event["object"]
            version = (item.get("metadata") or {}).get("resourceVersion")
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ApiRefused(http.client.GONE, f"unreadable watch event {line[:200]!r}") from error
        if kind == "ERROR":
            raise ApiRefused(int(item.get("code") or 500), str(item.get("message", "")))
        if kind in ("ADDED", "MODIFIED", "DELETED"):
            name = _name_of(item)
            if name is None:
                log.warning("%s tells of something without a name: %.200r", self._path, item)
            elif kind == "DELETED":
                self._sink.remove(name)
            else:
                self._sink.update(item)
        self._version = version or self._version
        return True


def object_path(collection: str, name: str) -> str:
    """The path of one object in a collection that is not namespaced."""
    return f"{collection}/{quote(name)}"


def _name_of(item: object) -> tuple[str, str] | None:
    meta = item.get("metadata") if isinstance(item, dict) else None
    if not isinstance(meta, dict) or not isinstance(meta.get("name"), str):
        return None
    return str(meta.get("namespace") or ""), meta["name"]
