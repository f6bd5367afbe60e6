"""The ipsets of IPVS mode: names, members, and their wire form."""

from __future__ import annotations

import struct

import pytest

from testbed.net.netlink import attribute, attributes, nested, text
from testbed.proxy.ipvs import ipset_messages as messages
from testbed.proxy.ipvs import sets
from testbed.proxy.model import Family

NET = 0x4000  # NLA_F_NET_BYTEORDER
DATA, ADT, SETNAME = 7, 8, 2


def test_every_set_has_kube_proxys_name_and_a_prefix_of_its_own_for_ipv6() -> None:
    names = {sets.set_name(kind, Family.IPV4) for kind in sets.KINDS}
    assert names == {
        "KUBE-LOOP-BACK",
        "KUBE-CLUSTER-IP",
        "KUBE-EXTERNAL-IP",
        "KUBE-EXTERNAL-IP-LOCAL",
        "KUBE-LOAD-BALANCER",
        "KUBE-LOAD-BALANCER-FW",
        "KUBE-LOAD-BALANCER-LOCAL",
        "KUBE-LOAD-BALANCER-SOURCE-IP",
        "KUBE-LOAD-BALANCER-SOURCE-CIDR",
        "KUBE-NODE-PORT-TCP",
        "KUBE-NODE-PORT-UDP",
        "KUBE-NODE-PORT-SCTP-HASH",
        "KUBE-NODE-PORT-LOCAL-TCP",
        "KUBE-NODE-PORT-LOCAL-UDP",
        "KUBE-NODE-PORT-LOCAL-SCTP-HASH",
        "KUBE-HEALTH-CHECK-NODE-PORT",
        "KUBE-IPVS-IPS",
    }
    assert sets.set_name(sets.LOOP_BACK, Family.IPV6) == "KUBE-6-LOOP-BACK"
    assert max(len(sets.set_name(kind, Family.IPV6)) for kind in sets.KINDS) < 32


def test_everything_is_two_halves_and_a_single_address_has_no_prefix() -> None:
    assert sets.source_nets("0.0.0.0/0") == ("0.0.0.0/1", "128.0.0.0/1")
    assert sets.source_nets("::/0") == ("::/1", "8000::/1")
    assert sets.source_nets("192.0.2.7/24") == ("192.0.2.0/24",)
    assert sets.source_nets("192.0.2.7/32") == ("192.0.2.7",)


def test_a_hash_set_is_created_for_its_family_and_a_bitmap_for_all_ports() -> None:
    message = messages.create_message(sets.CLUSTER_IP, Family.IPV6, 6)
    found = attributes(message.body, 4)
    assert message.type == 0x602
    assert found[3] == b"hash:ip,port\0"
    assert (found[4], found[5]) == (b"\6", b"\x0a")
    assert attributes(found[DATA]) == {18: struct.pack("!I", 1024), 19: struct.pack("!I", 1 << 20)}
    found = attributes(messages.create_message(sets.NODE_PORT_TCP, Family.IPV4, 3).body, 4)
    assert found[5] == b"\0"
    assert attributes(found[DATA]) == {4: bytes(2), 5: b"\xff\xff"}


def test_a_member_goes_out_with_addresses_and_ports_in_network_order() -> None:
    member = iter(["10.96.0.1,udp:53"])
    (message,) = messages.member_messages(messages.ADD, "A", sets.CLUSTER_IP, Family.IPV4, member)
    assert message.type == 0x609
    assert attributes(message.body, 4)[DATA] == (
        nested(1, attribute(1 | NET, bytes([10, 96, 0, 1])))
        + attribute(4 | NET, b"\x00\x35")
        + attribute(7, bytes([17]))
    )


@pytest.mark.parametrize(
    ("kind", "member"),
    [
        (sets.NODE_PORT_TCP, "30080"),
        (sets.IPVS_IPS, "10.96.0.1"),
        (sets.CLUSTER_IP, "10.96.0.1,tcp:80"),
        (sets.CLUSTER_IP, "fd00:96::1,sctp:80"),
        (sets.LOOP_BACK, "10.244.1.5,udp:8080,10.244.1.5"),
        (sets.LOAD_BALANCER_SOURCE_CIDR, "203.0.113.9,tcp:80,10.0.0.0/8"),
        (sets.LOAD_BALANCER_SOURCE_CIDR, "203.0.113.9,tcp:80,192.0.2.7"),
        (sets.LOAD_BALANCER_SOURCE_CIDR, "fd00::9,tcp:80,8000::/1"),
    ],
)
def test_a_member_is_read_back_as_it_was_written(kind: sets.SetKind, member: str) -> None:
    """What the kernel lists has the attributes that it was given."""
    sent = messages.member_messages(messages.ADD, "A", kind, Family.IPV4, iter([member]))
    (data,) = (attributes(message.body, 4)[DATA] for message in sent)
    listed = bytes(4) + text(SETNAME, "A") + nested(ADT, nested(DATA, data), nested(DATA, data))
    assert messages.read_members(listed, {"A": kind.type}) == ("A", [member, member])


def test_sets_of_others_are_passed_over() -> None:
    assert messages.read_members(bytes(4) + text(SETNAME, "MINE"), {"A": sets.ADDRESS}) is None
