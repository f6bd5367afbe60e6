"""Small HTTP servers for probes and metrics: each path is a function that makes the answer.

Owns sockets and threads. Must not know what is served.
"""

from __future__ import annotations

import logging
import socket
import threading
from collections.abc import Callable, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import NamedTuple

log = logging.getLogger(__name__)

_RETRY_S = 5.0  # kube-proxy's, while an address cannot be bound


class Answer(NamedTuple):
    """An HTTP answer."""

    status: int
    body: bytes
    content_type: str = "text/plain; charset=utf-8"
    headers: tuple[tuple[str, str], ...] = ()


Routes = Mapping[str, Callable[[], Answer]]


class HttpServer:
    """Serves GET requests on `host:port` from daemon threads until closed.

    While the address cannot be bound it is tried again every 5 s, as kube-proxy does: a probe that comes
    late is better than no proxy. An empty host means every address, of both families where the kernel has
    them.
    """

    def __init__(self, host: str, port: int, routes: Routes) -> None:
        self._address = (host, port)
        self._routes = routes
        self._closed = threading.Event()
        self._server: ThreadingHTTPServer | None = None
        self._serve_or_retry()

    @property
    def port(self) -> int:
        """The bound port; 0 while none is."""
        return int(self._server.server_address[1]) if self._server else 0

    def close(self) -> None:
        """Stop serving."""
        self._closed.set()
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()

    def _serve_or_retry(self) -> None:
        try:
            self._server = _bind(self._address, self._routes)
        except OSError as error:
            log.error("cannot serve on %s:%d: %s", *self._address, error)  # noqa: TRY400  no traceback
            threading.Thread(target=self._retry, name="http retry", daemon=True).start()
            return
        threading.Thread(target=self._server.serve_forever, name="http", daemon=True).start()

    def _retry(self) -> None:
        if not self._closed.wait(_RETRY_S):
            self._serve_or_retry()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    routes: Routes

    def do_GET(self) -> None:
        route = self.routes.get(self.path.partition("?")[0]) or self.routes.get("*")
        answer = route() if route else Answer(404, b"404 page not found\n")
        self.send_response(answer.status)
        self.send_header("Content-Type", answer.content_type)
        self.send_header("Content-Length", str(len(answer.body)))
        self.send_header("X-Content-Type-Options", "nosniff")
        for name, value in answer.headers:
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(answer.body)

    def log_message(self, format: str, *args: object) -> None:
        log.debug("%s %s", self.address_string(), format % args)


def _bind(address: tuple[str, int], routes: Routes) -> ThreadingHTTPServer:
    class Handler(_Handler):
        pass

    class Server(ThreadingHTTPServer):
        daemon_threads = True
        address_family = socket.AF_INET

        def server_bind(self) -> None:  # the inherited one looks its own name up, which may take seconds
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if self.address_family == socket.AF_INET6:
                self.socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
            self.socket.bind(self.server_address)
            self.server_address = self.socket.getsockname()
            self.server_name, self.server_port = str(self.server_address[0]), int(self.server_address[1])

    Handler.routes = routes
    host, port = address
    if ":" in host:
        Server.address_family = socket.AF_INET6
        return Server((host, port), Handler)
    if host:
        return Server((host, port), Handler)
    try:
        Server.address_family = socket.AF_INET6
        return Server(("::", port), Handler)
    except OSError:  # a kernel or namespace without IPv6
        Server.address_family = socket.AF_INET
        return Server(("", port), Handler)
