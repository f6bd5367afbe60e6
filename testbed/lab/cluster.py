"""The Python API of the lab: a handle on a cluster that runs in a sandbox or in a guest kernel.

    with Cluster(Topology(nodes=2, pods_per_node=3, services=[...]), mode="ipvs") as lab:
        print(lab.pod("client").run("curl -s http://web").stdout)

The handle lives in the caller's process and holds nothing but a line to the sandbox, so it works the
same with every kernel, and when the caller dies, however it dies, everything behind it is gone.
"""

from __future__ import annotations

import base64
import os
import shlex
import signal
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from testbed.errors import CommandFailed, ProcessDied, TestbedError, UserError, WaitTimeout
from testbed.kernel import Job, Session, choose
from testbed.net.process import Completed
from testbed.spec import Topology, load_topology

DEFAULT_MODE = "iptables"
_AGENT = "testbed.lab.agent:main"
_UP_TIMEOUT_S = 900.0
_TELL_EVERY_S = 10.0


@dataclass(frozen=True)
class Host:
    """A node, a pod or the client outside the cluster: a place in which programs can be run."""

    name: str
    address: str
    _cluster: Cluster = field(repr=False, compare=False)

    def run(self, command: str | Sequence[str], *, input: bytes | str = b"", check: bool = True) -> Completed:
        """Run a program there and wait for it.

        A string is given to `sh -c`, a sequence is an argument vector. Output is decoded as UTF-8.

        Raises:
            CommandFailed: it exited non-zero and `check` is true.
        """
        argv = ["sh", "-c", command] if isinstance(command, str) else list(command)
        data = input.encode() if isinstance(input, str) else input
        output: dict[str, list[bytes]] = {"stdout": [], "stderr": []}
        status = self._cluster.execute(self.name, argv, data, lambda name, chunk: output[name].append(chunk))
        stdout, stderr = (b"".join(output[name]).decode(errors="replace") for name in ("stdout", "stderr"))
        if check and status != 0:
            raise CommandFailed(argv, status, stderr, self.name)
        return Completed(tuple(argv), status, stdout, stderr)


class Cluster:
    """A cluster with a proxy in `mode` on every node, built on entering and gone on leaving.

    Args:
        topology: a `Topology`, or the path of a topology file or Kubernetes manifest.
        mode: userspace, iptables, ipvs or nftables, or the name of an external proxy of the topology.
        kernel: auto, host or uml; auto takes the first that has the mode.
        tell: is given a sentence now and then while the lab takes its time to come up.

    Raises (on entering):
        SpecError: mistakes in the topology.
        MachineLacks: this machine has no kernel with that mode, or lacks a tool.
    """

    def __init__(
        self,
        topology: Topology | str | os.PathLike[str],
        *,
        mode: str = DEFAULT_MODE,
        kernel: str = "auto",
        tell: Callable[[str], None] = lambda text: None,
    ) -> None:
        self.topology = topology if isinstance(topology, Topology) else load_topology(Path(topology))
        self.mode = mode
        self._wanted_kernel = kernel
        self._tell = tell
        self._inventory: dict[str, Any] = {}
        self._session: Session | None = None
        self._stack = ExitStack()
        self.kernel = ""

    def __enter__(self) -> Self:
        needed = self.topology.kernel_mode(self.mode)
        kernel, reason = choose(self._wanted_kernel, {needed})
        self.kernel = f"{kernel.name} ({reason})"
        job = Job(
            entry=_AGENT,
            arguments={"topology": self.topology.model_dump(mode="json"), "mode": self.mode},
            modes=frozenset({needed}),
        )
        with ExitStack() as stack:
            self._session = stack.enter_context(kernel.start(job))
            self._inventory = self._await_ready()
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()
        self._session = None

    def pod(self, name: str) -> Host:
        """The pod of that name (`name` or `namespace/name`).

        Raises:
            UserError: there is none; the message names the nearest.
        """
        return self._host("pod", name)

    def node(self, name: str) -> Host:
        """The node of that name."""
        return self._host("node", name)

    def host(self, name: str) -> Host:
        """The node or pod of that name, or `outside`."""
        return self._host("node or pod", name)

    @property
    def nodes(self) -> tuple[str, ...]:
        """Names of the nodes."""
        return tuple(node["name"] for node in self._inventory["nodes"])

    @property
    def pods(self) -> tuple[str, ...]:
        """Names of the pods."""
        return tuple(pod["name"] for pod in self._inventory["pods"])

    @property
    def notes(self) -> tuple[str, ...]:
        """What a user should know of the lab, such as a protection that the machine does not offer."""
        return self._session.notes if self._session else ()

    @property
    def outside(self) -> Host:
        """The client that stands outside the cluster, on the nodes' network."""
        return Host("outside", self._inventory["outside"], self)

    def inventory(self) -> dict[str, Any]:
        """Nodes, pods and Services as they are now."""
        self._ask({"do": "inventory"})
        self._inventory = self._answer("inventory")
        return self._inventory

    def switch_mode(self, mode: str) -> None:
        """Stop every proxy, remove what its mode installed, and start the proxies in `mode`.

        Raises:
            MachineLacks: the running kernel does not have that mode.
        """
        self._ask({"do": "mode", "mode": mode})
        self.mode = self._answer("mode")["mode"]

    def execute(
        self, name: str, argv: Sequence[str], data: bytes, on_output: Callable[[str, bytes], None]
    ) -> int:
        """Run a program on `name`; `on_output(stream, chunk)` sees its output as it comes.

        Ctrl-C goes to the program, not to the lab. Returns the exit status, or minus the signal.
        """
        encoded = base64.b64encode(data).decode("ascii") if data else None
        self._ask({"do": "exec", "on": name, "argv": list(argv), "input": encoded})
        while True:
            try:
                event = self._next_event()
                if event["event"] == "output":
                    on_output(event["stream"], base64.b64decode(event["data"]))
                elif event["event"] == "exit":
                    return int(event["status"])
            except KeyboardInterrupt:
                self._ask({"do": "signal", "signal": signal.SIGINT})

    def _host(self, kind: str, name: str) -> Host:
        found = self._hosts(kind)
        if name in found:
            return Host(name, found[name], self)
        near = get_close_matches(name, found, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"there are: {shlex.join(sorted(found))}"
        raise UserError(f"no {kind} is named {name!r} ({hint})")

    def _hosts(self, kind: str) -> dict[str, str]:
        hosts: dict[str, str] = {}
        if "node" in kind:
            hosts |= {node["name"]: node["address"] for node in self._inventory["nodes"]}
        if "pod" in kind:
            hosts |= {f"{pod['namespace']}/{pod['name']}": pod["address"] for pod in self._inventory["pods"]}
            hosts |= {pod["name"]: pod["address"] for pod in self._inventory["pods"]}
        if kind == "node or pod":
            hosts["outside"] = self._inventory["outside"]
        return hosts

    def _ask(self, request: dict[str, Any]) -> None:
        if self._session is None:
            raise UserError("the cluster is not running: use it inside `with Cluster(...) as lab:`")
        self._session.line.send(request)

    def _await_ready(self) -> dict[str, Any]:
        """The first inventory; whoever waits is told what for. Raises WaitTimeout besides `_next_event`'s."""
        began, stage = time.monotonic(), "building the sandbox"
        while (waited_s := time.monotonic() - began) < _UP_TIMEOUT_S:
            try:
                event = self._next_event(_TELL_EVERY_S)
            except WaitTimeout:
                self._tell(f"still {stage}, {time.monotonic() - began:.0f} s after the start")
                continue
            if event["event"] == "ready":
                return event
            stage = event.get("name", stage)
        raise WaitTimeout(f"the lab to come up: it is still {stage}", waited_s)

    def _answer(self, kind: str) -> dict[str, Any]:
        while (event := self._next_event())["event"] != kind:
            continue
        return event

    def _next_event(self, timeout_s: float | None = None) -> dict[str, Any]:
        """What the sandbox says next, within `timeout_s` if there is a limit.

        Raises:
            TestbedError: with the message and exit status that the sandbox reported.
            ProcessDied: the sandbox ended.
            WaitTimeout: it said nothing.
        """
        assert self._session is not None
        event = self._session.line.receive(timeout_s)
        if event is None:
            raise ProcessDied("the lab", self._session.wait())
        if event["event"] == "error":
            raise _reported(event)
        return event


def _reported(event: dict[str, Any]) -> TestbedError:
    error = UserError if event["status"] == UserError.exit_status else TestbedError
    return error(event["message"])
