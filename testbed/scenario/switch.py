"""The job's entry: take a loaded node from mode to mode, by the procedure that users know, and watch.

Owns the course of one switch: up in the old mode, load begins, ConfigMap edited, pods deleted, load ends.
Runs in a sandbox or in a guest. Must not know how the outcome is shown.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any, NamedTuple

from testbed.bench.launcher import Launcher, Wire
from testbed.cluster.cluster import DIRECT, LiveCluster, ProxyOptions
from testbed.cluster.kubelet import Kubelet
from testbed.cluster.rollout import KubeProxy
from testbed.errors import ProcessDied, TestbedError, WaitTimeout
from testbed.kernel.line import Line
from testbed.net.measuring import measuring_sysctls
from testbed.net.process import fork
from testbed.scenario.arrivals import Load, Record, serve
from testbed.scenario.outage import outage_of
from testbed.spec import Topology
from testbed.spec.objects import service_copies

KEPT = 10
AFTER_S = 1.5
TIMEOUT_S = 5.0
_ANSWER_TIMEOUT_S = 60.0
_LINE_FD = 3


def main(arguments: Mapping[str, Any], line: Wire) -> int:
    """Carry out every pair `repeat` times, round by round; a pair that fails is told and costs nothing else.

    `arguments`: `topology` (the model as JSON), `pairs` ([old, new]), `repeat`, `services` (copies of the
    first Service beside it) and `rate_hz`. What comes of each is sent as {"event": "switched", ...}.
    """
    topology = Topology.model_validate(arguments["topology"])
    launcher = Launcher(line)
    lanes = count(1)
    for number in range(arguments["repeat"]):
        for old, new in arguments["pairs"]:
            launcher.stage(f"{old} to {new}, {number + 1} of {arguments['repeat']}")
            facts: dict[str, Any] = {"old": old, "new": new, "repeat": number}
            try:
                with launcher.turn():
                    course = Course(arguments["services"], arguments["rate_hz"], f"switch-{next(lanes)}")
                    facts |= switch(topology, old, new, course)
            except TestbedError as error:
                facts["error"] = str(error)
            line.send({"event": "switched", **facts})
    return 0


class Course(NamedTuple):
    """How a switch is gone through: with how many more Services and connections a second, in which lane."""

    services: int
    rate_hz: float
    lane: str


def switch(topology: Topology, old: str, new: str, course: Course) -> dict[str, Any]:
    """One switch: its outcome, and every connection that arrived around it."""
    with ExitStack() as stack:
        options = ProxyOptions.of(topology, mode=old)
        cluster = stack.enter_context(LiveCluster(topology, replace(options, mode=DIRECT), lane=course.lane))
        for namespace in (cluster.client, *cluster.fabric.nodes.values()):
            measuring_sysctls(namespace)
        cluster.api.load(list(service_copies(topology, course.services, topology.services[0].endpoints or 0)))
        load = Load(*_address(cluster), course.rate_hz, KEPT, TIMEOUT_S)
        drive = stack.enter_context(_driving(cluster, load))  # forked before there are threads
        stack.enter_context(Kubelet(cluster))
        proxy = KubeProxy(cluster, options)
        proxy.install()
        proxy.wait_ready()
        drive.send({"do": "begin"})
        _receive(drive, "warm")
        switched_ns = time.perf_counter_ns()
        proxy.switch_mode(new)
        ready_ns = time.perf_counter_ns()
        _let_pass(drive, AFTER_S)
        drive.send({"do": "finish"})
        record = Record.from_json(_receive(drive, "record"))
    try:
        outage = outage_of(record, switched_ns=switched_ns, ready_ns=ready_ns, kept=KEPT)
    except ValueError as error:
        raise TestbedError(f"{old} to {new}: {error}") from error
    return {"outage": outage.as_json(), "switched_ns": switched_ns, "connections": record.arrivals}


@contextmanager
def _driving(cluster: LiveCluster, load: Load) -> Iterator[Line]:
    """A process on the client that waits to begin."""
    ours, theirs = socket.socketpair()
    with ExitStack() as stack:
        line = Line(ours.detach(), name="the load")
        stack.callback(line.close)

        def drive() -> int:
            # select(2) takes descriptors below 1,024 only, and namespaces hold many of those.
            os.dup2(theirs.fileno(), _LINE_FD)
            os.closerange(_LINE_FD + 1, os.sysconf("SC_OPEN_MAX"))
            return serve(Line(_LINE_FD, name="the switch"), load)

        log = Path(cluster.directory) / "load.log"
        with theirs:
            stack.enter_context(fork(drive, name="load", namespace=cluster.client, log=log))
        yield line


def _receive(line: Line, kind: str) -> dict[str, Any]:
    message = line.receive(_ANSWER_TIMEOUT_S)
    if message is None or message["event"] != kind:
        raise ProcessDied("the load", None)
    return message


def _let_pass(line: Line, seconds: float) -> None:
    """Let the load go on for a while; it has nothing to say meanwhile. Raises ProcessDied when it ends."""
    try:
        line.receive(seconds)
    except WaitTimeout:
        return
    raise ProcessDied("the load", None)


def _address(cluster: LiveCluster) -> tuple[str, int]:
    """The first Service's ClusterIP and its first TCP port."""
    first = cluster.topology.services[0]
    spec = cluster.api.get("Service", first.name, first.namespace)["spec"]
    port = next((port["port"] for port in spec["ports"] if port.get("protocol", "TCP") == "TCP"), None)
    if port is None:
        raise TestbedError(f"Service {first.name} has no TCP port to connect to")
    return spec["clusterIP"], port
