"""The modes by name: where their code is, and how their leftovers are found and removed.

Owns the table and the late imports. Must not know how any mode works.
"""

from __future__ import annotations

import logging
import socket
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import Any

from testbed.errors import TestbedError
from testbed.proxy.iptables.restore import Iptables
from testbed.proxy.model import Family
from testbed.proxy.proxier import Proxier, ProxySettings

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Mode:
    """One mode: `proxier`, `cleanup` and `traces` are `module:name`; else it leaves a nat chain or a link."""

    proxier: str
    cleanup: str
    families: tuple[Family, ...] = (Family.IPV4, Family.IPV6)
    chain: str = ""
    link: str = ""
    traces: str = ""

    def has_traces(self, iptables: Iptables) -> bool:
        """Whether a run of this mode left something in the namespace; a cheap look."""
        if self.link:
            try:
                socket.if_nametoindex(self.link)
            except OSError:
                return False
            return True
        if self.traces:
            return bool(_imported(self.traces)(iptables.family))
        return iptables.call("nat", "-S", self.chain, check=False).exit_status == 0


MODES = {
    "iptables": Mode(
        "testbed.proxy.iptables.proxier:IptablesProxier",
        "testbed.proxy.iptables.proxier:cleanup",
        chain="KUBE-NODEPORTS",
    ),
    "ipvs": Mode(
        "testbed.proxy.ipvs.proxier:IpvsProxier",
        "testbed.proxy.ipvs.proxier:cleanup",
        link="kube-ipvs0",
    ),
    "nftables": Mode(
        "testbed.proxy.nftables.proxier:NftablesProxier",
        "testbed.proxy.nftables.proxier:cleanup",
        traces="testbed.proxy.nftables.kernel:has_table",
    ),
    "userspace": Mode(
        "testbed.proxy.userspace.proxier:UserspaceProxier",
        "testbed.proxy.userspace.proxier:cleanup",
        families=(Family.IPV4,),
        chain="KUBE-PORTALS-CONTAINER",
    ),
}


def make_proxier(mode: str, settings: ProxySettings) -> Proxier:
    """Build the proxier of a mode. Raises MachineLacks or UserError if it cannot work here."""
    proxier: Proxier = _imported(MODES[mode].proxier)(settings)
    return proxier


def modes_with_traces(active: str, settings: ProxySettings) -> list[str]:
    """The other modes that ran in this namespace before and left something."""
    iptables = Iptables(settings.family, settings.iptables_variant)
    return [name for name, mode in MODES.items() if name != active and mode.has_traces(iptables)]


def clean_up(mode: str, settings: ProxySettings, active: str = "") -> bool:
    """Remove what a mode left for one family; False, and the reason in the log, if that was impossible."""
    if settings.family not in MODES[mode].families:
        return True
    log.info("removing what %s mode left for %s", mode, settings.family)
    try:
        _imported(MODES[mode].cleanup)(settings, active=active)
    except (TestbedError, OSError) as error:
        log.warning("cleaning up after %s mode: %s", mode, error)
        return False
    return True


def load(mode: str) -> None:
    """Import a mode's code ahead of its use, so that a fork of this process starts without doing so."""
    _imported(MODES[mode].proxier)


def _imported(place: str) -> Callable[..., Any]:
    module, _, name = place.partition(":")
    found: Callable[..., Any] = getattr(import_module(module), name)
    return found
