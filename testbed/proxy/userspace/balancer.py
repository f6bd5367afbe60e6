"""Which endpoint the next connection goes to.

Owns the round robin of one Service port and its client affinity. Must not know sockets or threads. Everything
here belongs to the relay's thread.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from time import monotonic

Address = tuple[str, int]
"""IPv4 address and port, as `socket.connect` takes them."""


class Rotation:
    """Strict round robin over the endpoints of one Service port.

    With `affinity_timeout_s` a client goes back to the endpoint of its last connection, unless that is
    longer ago than the timeout or the endpoint is gone.
    """

    __slots__ = ("_clients", "_clock", "_endpoints", "_next", "affinity_timeout_s")

    def __init__(
        self,
        endpoints: Sequence[Address] = (),
        affinity_timeout_s: float | None = None,
        *,
        clock: Callable[[], float] = monotonic,
    ) -> None:
        self._endpoints = tuple(endpoints)
        self._next = 0
        self._clients: dict[str, tuple[Address, float]] = {}
        self._clock = clock
        self.affinity_timeout_s = affinity_timeout_s

    @property
    def endpoints(self) -> tuple[Address, ...]:
        """In the order of the rotation."""
        return self._endpoints

    @property
    def client_count(self) -> int:
        """How many clients have an endpoint of their own."""
        return len(self._clients)

    def update(self, endpoints: Sequence[Address], affinity_timeout_s: float | None) -> None:
        """Change the endpoints; the rotation goes on behind the endpoint it gave last."""
        wanted = tuple(endpoints)
        if wanted != self._endpoints:
            self._next = self._place_after_last(wanted)
            self._endpoints = wanted
            kept = frozenset(wanted)
            self._clients = {client: seen for client, seen in self._clients.items() if seen[0] in kept}
        self.affinity_timeout_s = affinity_timeout_s
        if affinity_timeout_s is None:
            self._clients.clear()

    def next(self, client: str = "", *, anew: bool = False) -> Address | None:
        """The endpoint for a new connection of `client` (its address), or None without endpoints.

        `anew` breaks the client's affinity: its endpoint could not be reached.
        """
        endpoints = self._endpoints
        if not endpoints:
            return None
        if self.affinity_timeout_s is not None:
            return self._sticky(client, self.affinity_timeout_s, anew)
        place = self._next
        if place >= len(endpoints):
            place = 0
        self._next = place + 1
        return endpoints[place]

    def _sticky(self, client: str, timeout_s: float, anew: bool) -> Address:
        now_s = self._clock()
        seen = self._clients.pop(client, None)
        if seen is None or anew or now_s - seen[1] > timeout_s:
            self._forget_idle(now_s - timeout_s)
            place = self._next % len(self._endpoints)
            self._next = place + 1
            endpoint = self._endpoints[place]
        else:
            endpoint = seen[0]
        self._clients[client] = (endpoint, now_s)
        return endpoint

    def _forget_idle(self, before_s: float) -> None:
        """Drop clients last seen before `before_s`; a visit moves its client to the end of the dict."""
        clients = self._clients
        while clients:
            client = next(iter(clients))
            if clients[client][1] >= before_s:
                return
            del clients[client]

    def _place_after_last(self, wanted: tuple[Address, ...]) -> int:
        """Where the rotation goes on in `wanted`: at the first endpoint that was due and is still there."""
        count = len(self._endpoints)
        for step in range(count):
            due = self._endpoints[(self._next + step) % count]
            if due in wanted:
                return wanted.index(due)
        return 0
