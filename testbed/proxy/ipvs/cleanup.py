"""Takes IPVS mode off a node, whatever run of it left something there.

Owns what counts as this mode's. Must not need a working IPVS: on a kernel without one there is simply less to
remove.
"""

from __future__ import annotations

import logging

from testbed.errors import MachineLacks
from testbed.proxy.iptables.restore import Iptables, section
from testbed.proxy.ipvs import rules
from testbed.proxy.ipvs.device import ServiceDevice
from testbed.proxy.ipvs.diff import node_ports_of, own_servers
from testbed.proxy.ipvs.ipsets import Ipsets
from testbed.proxy.ipvs.model import NodeState
from testbed.proxy.ipvs.table import IpvsTable
from testbed.proxy.model import Family
from testbed.proxy.proxier import ProxySettings

log = logging.getLogger(__name__)


def cleanup(settings: ProxySettings, *, active: str = "") -> None:
    """Remove what any run of IPVS mode may have left in this network namespace for `settings.family`.

    With `active` (the mode that took over) chains that it shares with this mode, and the jumps to them, stay;
    `active="ipvs"` removes only the rules in the variant of iptables that is not in use. Raises CommandFailed
    or NetlinkRefused when something that is there cannot be removed.
    """
    _remove_rules(settings, active)
    if active == "ipvs":
        return
    with ServiceDevice(settings.family) as device, Ipsets(settings.family) as ipsets:
        held = _held_sets(ipsets)
        bound, node = device.addresses()
        _remove_servers(NodeState({}, bound, held), node, settings.family)
        device.remove(bound)
        if not _bound_elsewhere(settings.family):
            device.delete()
        if held:
            ipsets.destroy()


def _held_sets(ipsets: Ipsets) -> dict[str, set[str]]:
    try:
        return ipsets.read()
    except MachineLacks as lacking:
        log.info("no ipsets to remove: %s", lacking)
        return {}


def _remove_rules(settings: ProxySettings, active: str) -> None:
    """Remove our chains in both variants of iptables; of shared chains only the rules that match our sets."""
    in_use = Iptables(settings.family, settings.iptables_variant).variant if active else ""
    for variant in ("legacy", "nft"):
        if active == "ipvs" and variant == in_use:
            continue
        try:
            iptables = Iptables(settings.family, variant, probe=False)
            for table, own in rules.OWN_CHAINS.items():
                if active == "iptables" and variant == in_use:
                    _remove_matches(iptables, table)
                    iptables.remove_chains(table, own)
                else:
                    iptables.remove_chains(table, rules.CHAINS[table])
        except MachineLacks as lacking:
            log.info("no rules to remove: %s", lacking)


def _remove_matches(iptables: Iptables, table: str) -> None:
    chains = tuple(f"-A {chain} " for chain in rules.SHARED_CHAINS[table])
    ours = [
        f"-D{rule[2:]}"
        for rule in iptables.save(table).splitlines()
        if rule.startswith(chains) and "--match-set KUBE-" in rule
    ]
    if ours:
        iptables.restore(section(table, ours))


def _remove_servers(state: NodeState, node_addresses: list[str], family: Family) -> None:
    """Delete the virtual servers on addresses of the device, and those at our NodePorts of the node."""
    try:
        table = IpvsTable()
    except MachineLacks as lacking:
        log.info("no virtual servers to remove: %s", lacking)
        return
    with table:
        state.servers = table.read()
        table.delete_servers(own_servers(state, node_addresses, node_ports_of(state, family)))


def _bound_elsewhere(family: Family) -> bool:
    """Whether the other family's proxier still has addresses on the device."""
    other = Family.IPV6 if family is Family.IPV4 else Family.IPV4
    with ServiceDevice(other) as device:
        return bool(device.addresses()[0])
