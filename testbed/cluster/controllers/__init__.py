"""The controllers that a lab needs, worked off together after every change.

They note what changed inside each write, and act when `settle` is called: nothing runs in the
background, and when `settle` returns everything follows from everything else.
"""

from __future__ import annotations

from testbed.cluster.controllers.selection import ServicePods
from testbed.cluster.controllers.slices import SliceController
from testbed.cluster.mint import Mint
from testbed.cluster.removal import Removal
from testbed.cluster.store import Store


class Controllers:
    """All controllers over one store."""

    def __init__(self, store: Store, mint: Mint, removal: Removal) -> None:
        self._removal = removal
        self._membership = ServicePods(store, mint)
        self._slices = SliceController(store, mint, self._membership)

    def settle(self) -> None:
        """Act on all changes, and on what follows from acting, until nothing is left to do."""
        while self._endpoints() | self._removal.reconcile():
            pass

    def _endpoints(self) -> bool:
        touched = self._membership.take()
        for key, trigger in touched.items():
            self._slices.reconcile(key, self._membership.services.get(key), trigger)
        return bool(touched)
