"""A lane: one mode's private copy of the topology, kept loaded from cell to cell.

Owns a live cluster, how many Services it holds, where the measured ones stand, and the times its control
plane took. Must not know rounds or cells.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from contextlib import ExitStack, suppress
from dataclasses import replace
from functools import partial
from types import TracebackType
from typing import Any, Self

from testbed.bench.flows import forget_flows
from testbed.bench.meters import Meters, Reading, has_children, process_cpu_ns, resident_bytes
from testbed.bench.probe import Target, wait_answer
from testbed.cluster.cluster import LiveCluster, ProxyOptions
from testbed.errors import ProcessDied, SysctlRefused
from testbed.net.measuring import measuring_sysctls
from testbed.net.namespace import Namespace
from testbed.net.wait import wait_until
from testbed.results.format import LaneRecord
from testbed.spec import Topology
from testbed.spec.clock import INSTRUCTIONS, WALL, Clock
from testbed.spec.objects import copy_name, service_copies

DIRECT = "direct"
TWIN_SUFFIX = "-twin"
INJECTED_SUFFIX = "-injected"
INJECTED_RULES = 10
"""What a gate must see: so many rules that match nothing, in front of all that a lane's nodes forward."""

RUN_ESTIMATION = "net.ipv4.vs.run_estimation"
TRAFFIC_TIMEOUT_S = 600.0
QUIET_TIMEOUT_S = 60.0
QUIET_WINDOW_S: Mapping[Clock, float] = {WALL: 0.1, INSTRUCTIONS: 0.005}
"""How long a proxy is watched. Where instructions are counted nobody else has the CPU, so whoever has
something to do does it at once, and every wait has to be executed."""

QUIET_SHARE = 0.1
"""A proxy counts as idle once it uses less than this share of a CPU over a window and runs no program."""

NO_PERIODIC_SYNC = ("--iptables-sync-period=1h", "--ipvs-sync-period=1h")
"""A proxy that synced every 30 s for no reason would disturb the blocks of all lanes."""

SYNC_SUM = "kubeproxy_sync_proxy_rules_duration_seconds_sum"
SYNC_COUNT = "kubeproxy_sync_proxy_rules_duration_seconds_count"
CHANGES_PENDING = (
    "kubeproxy_sync_proxy_rules_service_changes_pending",
    "kubeproxy_sync_proxy_rules_endpoint_changes_pending",
)
RULES = "kubeproxy_sync_proxy_rules_iptables_total"
RULES_WRITTEN = "kubeproxy_sync_proxy_rules_iptables_last"


def mode_of(lane: str) -> str:
    """The mode of a lane by its name: `iptables-twin` and `iptables-injected` are lanes of `iptables`."""
    return lane.removesuffix(TWIN_SUFFIX).removesuffix(INJECTED_SUFFIX)


def measured_places(services: int) -> tuple[int, ...]:
    """Which Services are measured, counted from 0 in the order of creation: first, middle and last."""
    return tuple(sorted({0, (services - 1) // 2, services - 1}))


class Lane:
    """A running lane; a context manager that ends all of it. `dead` says why it is no longer measured."""

    def __init__(
        self,
        topology: Topology,
        name: str,
        endpoints: int,
        company: str,
        clock: Clock = WALL,
        build: int = 1,
    ) -> None:
        """`build` counts how often a lane of this name was built, in one kernel."""
        self.name = name
        self._quiet_window_s = QUIET_WINDOW_S[clock]
        self.mode = mode_of(name)
        self.endpoints = endpoints
        self.company = company
        self.services = 0
        self.dead = ""
        self._rules_to_inject = INJECTED_RULES if name.endswith(INJECTED_SUFFIX) else 0
        again = f"b{build}" if build > 1 else ""
        place = "-".join(part for part in (company, name, str(endpoints), again) if part)
        self.cluster = LiveCluster(
            topology, ProxyOptions.of(topology, mode=DIRECT), lane=place, services=False
        )
        self._topology = topology
        options = ProxyOptions.of(topology, mode=self.mode)
        self._options = replace(options, arguments=(*NO_PERIODIC_SYNC, *options.arguments))
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            stack.enter_context(self.cluster)
            for namespace in (self.client, *self.cluster.fabric.nodes.values()):
                measuring_sysctls(namespace)
            self._meters = stack.enter_context(Meters(self.client, self.node))
            if self.mode == "ipvs":
                # IPVS's estimator wakes every 2 s, walks all Services and so disturbs every lane.
                with suppress(SysctlRefused):
                    self.node.sysctl(RUN_ESTIMATION, 0)
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    @property
    def client(self) -> Namespace:
        return self.cluster.client

    @property
    def node(self) -> Namespace:
        """The client's node, whose proxy is measured."""
        return self.cluster.fabric.nodes[self._node_name]

    @property
    def scheduler(self) -> str:
        return self._options.scheduler if self.mode == "ipvs" else ""

    def start(self, services: int) -> LaneRecord:
        """Bring the control plane to so many Services and start the proxies anew with them.

        What they wrote before stays, as when kube-proxy is updated; the last Service is always a new one, so
        its first answer tells that this start's rules are in place. Raises ProcessDied or WaitTimeout.
        """
        self.cluster.stop_proxies()
        load_ns = self._load(services)
        if self.mode == DIRECT:
            return self._record("start", load_ns=load_ns)
        started_ns = self._start_proxies(self._options)
        record = self._await_traffic("start", started_ns, {}, load_ns=load_ns, start=self._options.start)
        self._inject()
        return record

    def add_one(self) -> LaneRecord:
        """Create one more Service and wait until it answers; raises like `start`."""
        before = self.metrics()
        started_ns = time.perf_counter_ns()
        self._load(self.services + 1)
        return self._await_traffic("change", started_ns, before)

    def use_scheduler(self, scheduler: str) -> None:
        """Start the proxies anew with another IPVS scheduler; raises like `start`."""
        self.cluster.stop_proxies()
        self._start_proxies(replace(self._options, scheduler=scheduler))
        self.cluster.wait_synced(TRAFFIC_TIMEOUT_S)

    def targets(self, traffic: str) -> tuple[tuple[Target, ...], tuple[int, ...]]:
        """Where traffic goes, and the places (from 1) of the Services it meets; none for the direct lane."""
        protocol = "UDP" if traffic == "udp" else "TCP"
        if self.mode == DIRECT:
            return self._endpoint_targets(protocol), ()
        places = measured_places(self.services)
        return tuple(self._service_target(place, protocol) for place in places), tuple(p + 1 for p in places)

    def pods(self) -> tuple[tuple[str, int], ...]:
        """Where the lane's own pods on the client's node listen, to be met without any Service."""
        return tuple(
            (pod.address, number)
            for pod in self.cluster.plan.pods
            for number, protocol in pod.spec.listens[:1]
            if protocol == "TCP" and pod.spec.node == self._node_name
        )

    def read_meters(self) -> Reading:
        return self._meters.read(self._proxy_pid)

    def check_alive(self) -> None:
        """Raise ProcessDied, with the evidence, if a process of this lane has ended."""
        self.cluster.check_alive()

    def metrics(self) -> Mapping[str, float]:
        """The proxy's own metrics; none for the direct lane or while it does not answer."""
        if self.mode != DIRECT and self.cluster.proxies:
            with suppress(OSError):
                return self.cluster.proxy_metrics(self._node_name)
        return {}

    def wait_quiet(self) -> None:
        """Wait until the proxy has nothing left to do. Raises WaitTimeout."""
        if self.mode != DIRECT:
            wait_until(self._is_quiet, f"the proxy of lane {self.name} to come to rest", QUIET_TIMEOUT_S)

    def _inject(self) -> None:
        """Spoil the lane, if it is one to be spoilt; after the proxy, which puts its own rules in front."""
        if self._rules_to_inject:
            self.cluster.install_filter_rules(self._rules_to_inject)
            self._rules_to_inject = 0

    def _load(self, services: int) -> int:
        """Bring the control plane to so many Services; how long that took, in ns.

        The direct lane meets no Service and needs one only to name its endpoints.
        """
        wanted = 1 if self.mode == DIRECT else services
        started_ns = time.perf_counter_ns()
        more = service_copies(self._topology, wanted - self.services, self.endpoints, start=self.services)
        self.cluster.api.load(list(more))
        self.services = wanted
        return time.perf_counter_ns() - started_ns

    def _start_proxies(self, options: ProxyOptions) -> int:
        """Start them without waiting; when that was."""
        self.cluster.options = options
        started_ns = time.perf_counter_ns()
        self.cluster.start_proxies()
        return started_ns

    def _await_traffic(
        self, event: str, started_ns: int, before: Mapping[str, float], **facts: Any
    ) -> LaneRecord:
        last = self._service_target(self.services - 1, None)
        answered_ns = wait_answer(self.client, last, TRAFFIC_TIMEOUT_S, self.check_alive)
        # Rules carry traffic a moment before the sync that wrote them has ended.
        wait_until(
            partial(self._has_synced, before), f"the proxy of lane {self.name} to sync", TRAFFIC_TIMEOUT_S
        )
        self.wait_quiet()
        # What was asked before there were rules is remembered as leading nowhere for two minutes, and would
        # swallow whatever the load sends from the same port.
        for node in self.cluster.fabric.nodes.values():
            forget_flows(node)
        metrics = self.metrics()
        sync_s = metrics.get(SYNC_SUM, 0.0) - before.get(SYNC_SUM, 0.0)
        return self._record(
            event,
            to_traffic_ns=answered_ns - started_ns,
            sync_ns=round(sync_s * 1e9) if SYNC_SUM in metrics else None,
            rules=_total(metrics, RULES),
            rules_written=_total(metrics, RULES_WRITTEN),
            metrics={name: value for name, value in metrics.items() if _worth_keeping(name)},
            **facts,
        )

    def _record(self, event: str, **facts: Any) -> LaneRecord:
        pid = self._proxy_pid
        return LaneRecord(
            lane=self.name,
            mode=self.mode,
            event=event,
            services=self.services,
            endpoints=self.endpoints,
            unix_ns=time.time_ns(),
            company=self.company,
            rss_bytes=None if pid is None else resident_bytes(pid),
            proxy_cpu_ns=None if pid is None else process_cpu_ns(pid),
            **facts,
        )

    def _service_target(self, place: int, protocol: str | None) -> Target:
        """The ClusterIP of a Service, on its first port (of this protocol, if one is given)."""
        first = self._topology.services[0]
        service = self.cluster.api.get("Service", copy_name(first.name, place), first.namespace)
        port = _first_port(service["spec"]["ports"], protocol)
        return Target(service["spec"]["clusterIP"], port["port"], port.get("protocol", "TCP"))

    def _endpoint_targets(self, protocol: str) -> tuple[Target, ...]:
        """The endpoints of the lane's one Service themselves, from its EndpointSlices."""
        first = self._topology.services[0]
        name = copy_name(first.name, 0)
        service = self.cluster.api.get("Service", name, first.namespace)
        wanted = _first_port(service["spec"]["ports"], protocol)
        slices = self.cluster.api.list(
            "EndpointSlice", first.namespace, labels=f"kubernetes.io/service-name={name}"
        )
        found = [
            Target(endpoint["addresses"][0], port["port"], protocol)
            for one in slices
            if one["addressType"] == "IPv4"
            for port in one["ports"]
            if port.get("name", "") == wanted.get("name", "")
            for endpoint in one["endpoints"]
        ]
        return tuple(sorted(found, key=lambda target: target.host))

    @property
    def _node_name(self) -> str:
        return self.cluster.plan.nodes[0].name

    @property
    def _proxy_pid(self) -> int | None:
        proxy = self.cluster.proxies.get(self._node_name)
        return None if proxy is None else proxy.pid

    def _has_synced(self, before: Mapping[str, float]) -> bool:
        """Whether a sync has ended since the metrics `before`, and no change waits for another."""
        self.check_alive()
        metrics = self.metrics()
        done = metrics.get(SYNC_COUNT, 0.0) > before.get(SYNC_COUNT, 0.0)
        return done and not any(metrics.get(name) for name in CHANGES_PENDING)

    def _is_quiet(self) -> bool:
        self.check_alive()
        pid = self._proxy_pid
        before = None if pid is None else process_cpu_ns(pid)
        time.sleep(self._quiet_window_s)
        after = None if pid is None else process_cpu_ns(pid)
        if pid is None or before is None or after is None:
            raise ProcessDied(f"the proxy of lane {self.name}", None)
        return not has_children(pid) and after - before < QUIET_SHARE * self._quiet_window_s * 1e9


def _first_port(ports: list[dict[str, Any]], protocol: str | None) -> dict[str, Any]:
    return next(port for port in ports if protocol in (None, port.get("protocol", "TCP")))


def _total(metrics: Mapping[str, float], name: str) -> int | None:
    """A metric summed over its labels."""
    found = [value for key, value in metrics.items() if key == name or key.startswith(name + "{")]
    return round(sum(found)) if found else None


def _worth_keeping(name: str) -> bool:
    return name.startswith(("kubeproxy_", "testbed_", "process_")) and "_bucket" not in name
