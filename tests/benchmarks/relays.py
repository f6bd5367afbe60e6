"""A client, a node and a server on links of their own, and three ways from the one to the other.

    direct       the server's own address
    haproxy      HAProxy in TCP mode on the node, one thread, splicing allowed
    userspace    our proxy port on the node

Everything here runs inside a sandbox (see `sandboxed.Puppet`), whose network namespace is the node. Server
and clients are C programs, so that it is the relays that are measured.
"""

from __future__ import annotations

import json
import re
import shutil
import socket
import tempfile
import threading
from pathlib import Path

from testbed.net.namespace import Namespace, write_sysctl
from testbed.net.process import Child, fork, run, spawn
from testbed.net.wait import wait_until
from testbed.proxy.model import ServicePortName
from testbed.proxy.userspace.ports import ProxyPorts, Targets

TOOLS = {"haproxy": "haproxy", "nginx": "nginx-light", "ab": "apache2-utils", "iperf3": "iperf3"}
LANES = ("direct", "haproxy", "userspace")

_SERVER, _NODE = "10.0.2.2", "10.0.1.1"
_HTTP, _STREAM = 80, 5201
_PLACES = {
    "direct": {_HTTP: (_SERVER, _HTTP), _STREAM: (_SERVER, _STREAM)},
    "haproxy": {_HTTP: (_NODE, 8080), _STREAM: (_NODE, 8201)},
    "userspace": {_HTTP: (_NODE, 9080), _STREAM: (_NODE, 9201)},
}
_SYSCTLS = {
    "net.ipv4.tcp_timestamps": 2,
    "net.ipv4.ip_local_port_range": "1024 65000",
    "net.ipv4.tcp_tw_reuse": 1,
}
_NGINX = """
daemon off; worker_processes 1; error_log /dev/null; pid {directory}/nginx.pid;
events {{ worker_connections 10000; }}
http {{
  access_log off; keepalive_requests 100000000; client_body_temp_path {directory};
  server {{ listen 80 backlog=4096; location / {{ return 200 "ok"; }} }}
}}
"""
_HAPROXY = """
global
  nbthread 1
  maxconn 1000
defaults
  mode tcp
  option splice-auto
  timeout connect 5s
  timeout client 60s
  timeout server 60s
listen http
  bind 10.0.1.1:8080
  server s 10.0.2.2:80
listen stream
  bind 10.0.1.1:8201
  server s 10.0.2.2:5201
"""

_client: Namespace | None = None
_children: list[Child] = []


def missing_packages() -> list[str]:
    """Debian packages to install before these benchmarks can run."""
    return [package for tool, package in TOOLS.items() if shutil.which(tool) is None]


def build() -> None:
    """Wire the three namespaces and start the server and the relays."""
    global _client
    directory = Path(tempfile.mkdtemp())
    _client, server = Namespace.create("client"), Namespace.create("server")
    _link(_client, _NODE, "10.0.1.2")
    _link(server, "10.0.2.1", _SERVER)
    write_sysctl("net.ipv4.ip_forward", 1)
    for key, value in _SYSCTLS.items():
        write_sysctl(key, value)
    for namespace in (_client, server):
        namespace.sysctls(_SYSCTLS)
    (directory / "nginx.conf").write_text(_NGINX.format(directory=directory))
    (directory / "haproxy.cfg").write_text(_HAPROXY)
    nginx = ["nginx", "-p", str(directory), "-c", str(directory / "nginx.conf")]
    haproxy = ["haproxy", "-db", "-f", str(directory / "haproxy.cfg")]
    log = directory / "log"
    _children.extend(
        [
            spawn(nginx, name="nginx", namespace=server, log=log),
            spawn(["iperf3", "-s"], name="iperf3", namespace=server, log=log),
            spawn(haproxy, name="haproxy", log=log),
            fork(_relay, name="userspace", log=log),
        ]
    )
    for places in _PLACES.values():
        for place in places.values():
            wait_until(lambda place=place: _answers(place), f"{place} to listen", 10)  # type: ignore[misc]


def connections_per_s(lane: str, count: int, *, keep_alive: bool) -> float:
    """HTTP requests per second of `ab` with 8 connections, each request on a new one unless kept alive."""
    host, port = _PLACES[lane][_HTTP]
    flags = ["-k"] if keep_alive else []
    done = run(["ab", "-q", "-c", "8", "-n", str(count), *flags, f"http://{host}:{port}/"], namespace=_client)
    assert re.search(r"Failed requests: +0\n", done.stdout), done.stdout
    found = re.search(r"Requests per second: +([\d.]+)", done.stdout)
    assert found, done.stdout
    return float(found[1])


def stream_gbit_per_s(lane: str, duration_s: int) -> float:
    """What one TCP stream of `iperf3` carries."""
    host, port = _PLACES[lane][_STREAM]
    done = run(["iperf3", "-J", "-c", host, "-p", str(port), "-t", str(duration_s)], namespace=_client)
    return float(json.loads(done.stdout)["end"]["sum_received"]["bits_per_second"]) / 1e9


def _relay() -> int:
    relays = [ProxyPorts(bind_address=_NODE, port_range=(number, number)) for number in (9080, 9201)]
    for relay, target in zip(relays, (_HTTP, _STREAM), strict=True):
        relay.set({ServicePortName("default", "web", ""): Targets(((_SERVER, target),))})
    threading.Event().wait()
    return 0


def _answers(place: tuple[str, int]) -> bool:
    try:
        socket.create_connection(place, timeout=1).close()
    except OSError:
        return False
    return True


def _link(pod: Namespace, gateway: str, address: str) -> None:
    run(["ip", "link", "add", pod.name, "type", "veth", "peer", "name", "eth0", "netns", pod.name])
    run(["ip", "address", "add", f"{gateway}/24", "dev", pod.name])
    run(["ip", "link", "set", pod.name, "up"])
    run(["ip", "address", "add", f"{address}/24", "dev", "eth0"], namespace=pod)
    run(["ip", "link", "set", "eth0", "up"], namespace=pod)
    run(["ip", "route", "add", "default", "via", gateway], namespace=pod)
