"""A live cluster: nodes, pods, backends, a control plane and a proxy on each proxied node.

Owns the order in which these come up and go down. Knows nothing of measuring: a lane of a cell and the
interactive lab are both made of it.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Self

from testbed.cluster.apiclient import ApiClient
from testbed.cluster.backend import BackendClient, Listening, start_backend
from testbed.cluster.controlplane import PORT, start_control_plane
from testbed.cluster.filters import filter_rules_text
from testbed.cluster.hosts import RESOLVER_TEXT, hosts_text
from testbed.cluster.kubeproxy import (
    API_URL,
    HEALTHZ_PORT,
    METRICS_PORT,
    ProxyRun,
    configuration_text,
    kubeconfig_text,
)
from testbed.cluster.plan import Plan, PodPlan, make_plan
from testbed.cluster.podlogs import log_path
from testbed.cluster.population import population
from testbed.cluster.proxies import ProxyOptions as ProxyOptions
from testbed.cluster.proxies import proxy_arguments
from testbed.cluster.scrape import scrape_metrics
from testbed.errors import UserError
from testbed.net import process
from testbed.net.fabric import OUTSIDE, Fabric, build_fabric
from testbed.net.namespace import Namespace
from testbed.net.shaping import shape
from testbed.net.tools import find_tool, tool_environment
from testbed.net.wait import wait_until
from testbed.proxy.iptables.restore import Iptables
from testbed.proxy.model import Family
from testbed.spec import ExternalProxy, Link, Topology
from testbed.spec.networks import NODE_NETWORK, NODE_NETWORK6
from testbed.spec.service import NODE_PORTS

RUNTIME = Path("/run/testbed")
_RESOLVER = Path("/etc/resolv.conf")
CLIENT = "client"
DIRECT = "direct"
_PROXY_STOP_S = 10.0
_MEASURED_SYNC_PERIOD_S = 3600.0
"""Of another proxy where one is measured: a sync for no reason would disturb the blocks of all lanes."""


class LiveCluster:
    """The running form of a `Topology`; a context manager that ends all it started.

    `lane` prefixes the names of namespaces, so that several clusters stand side by side in one sandbox. The
    logs of its processes are files in `log_dir`. Without `services` it starts with pods only. When proxies
    are forked, it must be entered from the main thread of a process without other threads.
    """

    plan: Plan
    fabric: Fabric
    api: ApiClient
    backend: BackendClient

    def __init__(
        self,
        topology: Topology,
        options: ProxyOptions,
        *,
        lane: str = "",
        log_dir: Path | None = None,
        services: bool = True,
    ) -> None:
        self.topology = topology
        self.options = options
        self.lane = lane
        self.directory = RUNTIME / (lane or "lab")
        self.log_dir = log_dir or self.directory
        self.services = services
        self._pod_logs = self.directory / "pods"
        self.pods: dict[str, PodPlan] = {}
        self.proxies: dict[str, process.Child] = {}
        self._children: list[process.Child] = []
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        """Build the wiring, start backend, control plane and proxies, in that order."""
        with ExitStack() as stack:
            self._pod_logs.mkdir(parents=True, exist_ok=True)
            self.plan = make_plan(self.topology)
            self.pods = {pod.name: pod for pod in self.plan.pods}
            self.fabric = stack.enter_context(self._build_fabric())
            self._reserve_ports()
            self._shape_links()
            self._link_tools()
            self._write_kubeconfigs()
            if self.topology.filter_rules:
                self.install_filter_rules(self.topology.filter_rules)
            self.backend = stack.enter_context(self._start_backend(stack))
            self.api = stack.enter_context(self._start_control_plane(stack))
            self.api.load(population(self.topology, self.plan, services=self.services))
            self.refresh_hosts()
            (self.directory / _RESOLVER.name).write_text(RESOLVER_TEXT)
            stack.callback(self.stop_proxies)
            self.start_proxies()
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    @property
    def client(self) -> Namespace:
        """The network namespace of the client pod, from which load is driven."""
        return self.fabric.pods[CLIENT]

    @property
    def proxied_nodes(self) -> tuple[str, ...]:
        """Names of the nodes that run a proxy."""
        if self.options.mode == DIRECT:
            return ()
        names = tuple(node.name for node in self.plan.nodes)
        return names if self.options.nodes == "all" else names[:1]

    def start_proxies(self) -> None:
        """Start a proxy on every proxied node; returns without waiting for their first sync."""
        for node in self.proxied_nodes:
            self.proxies[node] = self._start_proxy(node)

    def stop_proxies(self) -> None:
        """End the proxies; their rules stay, as kube-proxy's do."""
        for proxy in self.proxies.values():
            proxy.terminate(_PROXY_STOP_S)
            proxy.close()
        self.proxies = {}

    def wait_synced(self, timeout_s: float = 120.0) -> None:
        """Wait until every proxy has finished its first sync.

        Raises:
            ProcessDied: a proxy ended instead, with the end of its log.
            WaitTimeout: after `timeout_s`.
        """
        for node in self.proxied_nodes:
            wait_until(partial(self._synced, node), f"the proxy of {node} to sync", timeout_s)

    def proxy_metrics(self, node: str) -> dict[str, float]:
        """The proxy's metrics, `name{labels}` to value, scraped from its own port.

        Raises:
            OSError: it does not answer (yet).
        """
        return self.fabric.nodes[node].run(scrape_metrics, METRICS_PORT)

    def pids(self) -> dict[str, int]:
        """The processes of this cluster by name: `backend`, `proxy of <node>` and so on."""
        return {child.name: child.pid for child in (*self._children, *self.proxies.values())}

    def check_alive(self) -> None:
        """Raise ProcessDied with the end of its log if a process of this cluster has ended."""
        for child in (*self._children, *self.proxies.values()):
            child.check()

    def namespace(self, name: str) -> Namespace:
        """The network namespace of a node, a pod or `outside`.

        Raises:
            UserError: there is no such place.
        """
        places = {**self.fabric.nodes, **self.fabric.pods, OUTSIDE: self.fabric.outside}
        try:
            return places[name]
        except KeyError:
            raise UserError(
                f"there is no node or pod {name!r} (there are: {', '.join(sorted(places))})"
            ) from None

    def popen(self, name: str, argv: Sequence[str]) -> subprocess.Popen[bytes]:
        """Start a program on a node or pod, with its names, its tools and its streams as pipes."""
        return process.popen(
            argv, namespace=self.namespace(name), mounts=self._mounts(name), env=self._environment(name)
        )

    def spawn(self, node: str, argv: Sequence[str], *, name: str, log: Path) -> process.Child:
        """Start a program on a node that dies with the calling thread; raises as `process.spawn`."""
        return process.spawn(
            argv, name=name, namespace=self.fabric.nodes[node], env=self._environment(node), log=log
        )

    def pod_log(self, namespace: str, name: str) -> Path:
        """Where the API reads what a pod has written."""
        return log_path(self._pod_logs, namespace, name)

    def run_pod(self, pod: PodPlan) -> None:
        """Wire one more pod to its node and serve its ports.

        Raises:
            UserError: its name is taken.
            MachineLacks: the node has no room for it.
        """
        self.fabric.add_pod(pod.spec.node, pod.attachment)
        self.pods[pod.name] = pod
        self._shape({pod.name: self.fabric.pods[pod.name]}, self.topology.links.pod)
        self.backend.add(self._listening(pod))

    def stop_pod(self, name: str) -> None:
        """Take a pod away; harmless if it is gone already."""
        if self.pods.pop(name, None):
            self.backend.remove(name)
            self.fabric.remove_pod(name)

    def refresh_hosts(self) -> None:
        """Write the hosts files anew, in place, since they are mounted over /etc/hosts."""
        services, pods, nodes = (self.api.list(kind) for kind in ("services", "pods", "nodes"))
        for namespace in (item["metadata"]["name"] for item in self.api.list("namespaces")):
            self._hosts_path(namespace).write_text(hosts_text(namespace, services, pods, nodes))

    def _build_fabric(self) -> Fabric:
        return build_fabric(
            self.plan.attachments(),
            outside_address=self.plan.outside,
            underlay=str(NODE_NETWORK),
            prefix=f"{self.lane}-" if self.lane else "",
            ipv6=self.plan.dual_stack,
            outside_address6=self.plan.outside6,
            underlay6=str(NODE_NETWORK6) if self.plan.dual_stack else None,
        )

    def _shape_links(self) -> None:
        self._shape(self.fabric.pods, self.topology.links.pod)
        self._shape(self.fabric.nodes, self.topology.links.node)

    @staticmethod
    def _shape(namespaces: Mapping[str, Namespace], link: Link) -> None:
        if link.rate_bit_s or link.needs_netem:
            for namespace in namespaces.values():
                shape(
                    namespace,
                    "eth0",
                    rate_bit_s=link.rate_bit_s,
                    delay_us=link.delay_us,
                    loss_ratio=link.loss_ratio,
                )

    def _reserve_ports(self) -> None:
        """Keep the ports of servers that come later from a userspace proxy, which takes any that is free."""
        fixed = ",".join(map(str, sorted((PORT, METRICS_PORT, HEALTHZ_PORT))))
        for node in self.fabric.nodes.values():
            node.sysctl("net.ipv4.ip_local_reserved_ports", f"{fixed},{NODE_PORTS[0]}-{NODE_PORTS[-1]}")

    def _link_tools(self) -> None:
        """Make `iptables` on a node's PATH the variant that its proxy writes."""
        self.iptables = Iptables(Family.IPV4, self.options.iptables_variant)
        directory = self.directory / "bin"
        directory.mkdir(exist_ok=True)
        for family in ("iptables", "ip6tables"):
            for suffix in ("", "-save", "-restore"):
                link = directory / f"{family}{suffix}"
                link.unlink(missing_ok=True)
                link.symlink_to(find_tool(f"{family}-{self.iptables.variant}{suffix}"))

    def _write_kubeconfigs(self) -> None:
        """Nodes find the API on loopback, pods and the outside on the first node's own address."""
        first = self.plan.nodes[0]
        for place, server in (("node", API_URL), ("pod", f"http://{first.address}:{PORT}")):
            self._kubeconfig(place).write_text(kubeconfig_text(server))

    def _kubeconfig(self, place: str) -> Path:
        return self.directory / f"kubeconfig.{place}"

    def install_filter_rules(self, count: int) -> None:
        """Put rules that match nothing in front of what every node forwards."""
        text = filter_rules_text(count)
        for node in self.fabric.nodes:
            self._run_tool(node, [f"iptables-{self.iptables.variant}-restore", "--noflush"], text)

    def _start_backend(self, stack: ExitStack) -> BackendClient:
        control_path = self.directory / "backend.sock"
        listenings = [self._listening(pod) for pod in self.plan.pods if pod.spec.listens]
        child = start_backend(listenings, control_path=control_path, log=self.log_dir / "backend.log")
        self._children.append(stack.enter_context(child))
        return BackendClient(control_path)

    def _listening(self, pod: PodPlan) -> Listening:
        return Listening(
            pod=pod.name,
            node=pod.spec.node,
            namespace_path=self.fabric.pods[pod.name].path,
            address=pod.address,
            ports=pod.spec.listens,
        )

    def _start_control_plane(self, stack: ExitStack) -> ApiClient:
        socket_path = self.directory / "api.sock"
        first = self.plan.nodes[0]
        child = start_control_plane(
            tuple(self.fabric.nodes.values()),
            addresses=[(self.fabric.nodes[first.name], first.address)],
            socket_path=socket_path,
            log=self.log_dir / "control-plane.log",
            service_cidr=",".join(self.plan.service_cidrs),
            pod_logs=self._pod_logs,
        )
        self._children.append(stack.enter_context(child))
        return ApiClient(socket_path)

    def _start_proxy(self, node: str) -> process.Child:
        name, log = f"proxy of {node}", self.log_dir / f"proxy-{node}.log"
        if self.options.external:
            return self.spawn(node, self._external_command(node, self.options.external), name=name, log=log)
        arguments = proxy_arguments(self.options, self.plan, node, self.iptables.variant)
        if self.options.start == "exec":
            return self.spawn(node, [*_python("testbed.proxy"), *arguments], name=name, log=log)
        environment = self._environment(node)
        return process.fork(
            lambda: _run_proxy(arguments, environment),
            name=name,
            namespace=self.fabric.nodes[node],
            log=log,
        )

    def _external_command(self, node: str, external: ExternalProxy) -> list[str]:
        """The command of another proxy, with the files that it is told of."""
        kubeconfig, config = self._kubeconfig("node"), self.directory / f"proxy-{node}.conf"
        run = ProxyRun(
            mode=external.mode,
            cluster_cidrs=self.plan.cluster_cidrs,
            scheduler=self.options.scheduler,
            sync_period_s=_MEASURED_SYNC_PERIOD_S,
        )
        config.write_text(configuration_text(run, str(kubeconfig)))
        return external.command_line(
            node=node,
            config=str(config),
            kubeconfig=str(kubeconfig),
            master=API_URL,
            cluster_cidr=",".join(self.plan.cluster_cidrs),
        )

    def _synced(self, node: str) -> bool:
        self.proxies[node].check()
        try:
            metrics = self.proxy_metrics(node)
        except OSError:
            return False
        return metrics.get("kubeproxy_sync_proxy_rules_last_timestamp_seconds", 0) > 0

    def _run_tool(self, node: str, argv: Sequence[str], text: str | None = None) -> None:
        process.run(argv, namespace=self.fabric.nodes[node], input=text, env=self._environment(node))

    def _environment(self, name: str) -> dict[str, str]:
        """The tools of the place, with a lock for its iptables: nodes share files, but not their rules."""
        return {
            "PATH": f"{self.directory / 'bin'}:{tool_environment()['PATH']}",
            "XTABLES_LOCKFILE": str(self.directory / f"{name}.xtables.lock"),
            "KUBECONFIG": str(self._kubeconfig("node" if name in self.fabric.nodes else "pod")),
        }

    def _mounts(self, name: str) -> Mapping[Path, Path]:
        namespace = self.pods[name].spec.namespace if name in self.pods else "default"
        mounts = {self._hosts_path(namespace): Path("/etc/hosts")}
        if _RESOLVER.exists():
            mounts[self.directory / _RESOLVER.name] = _RESOLVER
        return mounts

    def _hosts_path(self, namespace: str) -> Path:
        return self.directory / f"hosts.{namespace}"


def _python(module: str) -> list[str]:
    return [sys.executable, "-P", "-m", module]


def _run_proxy(arguments: Sequence[str], environment: Mapping[str, str]) -> int:
    from testbed.proxy.main import main

    os.environ.update(environment)
    return main(arguments)
