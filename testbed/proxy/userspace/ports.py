"""The proxy ports of a node: one listening socket for each Service port, served by one thread.

Owns that thread and the way in from other threads. Must not know iptables, nor what a Service is beyond its
endpoints and affinity.
"""

from __future__ import annotations

import _thread
import logging
import random
import socket
import threading
from collections.abc import Collection, Mapping
from dataclasses import dataclass

from testbed.errors import TestbedError
from testbed.net.eventloop import EventLoop
from testbed.proxy.model import ServicePortName
from testbed.proxy.userspace.balancer import Address, Rotation
from testbed.proxy.userspace.dialling import BACKLOG, Dial, TcpPort
from testbed.proxy.userspace.pipes import PipePool
from testbed.proxy.userspace.relay import End
from testbed.proxy.userspace.udp import UdpPort

_LOG = logging.getLogger(__name__)

_KINDS = {"TCP": socket.SOCK_STREAM, "UDP": socket.SOCK_DGRAM}
_RANGE_TRIES = 100


@dataclass(frozen=True, slots=True)
class Targets:
    """Where the connections of one Service port go; `affinity_timeout_s` None means strict round robin."""

    endpoints: tuple[Address, ...]
    affinity_timeout_s: float | None = None


class ProxyPorts:
    """Opens, retargets and closes proxy ports while their thread serves them.

    The sockets belong to the network namespace of the thread that makes this object and calls its methods.
    `port_range` limits the proxy ports to its two ends and what is between; None leaves the choice to the
    kernel.
    """

    def __init__(
        self,
        *,
        bind_address: str = "0.0.0.0",  # noqa: S104  portals lead here from every address of the node
        udp_idle_timeout_s: float = 0.25,
        port_range: tuple[int, int] | None = None,
    ) -> None:
        self._bind_address = bind_address
        self._udp_idle_timeout_s = udp_idle_timeout_s
        self._port_range = port_range
        self._loop = EventLoop()
        self._pipes = PipePool()
        self._ports: dict[ServicePortName, TcpPort | UdpPort] = {}
        self._numbers: dict[ServicePortName, int] = {}
        self._targets: dict[ServicePortName, Targets] = {}
        self._thread = threading.Thread(target=self._serve, name="relay", daemon=True)
        self._thread.start()

    @property
    def numbers(self) -> Mapping[ServicePortName, int]:
        """The proxy port of each Service port that is open."""
        return self._numbers

    def set(self, targets: Mapping[ServicePortName, Targets]) -> None:
        """Open a proxy port for every name that has none, and retarget those that have one.

        On return no new connection goes to an endpoint that is not in `targets`; connections that exist go
        on. Raises TestbedError when a port cannot be opened: those opened before it stay, none is retargeted.
        """
        opened: dict[ServicePortName, socket.socket] = {}
        try:
            for name in targets:
                if name not in self._numbers:
                    opened[name] = self._open(name.protocol)
        finally:
            numbers = {name: sock.getsockname()[1] for name, sock in opened.items()}
            if opened:
                self._loop.call(lambda: self._add(opened))
                self._numbers.update(numbers)
        changed = {name: wanted for name, wanted in targets.items() if self._targets.get(name) != wanted}
        if changed:
            self._loop.call(lambda: self._retarget(changed))
            self._targets.update(changed)

    def close_ports(self, names: Collection[ServicePortName]) -> None:
        """Close proxy ports. Connections over TCP go on, sessions over UDP end."""
        known = [name for name in names if name in self._numbers]
        if known:
            self._loop.call(lambda: self._remove(known))
        for name in known:
            del self._numbers[name]
            self._targets.pop(name, None)

    def close(self) -> None:
        """Close everything, connections too, and end the thread."""
        if self._thread.is_alive():
            self._loop.call(self._close_all)
            self._loop.stop()
            self._thread.join()
            self._loop.close()
        self._numbers.clear()
        self._targets.clear()

    def _open(self, protocol: str) -> socket.socket:
        kind = _KINDS[protocol]
        sock = socket.socket(socket.AF_INET, kind | socket.SOCK_NONBLOCK)
        try:
            if kind == socket.SOCK_STREAM:
                # Accepted sockets inherit both, at no system call each.
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            self._bind(sock)
            if kind == socket.SOCK_STREAM:
                sock.listen(BACKLOG)
        except OSError as error:
            sock.close()
            raise TestbedError(
                f"cannot open a proxy port on {self._bind_address}: {error.strerror}"
            ) from error
        return sock

    def _bind(self, sock: socket.socket) -> None:
        if self._port_range is None:
            sock.bind((self._bind_address, 0))
            return
        for tries_left in reversed(range(_RANGE_TRIES)):
            try:
                sock.bind((self._bind_address, random.randint(*self._port_range)))  # noqa: S311
            except OSError:
                if not tries_left:
                    raise
            else:
                return

    def _serve(self) -> None:
        try:
            self._loop.run()
        except BaseException:
            # Without this thread every VIP of the node is dead: the process must not look alive.
            _LOG.critical("the relay thread failed", exc_info=True)
            _thread.interrupt_main()
            raise

    # From here on: in the relay's thread only.

    def _add(self, opened: Mapping[ServicePortName, socket.socket]) -> None:
        for name, sock in opened.items():
            if name.protocol == "TCP":
                self._ports[name] = TcpPort(self._loop, self._pipes, sock, Rotation())
            else:
                self._ports[name] = UdpPort(self._loop, sock, Rotation(), self._udp_idle_timeout_s)

    def _retarget(self, targets: Mapping[ServicePortName, Targets]) -> None:
        for name, wanted in targets.items():
            port = self._ports[name]
            port.rotation.update(wanted.endpoints, wanted.affinity_timeout_s)
            if isinstance(port, UdpPort):
                port.endpoints_changed()

    def _remove(self, names: Collection[ServicePortName]) -> None:
        for name in names:
            self._ports.pop(name).close()

    def _close_all(self) -> None:
        self._remove(list(self._ports))
        for handler in self._loop.handlers():
            if isinstance(handler, End | Dial):
                handler.close()
        self._pipes.close()
