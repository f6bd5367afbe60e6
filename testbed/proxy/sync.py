"""One family's way from watch events to the kernel: take the delta, sync, clean conntrack, report.

Owns the order of these steps and what happens when one fails. Must not know the API or any mode.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from testbed.errors import CommandFailed, TestbedError, TransactionRefused
from testbed.proxy.changes import ChangeTracker, Delta
from testbed.proxy.conntrack import remove_stale_flows, udp_frontends
from testbed.proxy.health import ProxyHealth, ServiceHealth
from testbed.proxy.model import Family, ServicePortName
from testbed.proxy.proxier import Proxier, ProxySettings, SyncResult
from testbed.proxy.runner import Runner, SyncFailed
from testbed.proxy.servicemap import ServiceMap

if TYPE_CHECKING:
    from testbed.proxy.metrics import Metrics

log = logging.getLogger(__name__)


class FamilySync:
    """Drives one proxier from one thread. The first sync waits until both kinds of objects were listed.

    `synced` is set once a sync has succeeded. `service_health` is given to one family only.
    """

    def __init__(
        self,
        proxier: Proxier,
        settings: ProxySettings,
        health: ProxyHealth,
        metrics: Callable[[], Metrics],
        service_health: ServiceHealth | None = None,
        *,
        zone: str = "",
    ) -> None:
        self.family: Family = settings.family
        self.tracker = ChangeTracker(settings.family, settings.hostname)
        self.synced = threading.Event()
        self._proxier = proxier
        self._services = ServiceMap(zone)
        self._zone = zone
        self._health = health
        self._service_health = service_health
        self._metrics = metrics
        self._awaited = {"services", "slices"}
        self._complete = threading.Event()
        self._changed: set[ServicePortName] | None = None
        self._runner = Runner(
            self.sync, min_interval_s=settings.min_sync_period_s, max_interval_s=settings.sync_period_s
        )

    @property
    def malformed(self) -> int:
        """How many mistakes the API's objects had so far, claims to another's VIP included."""
        return self.tracker.malformed + self._services.conflicts

    def listed(self, kind: str) -> None:
        """All `services` or `slices` there are have been told to the tracker."""
        self._awaited.discard(kind)
        if not self._awaited and not self._complete.is_set():
            log.info("Services and EndpointSlices are listed: %s can be synced", self.family)
            self._complete.set()
            self.request()

    def request(self) -> None:
        """The tracker has news; does nothing before the first lists are complete."""
        if self._complete.is_set():
            self._health.queued(self.family)
            self._runner.request()

    def set_zone(self, zone: str) -> None:
        """The node's zone is now this: every choice of endpoints may change."""
        if zone != self._zone:
            self._zone = zone
            self.request()

    def loop(self) -> None:
        """Sync when due, for ever; meant for a thread of its own."""
        self._complete.wait()
        self._runner.loop()

    def stop(self) -> None:
        """Let `loop` return."""
        self._complete.set()
        self._runner.stop()

    def sync(self) -> float | None:
        """Bring the kernel in line with what is known; seconds until it shall be done again anyway, if set.

        Raises SyncFailed after logging the cause; everything will then be written next time.
        """
        delta = self.tracker.take(self._services)
        if self._services.zone != self._zone:
            self._services.zone = self._zone
            self._changed = None
        if self._changed is not None:
            self._changed |= delta.changed
        started_s = time.monotonic()
        try:
            result = self._proxier.sync(self._services, self._changed)
        except (TestbedError, OSError) as error:
            self._failed(error)
            raise SyncFailed from error
        duration_s = time.monotonic() - started_s
        self._changed = set()
        self._remove_stale_flows(delta)
        if self._service_health is not None:
            self._service_health.sync(self._services, self._services.values())
        self._health.updated(self.family)
        self.synced.set()
        self._report(delta, result, duration_s)
        return result.again_after_s

    def _failed(self, error: Exception) -> None:
        self._changed = None
        log.error("sync of %s failed, everything will be written again: %s", self.family, error)
        if isinstance(error, CommandFailed):
            self._metrics().transaction_failed(error.argv[0])
        elif isinstance(error, TransactionRefused):
            self._metrics().transaction_failed("nft")

    def _remove_stale_flows(self, delta: Delta) -> None:
        try:
            removed = remove_stale_flows(udp_frontends(delta, self._services, self.family), self.family)
        except (TestbedError, OSError) as error:
            log.warning("stale UDP flows stay in conntrack: %s", error)
        else:
            if removed:
                log.info("removed %d stale UDP flows from conntrack", removed)

    def _report(self, delta: Delta, result: SyncResult, duration_s: float) -> None:
        log.info(
            "synced %s in %.3f s: %d ports, %s, %d rules, %d bytes",
            self.family,
            duration_s,
            len(self._services),
            "everything" if result.full else f"{len(delta.changed)} changed",
            result.rules_written,
            result.bytes_written,
        )
        metrics, now_s = self._metrics(), time.time()
        metrics.changes(delta.service_events, delta.slice_events, now_s - duration_s)
        metrics.synced(result, duration_s, now_s)
        for triggered_s in delta.triggered_at:
            metrics.programmed(now_s - triggered_s)
