"""Is this proxy well, and has this node endpoints? The answers for load balancers and the kubelet.

Owns `/healthz`, `/livez` and the servers on `healthCheckNodePort`s. Must not know how a sync is done.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from functools import partial

from testbed.proxy.httpserver import Answer, HttpServer
from testbed.proxy.model import ServicePort
from testbed.proxy.servicemap import ServiceKey, ServiceMap

DELETION_TAINT = "ToBeDeletedByClusterAutoscaler"


class ProxyHealth:
    """Whether queued changes reach the kernel in time: unhealthy once one waits longer than `timeout_s`.

    Methods may be called from any thread. `node_eligible` is set false for a node that is going away: it
    makes `/healthz` fail, so that load balancers turn away, but not `/livez`. `settled` does the same while
    it is false: until the first rules stand and another mode's are gone.
    """

    def __init__(self, timeout_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        self.node_eligible = True
        self.settled = True
        self._timeout_s = timeout_s
        self._clock = clock
        self._lock = threading.Lock()
        self._oldest_pending: dict[str, float] = {}
        self._updated_at: datetime | None = None

    def queued(self, family: str) -> None:
        """A change for this family's proxier waits."""
        with self._lock:
            self._oldest_pending.setdefault(family, self._clock())

    def updated(self, family: str) -> None:
        """This family's proxier has brought everything it knew of to the kernel."""
        with self._lock:
            self._oldest_pending.pop(family, None)
            self._updated_at = datetime.now(UTC)

    @property
    def alive(self) -> bool:
        """No change waits longer than it may."""
        now = self._clock()
        with self._lock:
            return all(now - since < self._timeout_s for since in self._oldest_pending.values())

    def healthz(self) -> Answer:
        """For load balancers: alive, and the node is there to stay."""
        well = self.alive and self.node_eligible and self.settled
        return self._answer(well, {"nodeEligible": self.node_eligible})

    def livez(self) -> Answer:
        """For the kubelet: alive."""
        return self._answer(self.alive, {})

    def _answer(self, well: bool, extra: dict[str, bool]) -> Answer:
        now = datetime.now(UTC)
        updated = self._updated_at or now
        body = {"lastUpdated": str(updated), "currentTime": str(now), **extra}
        return Answer(200 if well else 503, json.dumps(body).encode(), "application/json")


class ServiceHealth:
    """One HTTP server per `healthCheckNodePort`, which tells how many ready endpoints this node has."""

    def __init__(self, health: ProxyHealth) -> None:
        self._health = health
        self._servers: dict[ServiceKey, tuple[int, HttpServer]] = {}
        self._local: dict[ServiceKey, int] = {}

    def sync(self, services: ServiceMap, ports: Iterable[ServicePort]) -> None:
        """Serve exactly the health ports of `ports`."""
        wanted: dict[ServiceKey, int] = {}
        local: dict[ServiceKey, set[str]] = {}
        for port in ports:
            if port.health_check_node_port:
                key = (port.name.namespace, port.name.name)
                wanted[key] = port.health_check_node_port
                ready = (end.address for end in services.endpoints(port.name) if end.local and end.ready)
                local.setdefault(key, set()).update(ready)
        self._local = {key: len(addresses) for key, addresses in local.items()}
        for key, (number, server) in list(self._servers.items()):
            if wanted.get(key) != number:
                del self._servers[key]
                server.close()
        for key, number in wanted.items():
            if key not in self._servers:
                self._servers[key] = (
                    number,
                    HttpServer("", number, {"*": partial(self._answer, key)}),
                )

    def _answer(self, key: ServiceKey) -> Answer:
        count, alive = self._local.get(key, 0), self._health.alive
        body = {
            "service": {"namespace": key[0], "name": key[1]},
            "localEndpoints": count,
            "serviceProxyHealthy": alive,
        }
        return Answer(
            200 if count and alive else 503,
            json.dumps(body, indent="\t").encode(),
            "application/json",
            (("X-Load-Balancing-Endpoint-Weight", str(count)),),
        )
