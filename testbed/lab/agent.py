"""The end of an interactive lab that lives in the sandbox: builds the cluster and answers requests.

Requests, one JSON object a line, and what each is answered with:

    {"do": "exec", "on": NAME, "argv": [...], "input": BASE64 | null}
                            {"event": "output", "stream": "stdout" | "stderr", "data": BASE64} ...
                            {"event": "exit", "status": N}          negative: ended by that signal
    {"do": "signal", "signal": N}       sent to the program of the running `exec`; no answer
    {"do": "inventory"}     {"event": "inventory", "nodes": [...], "pods": [...], "services": [...]}
    {"do": "mode", "mode": MODE}        {"event": "mode", "mode": MODE}
    {"do": "stop"}                      the job ends with status 0

Before the first request comes {"event": "ready", ...} with the inventory. A request that fails is
answered with {"event": "error", "message": TEXT, "status": N}, and the lab goes on.
"""

from __future__ import annotations

import base64
import os
import selectors
import signal
import subprocess
from contextlib import suppress
from dataclasses import replace
from typing import IO, Any, NamedTuple

from testbed.cluster.cluster import DIRECT, LiveCluster, ProxyOptions
from testbed.cluster.kubelet import Kubelet
from testbed.cluster.rollout import KubeProxy
from testbed.errors import TestbedError, WaitTimeout
from testbed.kernel.line import Line
from testbed.spec import Topology

_CHUNK_BYTES = 65536


def main(arguments: dict[str, Any], line: Line) -> int:
    """Job entry: build the cluster in `arguments`, then serve the line until it closes or says stop."""
    topology = Topology.model_validate(arguments["topology"])
    options = ProxyOptions.of(topology, mode=arguments["mode"])
    line.send({"event": "stage", "name": "building nodes, pods and the control plane"})
    with LiveCluster(topology, replace(options, mode=DIRECT)) as cluster, Kubelet(cluster):
        lab = Lab(cluster, KubeProxy(cluster, options))
        lab.proxy.install()
        line.send({"event": "stage", "name": f"starting {options.mode} proxies"})
        lab.proxy.wait_ready()
        line.send({"event": "ready", **inventory(lab)})
        serve(lab, line)
    return 0


class Lab(NamedTuple):
    """What requests are about."""

    cluster: LiveCluster
    proxy: KubeProxy


def serve(lab: Lab, line: Line) -> None:
    """Answer requests one by one; a mistake in one of them leaves the lab standing."""
    while (request := line.receive()) is not None and request["do"] != "stop":
        try:
            answer(lab, line, request)
        except TestbedError as error:
            line.send({"event": "error", "message": str(error), "status": error.exit_status})


def answer(lab: Lab, line: Line, request: dict[str, Any]) -> None:
    """Carry out one request."""
    match request:
        case {"do": "exec", "on": name, "argv": argv}:
            data = base64.b64decode(request.get("input") or "")
            line.send({"event": "exit", "status": relay(lab.cluster, line, name, argv, data)})
        case {"do": "inventory"}:
            line.send({"event": "inventory", **inventory(lab)})
        case {"do": "mode", "mode": mode}:
            lab.proxy.switch_mode(mode)
            line.send({"event": "mode", "mode": mode})
        case {"do": "signal"}:
            pass  # the program it was meant for has just ended
        case _:
            line.send({"event": "error", "message": f"no such request: {request}", "status": 2})


def inventory(lab: Lab) -> dict[str, Any]:
    """Names and addresses of all that a user can speak to."""
    cluster = lab.cluster
    services = [
        {
            "name": item["metadata"]["name"],
            "namespace": item["metadata"]["namespace"],
            "type": item["spec"].get("type", "ClusterIP"),
            "cluster_ip": item["spec"].get("clusterIP", ""),
            "ports": [
                f"{port['port']}/{port.get('protocol', 'TCP')}" for port in item["spec"].get("ports", [])
            ],
        }
        for item in cluster.api.list("services")
    ]
    return {
        "mode": lab.proxy.mode(),
        "nodes": [{"name": node.name, "address": node.address} for node in cluster.plan.nodes],
        "pods": [
            {
                "name": pod.name,
                "namespace": pod.spec.namespace,
                "node": pod.spec.node,
                "address": pod.address,
                "ports": [f"{number}/{protocol}" for number, protocol in pod.spec.listens],
            }
            for pod in list(cluster.pods.values())  # the kubelet may add one meanwhile
        ],
        "services": services,
        "outside": cluster.plan.outside,
    }


def relay(cluster: LiveCluster, line: Line, name: str, argv: list[str], data: bytes) -> int:
    """Run `argv` on a node or pod and pass its output on as it comes; return its status.

    A line that closes meanwhile ends the program, since nobody is left to read what it says.
    """
    with cluster.popen(name, argv) as program, selectors.DefaultSelector() as ready:
        stdin, stdout, stderr = _pipes(program)
        ready.register(stdout, selectors.EVENT_READ, "stdout")
        ready.register(stderr, selectors.EVENT_READ, "stderr")
        ready.register(line.fileno(), selectors.EVENT_READ, "line")
        os.set_blocking(stdin.fileno(), False)
        ready.register(stdin, selectors.EVENT_WRITE, "stdin")
        open_streams = 2
        while open_streams:
            _pass_signals(program, line)
            for key, _ in ready.select():
                if key.data == "stdin":
                    data = _feed(stdin, ready, data)
                elif key.data != "line":
                    open_streams -= _drain(key, ready, line)
        return program.wait()


def _pipes(program: subprocess.Popen[bytes]) -> tuple[IO[bytes], IO[bytes], IO[bytes]]:
    assert program.stdin is not None
    assert program.stdout is not None
    assert program.stderr is not None
    return program.stdin, program.stdout, program.stderr


def _pass_signals(program: subprocess.Popen[bytes], line: Line) -> None:
    """Pass on what has arrived; the program's session is its process group."""
    with suppress(WaitTimeout):
        while (request := line.receive(0)) is not None:
            if request["do"] == "signal":
                os.killpg(program.pid, request["signal"])
        os.killpg(program.pid, signal.SIGKILL)


def _drain(key: selectors.SelectorKey, ready: selectors.BaseSelector, line: Line) -> int:
    """Send on what a stream holds; 1 if it has ended."""
    chunk = os.read(key.fd, _CHUNK_BYTES)
    if not chunk:
        ready.unregister(key.fileobj)
        return 1
    encoded = base64.b64encode(chunk).decode("ascii")
    line.send({"event": "output", "stream": key.data, "data": encoded})
    return 0


def _feed(stdin: IO[bytes], ready: selectors.BaseSelector, data: bytes) -> bytes:
    """Write what the program's input takes now; close it when all is written or it stops reading."""
    try:
        data = data[os.write(stdin.fileno(), data) :] if data else b""
    except BrokenPipeError:
        data = b""
    if not data:
        ready.unregister(stdin)
        stdin.close()
    return data
