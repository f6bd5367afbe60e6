"""The proxier of nftables mode: keeps one table in line with the Services.

Owns when everything is written and when only what changed. What to write is `render`'s and `book`'s business,
the kernel is behind `kernel`.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Collection, Iterator

from testbed.errors import MachineLacks, TransactionRefused
from testbed.proxy.model import ServicePortName
from testbed.proxy.nftables import base
from testbed.proxy.nftables.book import Book
from testbed.proxy.nftables.kernel import NfTables
from testbed.proxy.nftables.render import CHAIN_NAME, SET_NAME, Piece, render_port
from testbed.proxy.nodeports import with_own_addresses
from testbed.proxy.proxier import ProxySettings, SyncResult
from testbed.proxy.servicemap import ServiceMap

log = logging.getLogger(__name__)


class NftablesProxier:
    """Writes Services as nftables maps and chains of one family; see `Proxier`."""

    def __init__(self, settings: ProxySettings, kernel: NfTables | None = None) -> None:
        """Raises MachineLacks in a kernel without nf_tables for this family."""
        self._settings = settings
        self._kernel = kernel or NfTables(settings.family)
        self._kernel.check()
        self._book = Book(with_own_addresses(settings), self._kernel.most_characters)
        self._looked_at_s = time.monotonic()
        self._without_local: dict[str, set[ServicePortName]] = {"internal": set(), "external": set()}

    def sync(self, services: ServiceMap, changed: Collection[ServicePortName] | None) -> SyncResult:
        """Write what changed; everything at first, after a failure, and once somebody flushed the table.

        Raises TransactionRefused if the kernel refuses.
        """
        if changed is None or self._flushed():
            return self._full_sync(services)
        text = self._book.change((name, self._piece(services, name)) for name in changed)
        if len(text) > self._kernel.most_characters:
            # Too much for one transaction, and only what is loaded anew may be cut.
            return self._full_sync(services)
        if text:
            self._kernel.apply(text)
        return self._result(False, [text])

    def close(self) -> None:
        """Remove the table."""
        self._kernel.close()
        cleanup(self._settings)

    def _full_sync(self, services: ServiceMap) -> SyncResult:
        self._looked_at_s = time.monotonic()
        try:
            written = self._load(services)
        except TransactionRefused as failed:
            if not self._kernel.exists():
                raise
            log.warning("the table that is there cannot be brought in line, it is made anew: %s", failed)
            self._kernel.apply(base.render_removal(self._settings.family))
            written = self._load(services)
        return self._result(True, written)

    def _load(self, services: ServiceMap) -> list[str]:
        """Load everything in transactions of bounded size, then remove what is left over of earlier times."""
        written = []
        fresh = not self._kernel.exists()
        for text in self._book.load(self._pieces(services), fresh=fresh):
            self._kernel.apply(text)
            written.append(text)
        if fresh:
            return written
        chains = (name for name in self._kernel.chains() if CHAIN_NAME.match(name))
        sets = (name for name in self._kernel.sets() if SET_NAME.match(name))
        for text in self._book.leftovers(chains, sets):
            self._kernel.apply(text)
            written.append(text)
        return written

    def _pieces(self, services: ServiceMap) -> Iterator[tuple[ServicePortName, Piece]]:
        for names in self._without_local.values():
            names.clear()
        for name in services:
            piece = self._piece(services, name)
            if piece is not None:
                yield name, piece

    def _piece(self, services: ServiceMap, name: ServicePortName) -> Piece | None:
        port = services.get(name)
        for names in self._without_local.values():
            names.discard(name)
        if port is None:
            return None
        choice = services.choice(name)
        if choice.anywhere and not choice.local:
            if port.internal_local:
                self._without_local["internal"].add(name)
            if port.external_local and port.externally_accessible:
                self._without_local["external"].add(name)
        return render_port(port, choice, self._settings)

    def _flushed(self) -> bool:
        """Look once per sync period whether the rules that lead to everything are still there."""
        now_s = time.monotonic()
        if now_s - self._looked_at_s < self._settings.sync_period_s * 0.9:  # the timer may be a little early
            return False
        self._looked_at_s = now_s
        if self._kernel.uses(base.SERVICES) >= base.SERVICES_USES:
            return False
        log.warning("the table was flushed from outside; writing all of it again")
        return True

    def _result(self, full: bool, texts: list[str]) -> SyncResult:
        written = sum(text.count("\n") for text in texts)
        return SyncResult(
            full=full,
            rules_written=written,
            rules_last={base.TABLE: written},
            rules_total={base.TABLE: self._book.total},
            bytes_written=sum(map(len, texts)),
            no_local_endpoints={policy: len(names) for policy, names in self._without_local.items()},
        )


def cleanup(settings: ProxySettings, *, active: str = "") -> None:
    """Remove the table of `settings.family`, which nftables mode shares with no other (`active`).

    Raises TransactionRefused if it is there and cannot be removed.
    """
    with NfTables(settings.family) as kernel:
        try:
            if kernel.exists():
                kernel.apply(base.render_removal(settings.family))
        except MachineLacks as lacking:
            log.warning("the nftables table cannot be removed: %s", lacking)
