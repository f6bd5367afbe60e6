"""One acknowledgement proves a batch, every refusal is found, and dumps are complete."""

from __future__ import annotations

import errno
import struct
from collections.abc import Iterator

import pytest

from testbed.errors import NetlinkRefused
from testbed.net.namespace import Namespace
from testbed.net.netlink import (
    NETLINK_GENERIC,
    NETLINK_ROUTE,
    NLM_F_CREATE,
    NLM_F_EXCL,
    Message,
    NetlinkSocket,
    attribute,
    attributes,
    nested,
    text,
)

RTM_NEWLINK, RTM_GETLINK, RTM_NEWADDR, RTM_GETADDR = 16, 18, 20, 22
IFA_LOCAL, IFLA_IFNAME, IFLA_LINKINFO, IFLA_INFO_KIND = 2, 3, 18, 1
LOOPBACK = 1


def address(number: int) -> Message:
    local = attribute(IFA_LOCAL, struct.pack("!I", 0x0A000000 + number))
    header = struct.pack("=BBBBI", 2, 32, 0, 0, LOOPBACK)
    return Message(RTM_NEWADDR, NLM_F_CREATE | NLM_F_EXCL, header + local, f"address {number}")


def count_addresses(door: NetlinkSocket) -> int:
    return len(door.dump(Message(RTM_GETADDR, 0, struct.pack("=BBBBI", 2, 0, 0, 0, 0), "addresses")))


@pytest.fixture
def door() -> Iterator[NetlinkSocket]:
    with Namespace.create("a") as namespace, NetlinkSocket(NETLINK_ROUTE, namespace) as door:
        yield door


def test_a_batch_larger_than_one_system_call_arrives_whole(door: NetlinkSocket) -> None:
    before = count_addresses(door)
    assert door.send_batch(address(number) for number in range(1, 1235)) == [0] * 1234
    assert count_addresses(door) == before + 1234


def test_the_first_refusal_is_raised_with_its_index_after_all_others_were_handled(
    door: NetlinkSocket,
) -> None:
    before = count_addresses(door)
    batch = [address(number) for number in range(1, 151)]
    batch[120] = address(5)
    with pytest.raises(NetlinkRefused, match="address 5") as refused:
        door.send_batch(batch)
    assert (refused.value.errno, refused.value.index) == (errno.EEXIST, 120)
    assert count_addresses(door) == before + 149


def test_a_refusal_carries_the_kernels_own_words(door: NetlinkSocket) -> None:
    header = struct.pack("=BxHiII", 0, 0, 0, 0, 0)
    link = Message(
        RTM_NEWLINK,
        NLM_F_CREATE,
        header + nested(IFLA_LINKINFO, text(IFLA_INFO_KIND, "nonsense")),
        "add a link",
    )
    with pytest.raises(NetlinkRefused, match=r"add a link in a \(Unknown device type\)"):
        door.send_batch([link])


def test_accepted_refusals_are_reported_by_their_errno(door: NetlinkSocket) -> None:
    batch = [address(1), address(1), address(2)]
    assert door.send_batch(batch, accept={errno.EEXIST}) == [0, errno.EEXIST, 0]


def test_hundreds_of_refusals_do_not_overflow_the_socket(door: NetlinkSocket) -> None:
    batch = [address(1)] * 1000
    assert door.send_batch(batch, accept={errno.EEXIST}) == [0, *[errno.EEXIST] * 999]


def test_an_empty_batch_is_nothing() -> None:
    with NetlinkSocket(NETLINK_ROUTE) as door:
        assert door.send_batch([]) == []


def test_one_request_has_one_answer(door: NetlinkSocket) -> None:
    reply = door.request(Message(RTM_GETLINK, 0, struct.pack("=BxHiII", 0, 0, LOOPBACK, 0, 0), "lo"))
    assert attributes(reply.body, 16)[IFLA_IFNAME] == b"lo\0"
    with pytest.raises(NetlinkRefused, match="link 99"):
        door.request(Message(RTM_GETLINK, 0, struct.pack("=BxHiII", 0, 0, 99, 0, 0), "link 99"))


def test_a_socket_stays_usable_after_a_refusal(door: NetlinkSocket) -> None:
    with pytest.raises(NetlinkRefused):
        door.send_batch([address(1), address(1)])
    assert door.send_batch([address(2)]) == [0]


def test_generic_families_are_found_by_name() -> None:
    with NetlinkSocket(NETLINK_GENERIC) as door:
        assert door.genl_family("nlctrl") == 0x10
        with pytest.raises(NetlinkRefused) as refused:
            door.genl_family("no-such-family")
        assert refused.value.errno == errno.ENOENT
