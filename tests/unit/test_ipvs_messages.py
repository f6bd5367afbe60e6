"""IPVS over generic netlink, byte by byte, and /proc/net/ip_vs."""

from __future__ import annotations

import socket
import struct

import pytest

from testbed.net.netlink import attribute, attributes, nested, text, u16, u32
from testbed.proxy.ipvs import messages
from testbed.proxy.ipvs.messages import RealServerEncoder
from testbed.proxy.ipvs.model import Balancing, RealServer, Status, VirtualServer
from testbed.proxy.ipvs.procfile import parse

SERVER = VirtualServer("TCP", "10.96.0.1", 80)
SERVER6 = VirtualServer("UDP", "fd00:96::1", 53)
SERVICE, DESTINATION = 1, 2  # IPVS_CMD_ATTR_*


def test_a_virtual_server_is_identified_by_family_protocol_address_and_port() -> None:
    payload = messages.server_payload(messages.DEL_SERVICE, SERVER)
    assert payload == (
        b"\x03\x01\0\0"
        + nested(
            SERVICE,
            u16(1, socket.AF_INET),
            u16(2, socket.IPPROTO_TCP),
            attribute(3, bytes([10, 96, 0, 1]) + bytes(12)),
            attribute(4, b"\x00\x50"),
        )
    )


def test_a_new_virtual_server_carries_scheduler_flags_timeout_and_netmask() -> None:
    payload = messages.server_payload(messages.NEW_SERVICE, SERVER6, Balancing("mh", 0x11, 300))
    assert payload[:4] == b"\x01\x01\0\0"
    found = attributes(attributes(payload, 4)[SERVICE])
    assert found == {
        1: struct.pack("=H", socket.AF_INET6),
        2: struct.pack("=H", socket.IPPROTO_UDP),
        3: socket.inet_pton(socket.AF_INET6, "fd00:96::1"),
        4: b"\x00\x35",
        6: b"mh\0",
        7: struct.pack("=II", 0x11, 0xFFFFFFFF),
        8: struct.pack("=I", 300),
        9: struct.pack("=I", 128),
    }
    plain = messages.server_payload(messages.NEW_SERVICE, SERVER, Balancing("rr"))
    assert attributes(attributes(plain, 4)[SERVICE])[9] == b"\xff\xff\xff\xff"


@pytest.mark.parametrize(("weight", "command"), [(1, messages.NEW_DEST), (0, messages.SET_DEST)])
def test_a_real_server_masquerades_with_its_weight(weight: int, command: int) -> None:
    encoder, real = RealServerEncoder(SERVER), RealServer("10.244.1.5", 8080)
    payload = encoder.new(real) if command == messages.NEW_DEST else encoder.set_weight(real, weight)
    assert payload[:2] == bytes([command, 1])
    found = attributes(payload, 4)
    assert attributes(found[SERVICE])[4] == b"\x00\x50"
    assert attributes(found[DESTINATION]) == {
        1: bytes([10, 244, 1, 5]) + bytes(12),
        2: b"\x1f\x90",
        3: struct.pack("=I", 0),
        4: struct.pack("=I", weight),
        5: bytes(4),
        6: bytes(4),
    }


def test_a_real_server_is_deleted_by_address_and_port() -> None:
    found = attributes(RealServerEncoder(SERVER6).delete(RealServer("fd00:244::5", 53)), 4)
    assert attributes(found[DESTINATION]) == {
        1: socket.inet_pton(socket.AF_INET6, "fd00:244::5"),
        2: b"\x00\x35",
    }


def test_a_listed_virtual_server_is_read_back_without_the_kernels_own_flag() -> None:
    payload = messages.server_payload(messages.NEW_SERVICE, SERVER, Balancing("sh", 0x13, 60))
    assert messages.read_server(payload) == (SERVER, Balancing("sh", 0x11, 60))
    payload = messages.server_payload(messages.NEW_SERVICE, SERVER6, Balancing("rr"))
    assert messages.read_server(payload) == (SERVER6, Balancing("rr"))


def test_a_virtual_server_by_firewall_mark_is_none_of_ours() -> None:
    payload = bytes([1, 1, 0, 0]) + nested(SERVICE, u16(1, socket.AF_INET), u32(5, 7), text(6, "rr"))
    assert messages.read_server(payload) is None


@pytest.mark.parametrize(("method", "weight"), [(0, 3), (3, -1)])
def test_a_listed_real_server_tells_weight_and_connections(method: int, weight: int) -> None:
    payload = bytes([5, 1, 0, 0]) + nested(
        DESTINATION,
        attribute(1, bytes([10, 244, 1, 5]) + bytes(12)),
        attribute(2, b"\x1f\x90"),
        u32(3, method),
        u32(4, 3),
        u32(7, 5),
        u32(8, 2),
    )
    assert messages.read_real(payload, SERVER) == (RealServer("10.244.1.5", 8080), Status(weight, 5, 2))


def test_timeouts_are_three_attributes() -> None:
    payload = messages.timeouts_payload(900, 0, 300)
    assert attributes(payload, 4) == {4: struct.pack("=I", 900), 5: bytes(4), 6: struct.pack("=I", 300)}


def test_the_proc_file_is_read_in_one_pass() -> None:
    lines = """\
IP Virtual Server version 1.2.1 (size=4096)
Prot LocalAddress:Port Scheduler Flags
  -> RemoteAddress:Port Forward Weight ActiveConn InActConn
FWM  00000007 rr
  -> 0AF40163:1F90      Masq    1      0          0
TCP  0A600001:0050 rr persistent 30000 FFFFFFFF
  -> 0AF40105:1F90      Masq    1      2          7
  -> 0AF40106:1F90      Route   4      0          0
UDP  [fd00:0096:0000:0000:0000:0000:0000:0001]:0035 rr
  -> [fd00:0244:0000:0000:0000:0000:0000:0005]:0035      Masq    0      0          0
TCP  0A600002:0050 rr
"""
    assert parse(lines.splitlines(keepends=True)) == {
        SERVER: {
            RealServer("10.244.1.5", 8080): Status(1, 2, 7),
            RealServer("10.244.1.6", 8080): Status(-1, 0, 0),
        },
        SERVER6: {RealServer("fd00:244::5", 53): Status(0, 0, 0)},
        VirtualServer("TCP", "10.96.0.2", 80): {},
    }
