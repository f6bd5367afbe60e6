"""The backend: one process that is the server in every pod of a cluster.

Owns the process and the control channel through which pods come and go. Must not know Services or nodes'
proxies. What it serves is `serving`, what it says is `answers`.

The control channel is a unix stream socket with one JSON object a line:

    {"add": [{"pod", "node", "namespace_path", "address", "ports": [[80, "TCP"], ...]}, ...]}
    {"remove": ["pod", ...]}
    {"list": true}
      -> {"pods": [...], "errors": ["one line for each that could not be done", ...]}
"""

from __future__ import annotations

import gc
import json
import logging
import resource
import socket
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from select import EPOLLIN
from types import TracebackType
from typing import Any, TypeVar

from testbed.cluster.serving import Listening, Server
from testbed.errors import ProcessDied, TestbedError, WaitTimeout
from testbed.net.eventloop import EventLoop
from testbed.net.process import Child, fork

T = TypeVar("T")

__all__ = ["BackendClient", "Listening", "start_backend"]

_ANSWER_TIMEOUT_S = 60.0
_DEATH_S = 0.5  # between the end of its sockets and that of the process
_CONTROL_TIMEOUT_S = 5.0  # how long a controller that does not read may hold up the loop


def start_backend(listenings: Sequence[Listening], *, control_path: Path, log: Path | None) -> Child:
    """Start the backend and return once every one of `listenings` is served.

    Raises TestbedError with one line for each port that cannot be served, ProcessDied when the process ends
    early; nothing is left running then.
    """
    with socket.socket(socket.AF_UNIX) as control:
        control.bind(str(control_path))
        control.listen(16)
        control.setblocking(False)
        child = fork(lambda: _serve(control), name="backend", log=log)
    try:
        with BackendClient(control_path) as client:
            client.add(*listenings)
    except BaseException as error:
        control_path.unlink(missing_ok=True)
        status = child.wait(_DEATH_S) if isinstance(error, ProcessDied) else None
        evidence = child.evidence()
        child.close()
        if isinstance(error, ProcessDied):
            raise ProcessDied("backend", status, evidence) from error
        raise
    return child


class BackendClient:
    """Adds and removes pods of a running backend; a context manager."""

    def __init__(self, control_path: Path) -> None:
        self._sock = socket.socket(socket.AF_UNIX)
        self._sock.settimeout(_ANSWER_TIMEOUT_S)
        self._sock.connect(str(control_path))
        self._lines = self._sock.makefile("rb")

    def __enter__(self) -> BackendClient:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def add(self, *listenings: Listening) -> None:
        """Serve more pods; those that can be served are, even when others cannot.

        Raises TestbedError with one line for each pod that cannot be served, ProcessDied when nobody answers.
        """
        self._ask({"add": [asdict(listening) for listening in listenings]})

    def remove(self, *pods: str) -> None:
        """Stop serving pods: their listeners and connections close.

        Raises TestbedError with one line for each pod that was not served.
        """
        self._ask({"remove": pods})

    def pods(self) -> list[str]:
        """The names of the pods that are served now."""
        return self._ask({"list": True})

    def close(self) -> None:
        """Hang up; the backend goes on."""
        self._lines.close()
        self._sock.close()

    def _ask(self, request: dict[str, Any]) -> list[str]:
        try:
            self._sock.sendall(json.dumps(request).encode() + b"\n")
            line = self._lines.readline()
        except TimeoutError as error:
            raise WaitTimeout("the backend's answer", _ANSWER_TIMEOUT_S) from error
        except ConnectionError as error:
            raise ProcessDied("backend", None) from error
        if not line:
            raise ProcessDied("backend", None)
        answer = json.loads(line)
        if answer["errors"]:
            raise TestbedError("\n".join(answer["errors"]))
        pods: list[str] = answer["pods"]
        return pods


def _serve(control: socket.socket) -> int:
    """The backend process: serve until killed."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s backend %(message)s")
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    loop = EventLoop()
    loop.watch(control.fileno(), _ControlDoor(loop, control, Server(loop)), EPOLLIN)
    gc.freeze()
    loop.run()
    return 0


class _ControlDoor:
    """Accepts control connections."""

    def __init__(self, loop: EventLoop, sock: socket.socket, server: Server) -> None:
        self._loop = loop
        self._sock = sock
        self._server = server

    def ready(self, events: int) -> None:
        try:
            sock, _ = self._sock.accept()
        except BlockingIOError:
            return
        self._loop.watch(sock.fileno(), _Control(self._loop, sock, self._server), EPOLLIN)


class _Control:
    """One control connection: requests are carried out as they arrive, answers are awaited by the client."""

    def __init__(self, loop: EventLoop, sock: socket.socket, server: Server) -> None:
        sock.settimeout(_CONTROL_TIMEOUT_S)
        self._loop = loop
        self._sock = sock
        self._server = server
        self._held = b""

    def ready(self, events: int) -> None:
        try:
            data = self._sock.recv(1 << 20)
        except OSError:
            data = b""
        if not data:
            self._hang_up()
            return
        *lines, self._held = (self._held + data).split(b"\n")
        for line in lines:
            self._answer(line)

    def _answer(self, line: bytes) -> None:
        errors: list[str] = []
        try:
            request = json.loads(line)
            additions = [Listening.from_json(entry) for entry in request.get("add", ())]
            removals = [str(pod) for pod in request.get("remove", ())]
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            errors.append(f"backend cannot read the request {line[:200]!r}: {error!r}")
        else:
            for pod in removals:
                errors += _errors_of(self._server.remove, pod)
            for listening in additions:
                errors += _errors_of(self._server.add, listening)
        answer = {"pods": list(self._server.pods), "errors": errors}
        try:
            self._sock.sendall(json.dumps(answer).encode() + b"\n")
        except OSError:
            self._hang_up()

    def _hang_up(self) -> None:
        self._loop.unwatch(self._sock.fileno())
        self._sock.close()


def _errors_of(action: Callable[[T], None], argument: T) -> list[str]:
    try:
        action(argument)
    except TestbedError as error:
        return [str(error)]
    return []
