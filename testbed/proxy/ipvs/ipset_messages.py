"""The wire form of ipset over nfnetlink: sets, and members written as ipset writes them.

Owns the attribute layout of <linux/netfilter/ipset/ip_set.h> and the syntax of members. Must not know what a
set is for. The tool is not used: it looks up names for every line, which in user-mode Linux takes 0.2 to
0.4 ms; a message takes some microseconds.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Callable, Iterator, Mapping
from functools import lru_cache

from testbed.net.netlink import Message, attribute, attributes, be16, be32, each_attribute, nested, text, u8
from testbed.proxy.ipvs import sets
from testbed.proxy.model import Family

CREATE, DESTROY, LIST, ADD, DELETE, TYPE = 2, 3, 7, 9, 10, 13

_SUBSYSTEM = 6 << 8
_PROTOCOL_VERSION = 6  # understood by every kernel since 2.6.39
_NET_BYTEORDER = 0x4000

_PROTOCOL, _SETNAME, _TYPENAME, _REVISION, _FAMILY, _DATA, _ADT = 1, 2, 3, 4, 5, 7, 8
_IP, _PORT, _PORT_TO, _PROTO, _IP2, _CIDR2 = 1, 4, 5, 7, 20, 21
_HASHSIZE, _MAXELEM = 18, 19
_IPV4, _IPV6 = 1, 2

_PROTOCOLS = {"tcp": socket.IPPROTO_TCP, "udp": socket.IPPROTO_UDP, "sctp": socket.IPPROTO_SCTP}
_PROTOCOL_NAMES = {number: name for name, number in _PROTOCOLS.items()}
_FAMILIES = {Family.IPV4: socket.AF_INET, Family.IPV6: socket.AF_INET6}

_HEADER = struct.Struct("=BBH")


def type_message(kind: sets.SetKind, family: Family) -> Message:
    """Ask which revisions of a set's type the kernel has; answered with one message."""
    body = _head(family) + text(_TYPENAME, kind.type) + u8(_FAMILY, _set_family(kind, family))
    return Message(_SUBSYSTEM | TYPE, 0, body, f"find the ipset type {kind.type}")


def read_revision(body: bytes) -> int:
    """The newest revision that the answer to `type_message` names."""
    return attributes(body, _HEADER.size)[_REVISION][0]


def create_message(kind: sets.SetKind, family: Family, revision: int) -> Message:
    """Create a set; one that exists with other parameters is refused."""
    if kind.type == sets.PORT:
        options = be16(_PORT | _NET_BYTEORDER, 0) + be16(_PORT_TO | _NET_BYTEORDER, 65535)
    else:
        options = be32(_HASHSIZE | _NET_BYTEORDER, 1024) + be32(_MAXELEM | _NET_BYTEORDER, sets.MAX_MEMBERS)
    name = sets.set_name(kind, family)
    body = (
        _head(family)
        + text(_SETNAME, name)
        + text(_TYPENAME, kind.type)
        + u8(_REVISION, revision)
        + u8(_FAMILY, _set_family(kind, family))
        + nested(_DATA, options)
    )
    return Message(_SUBSYSTEM | CREATE, 0, body, f"create ipset {name}")


def destroy_message(name: str, family: Family) -> Message:
    """Destroy a set that no rule refers to."""
    return Message(_SUBSYSTEM | DESTROY, 0, _head(family) + text(_SETNAME, name), f"destroy ipset {name}")


def list_message(family: Family) -> Message:
    """List every set with its members, to be sent as a dump."""
    return Message(_SUBSYSTEM | LIST, 0, _head(family), "list ipsets")


def member_messages(
    command: int, name: str, kind: sets.SetKind, family: Family, members: Iterator[str]
) -> Iterator[Message]:
    """ADD or DELETE members; those that are there, or gone, already are no error."""
    head = _head(family) + text(_SETNAME, name)
    what = f"{'add to' if command == ADD else 'delete from'} ipset {name}"
    encode = _ENCODERS[kind.type]
    for member in members:
        yield Message(_SUBSYSTEM | command, 0, head + nested(_DATA, encode(member)), what)


def read_members(body: bytes, types: Mapping[str, str]) -> tuple[str, list[str]] | None:
    """Decode one message of a listing: a set and some of its members; None for a set not in `types`."""
    found = attributes(body, _HEADER.size)
    name = found[_SETNAME].rstrip(b"\0").decode()
    kind = types.get(name)
    if kind is None:
        return None
    decode = _DECODERS[kind]
    return name, [decode(attributes(data)) for _, data in each_attribute(found.get(_ADT, b""))]


def _head(family: Family) -> bytes:
    return _HEADER.pack(_FAMILIES[family], 0, 0) + u8(_PROTOCOL, _PROTOCOL_VERSION)


def _set_family(kind: sets.SetKind, family: Family) -> int:
    return socket.AF_UNSPEC if kind.type == sets.PORT else _FAMILIES[family]


@lru_cache(maxsize=1024)
def _address(kind: int, address: str) -> bytes:
    if ":" in address:
        inner = attribute(_IPV6 | _NET_BYTEORDER, socket.inet_pton(socket.AF_INET6, address))
    else:
        inner = attribute(_IPV4 | _NET_BYTEORDER, socket.inet_pton(socket.AF_INET, address))
    return nested(kind, inner)


@lru_cache(maxsize=1024)
def _port(text_of_port: str) -> bytes:
    """`tcp:80`."""
    protocol, _, port = text_of_port.partition(":")
    return be16(_PORT | _NET_BYTEORDER, int(port)) + u8(_PROTO, _PROTOCOLS[protocol])


def _encode_address_port(member: str) -> bytes:
    address, port = member.split(",")
    return _address(_IP, address) + _port(port)


def _encode_address_port_address(member: str) -> bytes:
    address, port, other = member.split(",")
    return _address(_IP, address) + _port(port) + _address(_IP2, other)


def _encode_address_port_net(member: str) -> bytes:
    address, port, net = member.split(",")
    network, _, length = net.partition("/")
    whole = 128 if ":" in network else 32
    return _address(_IP, address) + _port(port) + _address(_IP2, network) + u8(_CIDR2, int(length or whole))


_ENCODERS: Mapping[str, Callable[[str], bytes]] = {
    sets.PORT: lambda member: be16(_PORT | _NET_BYTEORDER, int(member)),
    sets.ADDRESS: lambda member: _address(_IP, member),
    sets.ADDRESS_PORT: _encode_address_port,
    sets.ADDRESS_PORT_ADDRESS: _encode_address_port_address,
    sets.ADDRESS_PORT_NET: _encode_address_port_net,
}

_Found = Mapping[int, bytes]


def _read_address(value: bytes) -> str:
    ((kind, packed),) = each_attribute(value)
    return socket.inet_ntop(socket.AF_INET if kind == _IPV4 else socket.AF_INET6, packed)


def _read_port(found: _Found) -> str:
    number = found[_PROTO][0]
    return f"{_PROTOCOL_NAMES.get(number, number)}:{int.from_bytes(found[_PORT])}"


def _decode_address_port(found: _Found) -> str:
    return f"{_read_address(found[_IP])},{_read_port(found)}"


def _decode_address_port_net(found: _Found) -> str:
    network, length = _read_address(found[_IP2]), found[_CIDR2][0]
    whole = length == (128 if ":" in network else 32)
    return f"{_decode_address_port(found)},{network if whole else f'{network}/{length}'}"


_DECODERS: Mapping[str, Callable[[_Found], str]] = {
    sets.PORT: lambda found: str(int.from_bytes(found[_PORT])),
    sets.ADDRESS: lambda found: _read_address(found[_IP]),
    sets.ADDRESS_PORT: _decode_address_port,
    sets.ADDRESS_PORT_ADDRESS: lambda found: f"{_decode_address_port(found)},{_read_address(found[_IP2])}",
    sets.ADDRESS_PORT_NET: _decode_address_port_net,
}
