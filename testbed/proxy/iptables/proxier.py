"""The iptables proxier: keeps the kernel's rules in line with the Services by as few restores as possible.

Owns when to write everything and when only what changed, and how to find out that somebody flushed the rules.
Must not know how rules look.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Collection, Mapping

from testbed.errors import MachineLacks, SysctlRefused
from testbed.net.namespace import write_sysctl
from testbed.proxy.iptables import base, canary, names
from testbed.proxy.iptables.restore import Iptables
from testbed.proxy.iptables.transaction import Book, Transaction
from testbed.proxy.model import Family, ServicePortName
from testbed.proxy.nodeports import with_own_addresses
from testbed.proxy.proxier import ProxySettings, SyncResult
from testbed.proxy.servicemap import ServiceMap

log = logging.getLogger(__name__)

FULL_SYNC_PERIOD_S = 3600.0  # kube-proxy's proxyutil.FullSyncPeriod
TABLES = ("mangle", "nat", "filter")

_SHARED = {
    "ipvs": {
        "nat": (names.SERVICES, names.POSTROUTING, names.MARK_MASQ),
        "filter": (names.FORWARD, names.PROXY_FIREWALL),
    }
}
"""What another mode uses as well, by the names of that mode and of the table."""


class IptablesProxier:
    """Writes Services as iptables rules of one family; see `Proxier`.

    Raises MachineLacks when neither variant of iptables works here.
    """

    def __init__(
        self,
        settings: ProxySettings,
        *,
        iptables: Iptables | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._settings = settings
        self._iptables = iptables or Iptables(settings.family, settings.iptables_variant)
        self._canary = canary.Canary(self._iptables, TABLES)
        self._clock = clock
        self._book = Book(with_own_addresses(settings))
        self._full_due = True
        self._full_at = clock()
        self._looked_at = clock()
        if settings.localhost_nodeports and settings.family is Family.IPV4:
            _route_localnet()
        log.info("iptables variant %s for %s", self._iptables.variant, settings.family)

    def sync(self, services: ServiceMap, changed: Collection[ServicePortName] | None) -> SyncResult:
        """Write what changed, or everything: at first, after a failure, after a flush, and once an hour.

        Raises CommandFailed if iptables-restore refuses; the next call then writes everything.
        """
        now = self._clock()
        if changed is None or self._full_needed(services, now):
            saved = {table: self._iptables.save(table) for table in ("filter", "nat")}
            draft = self._book.draft_full(services, saved)
            self._looked_at = now
        else:
            draft = self._book.draft_partial(services, changed)
        self._apply(draft, now)
        return SyncResult(
            full=draft.full,
            rules_written=sum(draft.rules.values()),
            bytes_written=len(draft.text),
            rules_last=draft.rules,
            rules_total=dict(self._book.total_rules),
            no_local_endpoints=dict(self._book.no_local),
        )

    def close(self) -> None:
        """Remove every rule and chain that this proxier wrote."""
        _remove(self._iptables, {})
        self._full_due = True

    def _apply(self, draft: Transaction, now: float) -> None:
        if not draft.text:
            return
        self._full_due = True
        self._iptables.restore(draft.text)
        self._full_due = False
        self._book.commit(draft)
        if draft.full:
            self._full_at = now

    def _full_needed(self, services: ServiceMap, now: float) -> bool:
        overdue = now - self._full_at >= FULL_SYNC_PERIOD_S
        return self._full_due or overdue or self._book.comments_change(services) or self._flushed(now)

    def _flushed(self, now: float) -> bool:
        """Look once per sync period whether every table still has its canary."""
        if now - self._looked_at < self._settings.sync_period_s * 0.9:  # the timer may be a little early
            return False
        self._looked_at = now
        if gone := self._canary.flushed():
            log.warning(
                "rules were flushed from outside (tables: %s); writing all of them again", ", ".join(gone)
            )
        return bool(gone)


def cleanup(settings: ProxySettings, *, active: str = "") -> None:
    """Remove what any run of iptables mode left in this namespace, in both variants of iptables.

    With `active`, the mode that took over, what it shares with this one stays; `active="iptables"` removes
    only what the variant not in use has. Raises CommandFailed if rules are there and cannot be removed.
    """
    in_use = Iptables(settings.family, settings.iptables_variant).variant if active else ""
    for variant in ("legacy", "nft"):
        if active == "iptables" and variant == in_use:
            continue
        try:
            iptables = Iptables(settings.family, variant, probe=False)
            _remove(iptables, _SHARED.get(active, {}) if variant == in_use else {})
        except MachineLacks:
            continue  # a variant that is not installed has written nothing


def _remove(iptables: Iptables, keep: Mapping[str, Collection[str]]) -> None:
    """Remove this mode's chains, except those in `keep`."""
    for table in TABLES:
        ours = {canary.CHAIN, *base.CHAINS.get(table, ())}.difference(keep.get(table, ()))
        iptables.remove_chains(table, ours, names.SERVICE_PREFIXES)


def _route_localnet() -> None:
    """Let NodePorts answer on 127.0.0.1, as kube-proxy does unless told otherwise."""
    try:
        write_sysctl("net.ipv4.conf.all.route_localnet", 1)
    except SysctlRefused as refusal:
        log.warning("NodePorts will not answer on 127.0.0.1: %s", refusal)
