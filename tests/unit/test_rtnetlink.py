"""What our messages mean, as pyroute2 reads them."""

from __future__ import annotations

from typing import Any

import pytest
from pyroute2.netlink.rtnl.ifaddrmsg import ifaddrmsg
from pyroute2.netlink.rtnl.ifinfmsg import ifinfmsg
from pyroute2.netlink.rtnl.ndmsg import ndmsg
from pyroute2.netlink.rtnl.rtmsg import rtmsg

from testbed.net import rtnetlink
from testbed.net.netlink import NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE, NLM_F_REQUEST, Message
from testbed.net.rtnetlink import End

MAC = bytes.fromhex("0a580a010203")


def read(message: Message, kind: type[Any]) -> Any:
    decoded = kind(message.pack(1))
    decoded.decode()
    assert decoded["header"]["type"] == message.type
    return decoded


def test_a_bridge_is_born_up_with_its_own_address_and_without_snooping() -> None:
    message = rtnetlink.link_bridge(End("cni0", 7, MAC))
    link = read(message, ifinfmsg)
    assert (link["index"], link["flags"], link["change"]) == (7, 1, 1)
    assert (link.get_attr("IFLA_IFNAME"), link.get_attr("IFLA_ADDRESS")) == ("cni0", "0a:58:0a:01:02:03")
    assert link.get_nested("IFLA_LINKINFO", "IFLA_INFO_KIND") == "bridge"
    assert link.get_nested("IFLA_LINKINFO", "IFLA_INFO_DATA", "IFLA_BR_MCAST_SNOOPING") == 0
    assert message.flags == NLM_F_CREATE | NLM_F_EXCL


def test_without_a_mac_the_kernel_chooses_one() -> None:
    assert read(rtnetlink.link_bridge(End("br0", 7)), ifinfmsg).get_attr("IFLA_ADDRESS") is None


def test_a_veth_is_a_port_here_and_its_peer_is_born_there() -> None:
    message = rtnetlink.link_veth(End("port0", 9), master=7, peer=End("eth0", 5, MAC), peer_netns_fd=42)
    link = read(message, ifinfmsg)
    assert (link["index"], link["flags"], link.get_attr("IFLA_MASTER")) == (9, 1, 7)
    assert link.get_nested("IFLA_LINKINFO", "IFLA_INFO_KIND") == "veth"
    peer = link.get_nested("IFLA_LINKINFO", "IFLA_INFO_DATA", "VETH_INFO_PEER")
    assert (peer["index"], peer["flags"]) == (5, 0)
    assert (peer.get_attr("IFLA_IFNAME"), peer.get_attr("IFLA_ADDRESS")) == ("eth0", "0a:58:0a:01:02:03")
    assert peer.get_attr("IFLA_NET_NS_FD") == 42
    for end in (link, peer):
        assert (end.get_attr("IFLA_NUM_TX_QUEUES"), end.get_attr("IFLA_NUM_RX_QUEUES")) == (1, 1)


@pytest.mark.parametrize(
    ("address", "family", "prefix_length", "flags"),
    [("10.1.2.3/32", 2, 32, 0), ("172.18.0.1/16", 2, 16, 0), ("fd00::1/64", 10, 64, 0x02)],
)
def test_an_address_is_usable_at_once(address: str, family: int, prefix_length: int, flags: int) -> None:
    decoded = read(rtnetlink.address_add(5, address), ifaddrmsg)
    assert (decoded["family"], decoded["prefixlen"], decoded["index"]) == (family, prefix_length, 5)
    assert decoded["flags"] == flags, "IPv6 without duplicate address detection"
    assert decoded.get_attr("IFA_LOCAL") == decoded.get_attr("IFA_ADDRESS") == address.partition("/")[0]


def test_a_route_through_a_gateway_off_the_link_says_so() -> None:
    message = rtnetlink.route_add("0.0.0.0/0", index=5, gateway="10.1.2.1", onlink=True)
    route = read(message, rtmsg)
    assert (route["dst_len"], route["flags"], route["scope"], route["table"]) == (0, 4, 0, 254)
    assert (route.get_attr("RTA_GATEWAY"), route.get_attr("RTA_OIF")) == ("10.1.2.1", 5)


def test_an_ipv6_route_has_its_own_family_and_length() -> None:
    route = read(rtnetlink.route_add("fd00:1::/48", index=5, gateway="fd00::1"), rtmsg)
    assert (route["family"], route["dst_len"], route["flags"]) == (10, 48, 0)
    assert (route.get_attr("RTA_DST"), route.get_attr("RTA_GATEWAY")) == ("fd00:1::", "fd00::1")


def test_neighbours_are_permanent() -> None:
    message = rtnetlink.neighbour_add(5, "10.1.2.3", MAC)
    neighbour = read(message, ndmsg)
    assert (neighbour["ifindex"], neighbour["state"], neighbour["flags"]) == (5, 0x80, 0)
    assert neighbour.get_attr("NDA_DST") == "10.1.2.3"
    assert neighbour.get_attr("NDA_LLADDR") == "0a:58:0a:01:02:03"
    assert message.flags == NLM_F_CREATE | NLM_F_REPLACE


def test_a_bridge_station_is_static_and_belongs_to_the_bridge() -> None:
    station = read(rtnetlink.bridge_station_add(9, MAC), ndmsg)
    assert (station["family"], station["ifindex"]) == (7, 9)
    assert (station["state"], station["flags"]) == (0x40, 0x04)


def test_deletions_name_what_goes_and_nothing_more() -> None:
    assert read(rtnetlink.link_delete(9), ifinfmsg)["index"] == 9
    gone = read(rtnetlink.neighbour_delete(5, "fd00::2"), ndmsg)
    assert (gone["family"], gone["ifindex"], gone.get_attr("NDA_DST")) == (10, 5, "fd00::2")
    assert gone["header"]["flags"] == NLM_F_REQUEST


def test_a_mac_comes_from_the_address() -> None:
    assert rtnetlink.mac_of("10.1.2.3") == MAC


def test_every_message_says_what_it_was_for() -> None:
    assert (
        rtnetlink.route_add("10.0.0.0/8", index=5, gateway="10.1.2.1").what
        == "add route 10.0.0.0/8 via 10.1.2.1"
    )
    assert rtnetlink.link_bridge(End("cni0", 7)).what == "add bridge cni0"
