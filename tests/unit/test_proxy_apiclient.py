"""Reflectors against a small scripted API server over real HTTP."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from testbed.errors import UserError
from testbed.net.wait import wait_until
from testbed.proxy.apiclient import OURS_SELECTOR, SERVICES_PATH, ApiRefused, ApiServer, Object, Reflector

Query = dict[str, str]
Watcher = Callable[["Script", Query], Iterator[bytes]]


def item(name: str, version: int) -> Object:
    meta = {"namespace": "default", "name": name, "resourceVersion": str(version)}
    return {"metadata": meta}


def event(kind: str, name: str, version: int) -> bytes:
    return json.dumps({"type": kind, "object": item(name, version)}).encode() + b"\n"


class Script:
    """What the server answers: one list per `version`, and one function per watch, in turn."""

    def __init__(self) -> None:
        self.lists: list[tuple[list[str], int]] = [(["a", "b", "c"], 10)]
        self.watches: list[Watcher] = []
        self.requests: list[Query] = []
        self.headers: list[str | None] = []
        self.refusals: list[int] = []
        self.finished = threading.Event()
        self.reflectors: list[Reflector] = []

    def page(self, query: Query) -> Object:
        names, version = self.lists[0] if len(self.lists) == 1 else self.lists.pop(0)
        start = int(query.get("continue", 0))
        names_here = names[start : start + 2]
        meta = {"resourceVersion": str(version)}
        if start + 2 < len(names):
            meta["continue"] = str(start + 2)
            self.lists.insert(0, (names, version))
        return {"metadata": meta, "items": [item(name, version) for name in names_here]}


class Recorder:
    """A sink that keeps the objects, as a tracker would."""

    def __init__(self) -> None:
        self.names: set[str] = set()
        self.lists = 0
        self.settled_with: list[set[str]] = []

    def update(self, item: Object) -> None:
        self.names.add(item["metadata"]["name"])

    def remove(self, name: tuple[str, str]) -> None:
        self.names.discard(name[1])

    def listed(self, names: set[tuple[str, str]]) -> None:
        self.lists += 1
        self.names &= {name for _, name in names}

    def settled(self) -> None:
        self.settled_with.append(set(self.names))


@pytest.fixture
def script() -> Script:
    return Script()


@pytest.fixture
def server(script: Script) -> Iterator[ApiServer]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            query = {key: values[0] for key, values in parse_qs(urlsplit(self.path).query).items()}
            script.requests.append(query)
            script.headers.append(self.headers.get("Authorization"))
            if script.refusals:
                self._answer(script.refusals.pop(0), b'{"kind":"Status"}')
            elif "watch" in query:
                self._stream(query)
            else:
                self._answer(200, json.dumps(script.page(query)).encode())

        def _answer(self, status: int, body: bytes) -> None:
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def _stream(self, query: Query) -> None:
            self.send_response(200)
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            watch = script.watches.pop(0) if script.watches else hold
            for piece in watch(script, query):
                self.wfile.write(b"%x\r\n%s\r\n" % (len(piece), piece))
            self.wfile.write(b"0\r\n\r\n")

        def log_message(self, format: str, *args: Any) -> None:
            pass

    httpd = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    httpd.daemon_threads = True
    threading.Thread(target=httpd.serve_forever, daemon=True).start()
    yield ApiServer(f"http://127.0.0.1:{httpd.server_port}")
    for reflector in script.reflectors:
        reflector.stop()
    script.finished.set()
    httpd.shutdown()
    httpd.server_close()


def hold(script: Script, query: Query) -> Iterator[bytes]:
    """A watch in which nothing happens."""
    script.finished.wait(30)
    yield from ()


def follow(script: Script, server: ApiServer) -> Recorder:
    sink = Recorder()
    reflector = Reflector(server, SERVICES_PATH, sink, selector=OURS_SELECTOR, backoff_s=(0.01, 0.05))
    reflector.start()
    script.reflectors.append(reflector)
    return sink


def wait_for_names(sink: Recorder, *names: str) -> None:
    wait_until(lambda: set(names) in sink.settled_with[-1:], f"{names} to be told", 10)


def test_all_pages_of_a_list_are_read_before_it_is_complete(script: Script, server: ApiServer) -> None:
    sink = follow(script, server)
    wait_for_names(sink, "a", "b", "c")
    assert sink.settled_with == [{"a", "b", "c"}]
    assert [request.get("continue") for request in script.requests[:2]] == [None, "2"]
    assert {request["labelSelector"] for request in script.requests} == {OURS_SELECTOR}


def test_events_follow_the_list_from_its_version_on(script: Script, server: ApiServer) -> None:
    def watch(script: Script, query: Query) -> Iterator[bytes]:
        assert query["resourceVersion"] == "10"
        yield event("ADDED", "d", 11) + event("DELETED", "a", 12)
        halves = event("MODIFIED", "e", 13)
        yield halves[:20]
        yield halves[20:]
        yield from hold(script, query)

    script.watches = [watch]
    wait_for_names(follow(script, server), "b", "c", "d", "e")


def test_a_watch_that_ends_goes_on_where_it_was_bookmarks_included(script: Script, server: ApiServer) -> None:
    def first(script: Script, query: Query) -> Iterator[bytes]:
        yield event("ADDED", "d", 11) + event("BOOKMARK", "", 99)

    def second(script: Script, query: Query) -> Iterator[bytes]:
        assert query["resourceVersion"] == "99"
        yield event("ADDED", "e", 100)
        yield from hold(script, query)

    script.watches = [first, second]
    sink = follow(script, server)
    wait_for_names(sink, "a", "b", "c", "d", "e")
    assert sink.lists == 1


@pytest.mark.parametrize("how", ["event", "status", "garbage"])
def test_when_history_is_gone_everything_is_listed_anew(script: Script, server: ApiServer, how: str) -> None:
    def gone(script: Script, query: Query) -> Iterator[bytes]:
        status = {"kind": "Status", "code": 410, "message": "too old resource version"}
        yield json.dumps({"type": "ERROR", "object": status}).encode() + b"\n"

    def garbage(script: Script, query: Query) -> Iterator[bytes]:
        yield b"{not json\n"

    def refused(script: Script, query: Query) -> Iterator[bytes]:
        yield event("ADDED", "d", 11)
        script.refusals.append(410)

    script.lists = [(["a", "b", "c"], 10), (["b", "x"], 50)]
    script.watches = [{"event": gone, "status": refused, "garbage": garbage}[how]]
    sink = follow(script, server)
    wait_for_names(sink, "b", "x")
    assert sink.lists == 2


def test_a_server_that_refuses_or_is_not_there_yet_is_asked_again(script: Script, server: ApiServer) -> None:
    script.refusals = [500, 503, 403]
    wait_for_names(follow(script, server), "a", "b", "c")


def test_nameless_objects_are_passed_over(script: Script, server: ApiServer) -> None:
    def watch(script: Script, query: Query) -> Iterator[bytes]:
        for broken in ({}, {"metadata": None}, {"metadata": {"name": 3}}):
            yield json.dumps({"type": "ADDED", "object": broken}).encode() + b"\n"
        yield event("ADDED", "d", 11)
        yield from hold(script, query)

    script.watches = [watch]
    wait_for_names(follow(script, server), "a", "b", "c", "d")


def test_a_token_is_read_anew_for_each_request(script: Script, server: ApiServer, tmp_path: Any) -> None:
    token = tmp_path / "token"
    admitted = ApiServer(server.url, token_file=str(token))
    for text in ("one", "two\n"):
        token.write_text(text)
        admitted.get(SERVICES_PATH)
    assert script.headers == ["Bearer one", "Bearer two"]


def test_a_refusal_tells_its_status(script: Script, server: ApiServer) -> None:
    script.refusals = [404]
    with pytest.raises(ApiRefused, match="404") as refusal:
        server.get("/api/v1/nodes/x")
    assert refusal.value.code == 404


@pytest.mark.parametrize("url", ["127.0.0.1:80", "ftp://host", "http://"])
def test_what_is_no_url_is_the_users_mistake(url: str) -> None:
    with pytest.raises(UserError, match="not the URL of an API server"):
        ApiServer(url).get("/")
