"""The wire form of IPVS over generic netlink: payloads to send, replies to read.

Owns the attribute layout of <linux/ip_vs.h>. A payload is a generic netlink header and its attributes; the
netlink header around it belongs to the socket. Encoding is by precomputed structs, since loading ten thousand
Services takes forty thousand messages. Must not know sockets or what is wanted.
"""

from __future__ import annotations

import socket
import struct

from testbed.net.netlink import NLA_F_NESTED, attribute, attributes, text, u32
from testbed.proxy.ipvs.model import HASHED, Balancing, RealServer, Status, VirtualServer

FAMILY_NAME = "IPVS"

NEW_SERVICE, SET_SERVICE, DEL_SERVICE, GET_SERVICE = 1, 2, 3, 4
NEW_DEST, SET_DEST, DEL_DEST, GET_DEST = 5, 6, 7, 8
SET_CONFIG = 12

PROTOCOLS = {"TCP": socket.IPPROTO_TCP, "UDP": socket.IPPROTO_UDP, "SCTP": socket.IPPROTO_SCTP}
_PROTOCOL_NAMES = {number: name for name, number in PROTOCOLS.items()}

_VERSION = 1

_CMD_SERVICE, _CMD_DEST = 1, 2
_CMD_TIMEOUT_TCP, _CMD_TIMEOUT_TCP_FIN, _CMD_TIMEOUT_UDP = 4, 5, 6
_SVC_AF, _SVC_PROTOCOL, _SVC_ADDR, _SVC_PORT = 1, 2, 3, 4
_SVC_SCHED_NAME, _SVC_FLAGS, _SVC_TIMEOUT, _SVC_NETMASK = 6, 7, 8, 9
_DEST_ADDR, _DEST_PORT, _DEST_FWD_METHOD, _DEST_WEIGHT = 1, 2, 3, 4
_DEST_U_THRESH, _DEST_L_THRESH, _DEST_ACTIVE, _DEST_INACTIVE = 5, 6, 7, 8

_MASQUERADING = 0  # IP_VS_CONN_F_MASQ among the forwarding methods
_FORWARD_MASK = 0x7

_GENL = struct.Struct("=BBxx")
_U16 = struct.Struct("=H")
_U32 = struct.Struct("=I")
_I32 = struct.Struct("=i")
_FLAGS = struct.Struct("=II")
# Headers are in the host's byte order, addresses and ports in the network's; every attribute is padded to 4.
_SERVER = struct.Struct("=HH HHH2x HHH2x HH16s HHH2x")
_REAL = struct.Struct("=HH HH16s HHH2x")
_REAL_SETTINGS = struct.Struct("=HHI HHI HHI HHI")


def server_payload(command: int, server: VirtualServer, balancing: Balancing | None = None) -> bytes:
    """NEW_SERVICE and SET_SERVICE (with `balancing`); DEL_SERVICE and GET_DEST (without)."""
    if balancing is None:
        return _GENL.pack(command, _VERSION) + _server(server, b"")
    settings = (
        text(_SVC_SCHED_NAME, balancing.scheduler)
        + attribute(_SVC_FLAGS, _FLAGS.pack(balancing.flags, 0xFFFFFFFF))
        + u32(_SVC_TIMEOUT, balancing.timeout_s)
        + attribute(_SVC_NETMASK, _whole_address(server.address))
    )
    return _GENL.pack(command, _VERSION) + _server(server, settings)


def dump_servers_payload() -> bytes:
    """GET_SERVICE, to be sent as a dump."""
    return _GENL.pack(GET_SERVICE, _VERSION)


def timeouts_payload(tcp_s: int, tcp_fin_s: int, udp_s: int) -> bytes:
    """SET_CONFIG with the connection timeouts; 0 keeps what the kernel has."""
    return (
        _GENL.pack(SET_CONFIG, _VERSION)
        + u32(_CMD_TIMEOUT_TCP, tcp_s)
        + u32(_CMD_TIMEOUT_TCP_FIN, tcp_fin_s)
        + u32(_CMD_TIMEOUT_UDP, udp_s)
    )


class RealServerEncoder:
    """Encodes messages about the real servers of one virtual server, whose identity is packed once."""

    def __init__(self, server: VirtualServer) -> None:
        identity = _server(server, b"")
        self._new = _GENL.pack(NEW_DEST, _VERSION) + identity
        self._set = _GENL.pack(SET_DEST, _VERSION) + identity
        self._delete = _GENL.pack(DEL_DEST, _VERSION) + identity

    def new(self, real: RealServer) -> bytes:
        """NEW_DEST: masquerading, weight 1."""
        return self._new + _real(real, _REAL.size + _REAL_SETTINGS.size) + _WEIGHTS[1]

    def set_weight(self, real: RealServer, weight: int) -> bytes:
        """SET_DEST: masquerading, with weight 0 (draining) or 1."""
        return self._set + _real(real, _REAL.size + _REAL_SETTINGS.size) + _WEIGHTS[weight]

    def delete(self, real: RealServer) -> bytes:
        """DEL_DEST."""
        return self._delete + _real(real, _REAL.size)


def read_server(payload: bytes) -> tuple[VirtualServer, Balancing] | None:
    """Decode one reply to a dump of virtual servers; None for one by firewall mark or unknown protocol."""
    found = attributes(attributes(payload, _GENL.size)[_CMD_SERVICE])
    if _SVC_ADDR not in found or _SVC_PROTOCOL not in found:
        return None
    protocol = _PROTOCOL_NAMES.get(_U16.unpack(found[_SVC_PROTOCOL])[0])
    if protocol is None:
        return None
    family = _U16.unpack(found[_SVC_AF])[0]
    server = VirtualServer(protocol, _read_address(found[_SVC_ADDR], family), _read_port(found[_SVC_PORT]))
    scheduler = found[_SVC_SCHED_NAME].rstrip(b"\0").decode()
    flags = _U32.unpack_from(found[_SVC_FLAGS])[0] & ~HASHED
    return server, Balancing(scheduler, flags, _U32.unpack(found[_SVC_TIMEOUT])[0])


def read_real(payload: bytes, server: VirtualServer) -> tuple[RealServer, Status]:
    """Decode one reply to a dump of the real servers of `server`."""
    found = attributes(attributes(payload, _GENL.size)[_CMD_DEST])
    family = socket.AF_INET6 if ":" in server.address else socket.AF_INET
    real = RealServer(_read_address(found[_DEST_ADDR], family), _read_port(found[_DEST_PORT]))
    method = _U32.unpack(found[_DEST_FWD_METHOD])[0] & _FORWARD_MASK
    weight = _I32.unpack(found[_DEST_WEIGHT])[0] if method == _MASQUERADING else -1
    active, inactive = _U32.unpack(found[_DEST_ACTIVE])[0], _U32.unpack(found[_DEST_INACTIVE])[0]
    return real, Status(weight, active, inactive)


def _server(server: VirtualServer, settings: bytes) -> bytes:
    family = socket.AF_INET6 if ":" in server.address else socket.AF_INET
    identity = _SERVER.pack(
        _SERVER.size + len(settings),
        _CMD_SERVICE | NLA_F_NESTED,
        *(6, _SVC_AF, family),
        *(6, _SVC_PROTOCOL, PROTOCOLS[server.protocol]),
        *(20, _SVC_ADDR, socket.inet_pton(family, server.address)),
        *(6, _SVC_PORT, socket.htons(server.port)),
    )
    return identity + settings


def _real(real: RealServer, length: int) -> bytes:
    address, port = real
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    packed = socket.inet_pton(family, address)
    return _REAL.pack(
        length, _CMD_DEST | NLA_F_NESTED, 20, _DEST_ADDR, packed, 6, _DEST_PORT, socket.htons(port)
    )


def _real_settings(weight: int) -> bytes:
    return _REAL_SETTINGS.pack(
        *(8, _DEST_FWD_METHOD, _MASQUERADING),
        *(8, _DEST_WEIGHT, weight),
        *(8, _DEST_U_THRESH, 0),
        *(8, _DEST_L_THRESH, 0),
    )


_WEIGHTS = (_real_settings(0), _real_settings(1))


def _whole_address(address: str) -> bytes:
    """The persistence granularity of one client: a netmask for IPv4, a prefix length for IPv6."""
    return _U32.pack(128) if ":" in address else b"\xff\xff\xff\xff"


def _read_address(value: bytes, family: int) -> str:
    return socket.inet_ntop(family, value[: 16 if family == socket.AF_INET6 else 4])


def _read_port(value: bytes) -> int:
    return socket.ntohs(_U16.unpack(value)[0])
