"""Which addresses of the node NodePorts listen on, as `--nodeport-addresses` says."""

from __future__ import annotations

import pytest

from testbed.proxy.model import Family
from testbed.proxy.nodeports import is_reachable, node_port_addresses, reachable_addresses
from testbed.proxy.proxier import ProxySettings

OWN = ["192.0.2.1", "198.18.0.1", "10.244.1.1"]


@pytest.mark.parametrize(
    ("chosen", "listening"),
    [
        ((), OWN),
        (("primary",), ["192.0.2.1"]),
        (("198.18.0.0/15", "10.244.1.0/24"), ["198.18.0.1", "10.244.1.1"]),
        (("203.0.113.0/24",), []),
        (("0.0.0.0/0",), OWN),
        (("198.18.0.1/15", "fd00::/8"), ["198.18.0.1"]),
        (("fd00::/8",), OWN),
    ],
    ids=str,
)
def test_ranges_of_the_family_choose_and_ranges_of_another_do_not(
    chosen: tuple[str, ...], listening: list[str]
) -> None:
    settings = ProxySettings(node_ips=("192.0.2.1",), nodeport_addresses=chosen)
    assert node_port_addresses(settings, OWN) == listening


def test_loopback_and_link_local_addresses_are_nobodys_way_in() -> None:
    reachable = [each for each in ("127.0.0.1", "169.254.1.1", "::1", "fe80::1", *OWN) if is_reachable(each)]
    assert reachable == OWN
    assert not [address for address in reachable_addresses(Family.IPV4) if address.startswith("127.")]
