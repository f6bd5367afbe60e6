"""The control plane's process: its listening sockets, its start and its end.

One process serves one cluster. It is forked, not executed, so that what is imported stays imported.
"""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import socket
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from select import select
from typing import Any

from testbed.cluster.api.registry import Registry, Settings
from testbed.errors import ProcessDied, WaitTimeout
from testbed.net.namespace import Namespace
from testbed.net.process import Child, fork

PORT = 8080
# Half a second on an idle machine; in an emulated one on a busy machine its imports alone took a minute.
_START_TIMEOUT_S = 300.0
_SHUTDOWN_S = 0.1
_BACKLOG = 1024
_KEEPALIVE_S = 3600.0


def start_control_plane(
    namespaces: Sequence[Namespace],
    *,
    addresses: Sequence[tuple[Namespace, str]] = (),
    socket_path: Path,
    log: Path | None = None,
    name: str = "control-plane",
    **settings: Any,
) -> Child:
    """Start a control plane and return once it answers.

    It listens on a Unix socket at `socket_path`, and over plain HTTP on port 8080: on 127.0.0.1 inside each
    of `namespaces`, and on each of `addresses`, in the namespace beside it. `settings` are the fields of
    `Settings`. Raises ProcessDied or WaitTimeout, and OSError when an address is taken.
    """
    chosen = Settings(**settings)
    with ExitStack() as stack:
        listening = [stack.enter_context(_unix_socket(socket_path))]
        places = [*((namespace, "127.0.0.1") for namespace in namespaces), *addresses]
        listening += [stack.enter_context(_tcp_socket(*place)) for place in places]
        ready, started = os.pipe()
        stack.callback(os.close, ready)
        try:
            child = fork(lambda: serve(listening, chosen, started), name=name, log=log)
        finally:
            os.close(started)
        readable, _, _ = select([ready], [], [], _START_TIMEOUT_S)
        if readable and os.read(ready, 1):
            return child
        evidence = child.evidence()
        status = child.kill()
    if not readable:
        raise WaitTimeout(f"{name} to listen", _START_TIMEOUT_S)
    raise ProcessDied(name, status, evidence)


def _unix_socket(path: Path) -> socket.socket:
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listener.bind(str(path))
    listener.listen(_BACKLOG)
    return listener


def _tcp_socket(namespace: Namespace, address: str) -> socket.socket:
    listener = namespace.socket(socket.AF_INET, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind((address, PORT))
    listener.listen(_BACKLOG)
    return listener


def serve(listening: Sequence[socket.socket], settings: Settings, started: int) -> int:
    """Serve until SIGTERM; writes a byte to the descriptor `started` when ready."""
    gc.set_threshold(50_000, 20, 100)  # a load makes no garbage, only objects: looking for it costs a fifth
    asyncio.run(_serve(listening, settings, started))
    return 0


async def _serve(listening: Sequence[socket.socket], settings: Settings, started: int) -> None:
    from aiohttp import web  # slow to import, and only this process needs it

    from testbed.cluster.apiserver import ApiServer

    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    registry = Registry(settings, loop.call_later)
    # A watch ends by cancellation when its client goes away: nothing else would tell it.
    server = web.Server(
        ApiServer(registry, settings.pod_logs),
        access_log=None,
        handler_cancellation=True,
        keepalive_timeout=_KEEPALIVE_S,
    )
    runner = web.ServerRunner(server, shutdown_timeout=_SHUTDOWN_S)
    await runner.setup()
    for listener in listening:
        await web.SockSite(runner, listener).start()
    os.write(started, b"1")
    os.close(started)
    await stop.wait()
    await runner.cleanup()
