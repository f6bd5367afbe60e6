"""The controllers that a lab needs, worked off together after every change.

They note what changed inside each write, and act when `settle` is called: nothing runs in the
background, and when `settle` returns everything follows from everything else.
"""

from __future__ import annotations

from testbed.cluster.controllers.daemonsets import DaemonSetController
from testbed.cluster.controllers.deployments import DeploymentController
from testbed.cluster.controllers.endpoints import EndpointsController
from testbed.cluster.controllers.mirroring import MirroringController
from testbed.cluster.controllers.scheduling import Scheduler
from testbed.cluster.controllers.selection import ServicePods
from testbed.cluster.controllers.slices import SliceController
from testbed.cluster.mint import Mint
from testbed.cluster.removal import Removal
from testbed.cluster.store import Store


class Controllers:
    """All controllers over one store."""

    def __init__(self, store: Store, mint: Mint, removal: Removal) -> None:
        self._removal = removal
        self._scheduler = Scheduler(store, mint)
        self._deployments = DeploymentController(store, mint, removal, self._scheduler)
        self._daemons = DaemonSetController(store, mint, removal)
        self._membership = ServicePods(store, mint)
        self._slices = SliceController(store, mint, self._membership)
        self._endpoints = EndpointsController(store, mint, self._membership)
        self._mirroring = MirroringController(store, mint, self._membership)

    def want_endpoints(self) -> None:
        """Keep v1 Endpoints from now on: somebody reads them."""
        self._endpoints.activate()
        self.settle()

    def settle(self) -> None:
        """Act on all changes, and on what follows from acting, until nothing is left to do."""
        while (
            self._removal.reconcile()
            or self._deployments.reconcile()
            or self._daemons.reconcile()
            or self._scheduler.reconcile()
            or self._reconcile_services()
            or self._mirroring.reconcile()
        ):
            continue

    def _reconcile_services(self) -> bool:
        touched = self._membership.take()
        for key, trigger in touched.items():
            service = self._membership.services.get(key)
            self._slices.reconcile(key, service, trigger)
            self._endpoints.reconcile(key, service, trigger)
        return bool(touched)
