"""kube-proxy's metrics under their own names, in Prometheus' text format.

Owns names, help texts and buckets. Must not know where the numbers come from. Imported late:
prometheus_client takes as long to import as the rest of the proxy, and the first rules need none of it.
"""

from __future__ import annotations

from collections.abc import Callable

import prometheus_client
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest

from testbed.proxy.httpserver import Answer
from testbed.proxy.proxier import SyncResult

_NAMESPACE = "kubeproxy"
_SYNC_BUCKETS = tuple(0.001 * 2**power for power in range(15))
_PROGRAMMING_BUCKETS = (
    0.25,
    0.5,
    *range(1, 60),
    *range(60, 120, 5),
    *range(120, 330, 30),
)


class Metrics:
    """All metrics of one proxy process, over both families.

    `pending` tells, at the time of a scrape, how many Services and EndpointSlices wait for a sync;
    `malformed` how many mistakes were found in objects so far.
    """

    def __init__(self, pending: Callable[[], tuple[int, int]], malformed: Callable[[], int]) -> None:
        prometheus_client.disable_created_metrics()  # type: ignore[no-untyped-call]
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        self._sync = self._histogram("sync_proxy_rules_duration_seconds", "SyncProxyRules latency in seconds")
        self._full = self._histogram(
            "sync_full_proxy_rules_duration_seconds", "SyncProxyRules latency in seconds for full resyncs"
        )
        self._partial = self._histogram(
            "sync_partial_proxy_rules_duration_seconds",
            "SyncProxyRules latency in seconds for partial resyncs",
        )
        self._programming = Histogram(
            "network_programming_duration_seconds",
            "In Cluster Network Programming Latency in seconds",
            namespace=_NAMESPACE,
            registry=self.registry,
            buckets=_PROGRAMMING_BUCKETS,
        )
        self._synced_at = self._gauge(
            "sync_proxy_rules_last_timestamp_seconds", "The last time proxy rules were successfully synced"
        )
        self._queued_at = self._gauge(
            "sync_proxy_rules_last_queued_timestamp_seconds", "The last time a sync of proxy rules was queued"
        )
        self._service_changes = self._counter(
            "sync_proxy_rules_service_changes", "Cumulative proxy rules Service changes"
        )
        self._endpoint_changes = self._counter(
            "sync_proxy_rules_endpoint_changes", "Cumulative proxy rules Endpoint changes"
        )
        self._gauge(
            "sync_proxy_rules_service_changes_pending", "Pending proxy rules Service changes"
        ).set_function(lambda: pending()[0])
        self._gauge(
            "sync_proxy_rules_endpoint_changes_pending", "Pending proxy rules Endpoint changes"
        ).set_function(lambda: pending()[1])
        self._gauge("malformed_objects_total", "Mistakes found in objects of the API").set_function(malformed)
        self._restore_failures = self._counter(
            "sync_proxy_rules_iptables_restore_failures", "Cumulative proxy iptables restore failures"
        )
        self._nft_failures = self._counter(
            "sync_proxy_rules_nftables_sync_failures", "Cumulative proxy nftables sync failures"
        )
        self._rules_total = self._gauge(
            "sync_proxy_rules_iptables_total", "Total number of iptables rules owned by kube-proxy", "table"
        )
        self._rules_last = self._gauge(
            "sync_proxy_rules_iptables_last", "Number of iptables rules written in the last sync", "table"
        )
        self._bytes_last = self._gauge("sync_proxy_rules_bytes_last", "Bytes written in the last sync")
        self._no_local = self._gauge(
            "sync_proxy_rules_no_local_endpoints_total",
            "Number of services with a Local traffic policy and no endpoints",
            "traffic_policy",
        )
        self._healthz = self._counter("proxy_healthz", "Cumulative proxy healthz HTTP status", "code")
        self._livez = self._counter("proxy_livez", "Cumulative proxy livez HTTP status", "code")

    def synced(self, result: SyncResult, duration_s: float, now_s: float) -> None:
        """A sync succeeded at wall-clock time `now_s`."""
        self._sync.observe(duration_s)
        (self._full if result.full else self._partial).observe(duration_s)
        self._synced_at.set(now_s)
        self._bytes_last.set(result.bytes_written)
        for gauge, counts in ((self._rules_total, result.rules_total), (self._rules_last, result.rules_last)):
            for table, count in counts.items():
                gauge.labels(table).set(count)
        for policy, count in result.no_local_endpoints.items():
            self._no_local.labels(policy).set(count)

    def changes(self, service_events: int, slice_events: int, queued_at_s: float) -> None:
        """So many events were taken into a sync."""
        self._service_changes.inc(service_events)
        self._endpoint_changes.inc(slice_events)
        self._queued_at.set(queued_at_s)

    def programmed(self, delay_s: float) -> None:
        """A change reached the kernel so long after its cause."""
        self._programming.observe(delay_s)

    def transaction_failed(self, tool: str) -> None:
        """`iptables-restore`, in one of its variants, or nf_tables (`nft`) refused a transaction."""
        if tool.endswith("-restore"):
            self._restore_failures.inc()
        elif tool == "nft":
            self._nft_failures.inc()

    def counted(self, probe: str, answer: Callable[[], Answer]) -> Callable[[], Answer]:
        """The same answer, counted by status under the probe's name, `healthz` or `livez`."""
        counter = self._healthz if probe == "healthz" else self._livez

        def counting() -> Answer:
            given = answer()
            counter.labels(str(given.status)).inc()
            return given

        return counting

    def exposition(self) -> Answer:
        """The answer for `/metrics`."""
        return Answer(200, generate_latest(self.registry), "text/plain; version=0.0.4; charset=utf-8")

    def _histogram(self, name: str, text: str) -> Histogram:
        return Histogram(name, text, namespace=_NAMESPACE, registry=self.registry, buckets=_SYNC_BUCKETS)

    def _gauge(self, name: str, text: str, *labels: str) -> Gauge:
        return Gauge(name, text, labels, namespace=_NAMESPACE, registry=self.registry)

    def _counter(self, name: str, text: str, *labels: str) -> Counter:
        return Counter(name, text, labels, namespace=_NAMESPACE, registry=self.registry)
