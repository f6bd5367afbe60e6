"""The layout of netlink messages, byte for byte, and that what is packed is read back."""

from __future__ import annotations

import struct

from hypothesis import given
from hypothesis import strategies as st

from testbed.net import netlink
from testbed.net.netlink import Message

kinds = st.integers(1, 0x3FFF)
payloads = st.binary(max_size=70)


def test_a_message_is_a_header_and_a_padded_body() -> None:
    packed = Message(type=0x1234, flags=netlink.NLM_F_CREATE, body=b"abcde", what="").pack(7)
    assert packed == struct.pack("=IHHII", 21, 0x1234, 0x401, 7, 0) + b"abcde\0\0\0"


def test_numbers_have_the_width_and_the_order_their_names_say() -> None:
    assert netlink.u8(1, 0xAB) == struct.pack("=HHB3x", 5, 1, 0xAB)
    assert netlink.u16(2, 0xABCD) == struct.pack("=HHH2x", 6, 2, 0xABCD)
    assert netlink.u32(3, 0xABCDEF01) == struct.pack("=HHI", 8, 3, 0xABCDEF01)
    assert netlink.u64(4, 1 << 40) == struct.pack("=HHQ", 12, 4, 1 << 40)
    assert netlink.be16(5, 80) == struct.pack("=HH", 6, 5) + b"\0\x50\0\0"
    assert netlink.be32(6, 80) == struct.pack("=HH", 8, 6) + b"\0\0\0\x50"
    assert netlink.text(7, "lo") == struct.pack("=HH", 7, 7) + b"lo\0\0"


@given(st.lists(st.tuples(kinds, payloads), max_size=8))
def test_attributes_are_read_back_in_order(pairs: list[tuple[int, bytes]]) -> None:
    packed = b"".join(netlink.attribute(kind, payload) for kind, payload in pairs)
    assert len(packed) % 4 == 0
    assert list(netlink.each_attribute(packed)) == pairs
    assert netlink.attributes(b"head" + packed, 4) == dict(pairs)


@given(kinds, st.lists(st.tuples(kinds, payloads), max_size=4))
def test_nesting_is_read_back_without_its_flag(kind: int, pairs: list[tuple[int, bytes]]) -> None:
    inner = [netlink.attribute(inner_kind, payload) for inner_kind, payload in pairs]
    ((read_kind, read),) = netlink.each_attribute(netlink.nested(kind, *inner))
    assert (read_kind, list(netlink.each_attribute(read))) == (kind, pairs)


@given(st.binary(max_size=60))
def test_garbage_ends_the_reading_instead_of_looping(data: bytes) -> None:
    assert len(list(netlink.each_attribute(data))) <= len(data) // 4
