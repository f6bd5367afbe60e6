"""Rules as the kernel takes them: lists of expressions over registers, from the words that nft reads.

Owns the attribute layout of expressions in <linux/netfilter/nf_tables.h>, and which of them nft makes of each
phrase that `render` and `base` write; what the kernel gets is what it would get from nft. Pure. Must not know
tables, messages or sockets.
"""

from __future__ import annotations

import ipaddress
import socket
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

from testbed.net.netlink import attribute, be32, nested, text
from testbed.proxy.model import Family
from testbed.proxy.nftables.elements import (
    DATA_VALUE,
    LIST_ELEMENT,
    PROTOCOLS,
    element,
    intervals,
    packed,
    verdict_data,
)

_EXPR_NAME, _EXPR_DATA = 1, 2

_VERDICT, _REG_1, _REG_2 = 0, 1, 2
_REG32_01, _REG32_02, _REG32_05 = 9, 10, 13
_EQUAL, _UNEQUAL = 0, 1
_NETWORK, _TRANSPORT = 1, 2
_META_MARK, _META_L4PROTO = 3, 16
_CT_STATE, _CT_STATE_NEW = 0, 8
_FIB_ADDRTYPE, _FIB_SADDR, _RTN_LOCAL = 3, 1, 2
_NUMGEN_RANDOM = 1
_DYNSET_UPDATE = 1
_LOOKUP_INVERTED = 1
_DNAT, _PORT_GIVEN, _PORT_FULLY_RANDOM = 1, 2, 0x10
_ICMP_UNREACHABLE, _ICMP_PORT, _ICMP6_PORT = 0, 3, 4

_LOCAL_ORDER = struct.Struct("=I")
_OFFSETS = {
    Family.IPV4: {"saddr": 12, "daddr": 16},
    Family.IPV6: {"saddr": 8, "daddr": 24},
}
_ADDRESS_BYTES = {Family.IPV4: 4, Family.IPV6: 16}
_PORT_OFFSET = 2
_NFPROTO = {Family.IPV4: socket.AF_INET, Family.IPV6: socket.AF_INET6}


@dataclass(frozen=True, slots=True)
class AnonymousSet:
    """A set or verdict map that is part of a rule; `number` is what the rule's lookup calls it by."""

    number: int
    is_map: bool
    elements: list[bytes]


class Rules:
    """Encodes rules of one family's table, one after another."""

    def __init__(self, family: Family) -> None:
        self._family = family
        self._ip = "ip" if family is Family.IPV4 else "ip6"
        self._numbers = 0
        self._sets: list[AnonymousSet] = []
        self._phrases = {
            self._ip: self._address,
            "meta": self._meta,
            "tcp": self._port,
            "udp": self._port,
            "sctp": self._port,
            "mark": self._mark,
            "ct": self._ct_state,
            "fib": self._fib,
            "numgen": self._numgen,
            "update": self._update,
            "dnat": self._dnat,
            "masquerade": self._masquerade,
            "reject": self._reject,
        }

    def encode(self, rule: str) -> tuple[bytes, list[AnonymousSet]]:
        """The list of expressions, and the sets it needs. Raises ValueError for an unknown phrase."""
        self._sets = []
        words = iter(rule.split())
        encoded = []
        for word in words:
            phrase = self._phrases.get(word)
            if phrase is None:
                encoded.append(_immediate_verdict(word, words))
            else:
                encoded += phrase(word, words)
        return b"".join(encoded), self._sets

    def _address(self, _: str, words: Iterator[str]) -> Iterator[bytes]:
        """`ip saddr 10.0.0.1`, `!= 10.0.0.0/8`, `@set`, `!= { ... }`, or the start of a concatenation."""
        offset = _OFFSETS[self._family][next(words)]
        whole = _ADDRESS_BYTES[self._family]
        word = next(words)
        if word == ".":
            yield _payload(_REG_1, _NETWORK, offset, whole)
            yield from self._concatenated(words)
        elif word.startswith("@"):
            yield _payload(_REG_1, _NETWORK, offset, whole)
            yield _lookup(word[1:])
        else:
            unequal = word == "!="
            word = next(words) if unequal else word
            networks = list(_listed(words)) if word == "{" else [word]
            if len(networks) > 1:
                yield _payload(_REG_1, _NETWORK, offset, whole)
                ranges = intervals(networks, whole)
                yield _lookup(*self._anonymous(False, ranges), flags=_LOOKUP_INVERTED if unequal else 0)
            else:
                yield from _compare_address(networks[0], offset, whole, _UNEQUAL if unequal else _EQUAL)

    def _concatenated(self, words: Iterator[str]) -> Iterator[bytes]:
        """`ip daddr .` was read: `meta l4proto . th dport vmap @map`, in the registers after the address."""
        _expect(words, "meta", "l4proto", ".", "th", "dport", "vmap")
        first, second = (_REG32_01, _REG32_02) if self._family is Family.IPV4 else (_REG_2, _REG32_05)
        yield _meta_load(_META_L4PROTO, first)
        yield _payload(second, _TRANSPORT, _PORT_OFFSET, 2)
        yield _lookup(next(words)[1:], verdict=True)

    def _meta(self, _: str, words: Iterator[str]) -> Iterator[bytes]:
        """`meta l4proto tcp`, or `meta l4proto . th dport vmap @map`."""
        _expect(words, "l4proto")
        word = next(words)
        yield _meta_load(_META_L4PROTO, _REG_1)
        if word == ".":
            _expect(words, "th", "dport", "vmap")
            yield _payload(_REG32_01, _TRANSPORT, _PORT_OFFSET, 2)
            yield _lookup(next(words)[1:], verdict=True)
        else:
            yield _compare(_EQUAL, bytes([PROTOCOLS[word]]))

    def _port(self, protocol: str, words: Iterator[str]) -> Iterator[bytes]:
        """`tcp dport 80`."""
        _expect(words, "dport")
        yield _meta_load(_META_L4PROTO, _REG_1)
        yield _compare(_EQUAL, bytes([PROTOCOLS[protocol]]))
        yield _payload(_REG_1, _TRANSPORT, _PORT_OFFSET, 2)
        yield _compare(_EQUAL, int(next(words)).to_bytes(2))

    def _mark(self, _: str, words: Iterator[str]) -> Iterator[bytes]:
        """`mark and 0x4000 == 0`, `mark set mark or 0x4000`, `mark set mark xor 0x4000`."""
        yield _meta_load(_META_MARK, _REG_1)
        if next(words) == "and":
            yield _bitwise(_local(int(next(words), 0)), _local(0), boolean=True)
            _expect(words, "==")
            yield _compare(_EQUAL, _local(int(next(words))))
            return
        _expect(words, "mark")
        operation, bits = next(words), int(next(words), 0)
        if operation not in ("or", "xor"):
            raise ValueError(f"no such operation on a mark: {operation}")
        kept = 0xFFFFFFFF & ~bits if operation == "or" else 0xFFFFFFFF
        yield _bitwise(_local(kept), _local(bits), boolean=True)
        yield _expression("meta", be32(2, _META_MARK), be32(3, _REG_1))

    def _ct_state(self, _: str, words: Iterator[str]) -> Iterator[bytes]:
        _expect(words, "state", "new")
        yield _expression("ct", be32(2, _CT_STATE), be32(1, _REG_1))
        yield _bitwise(_local(_CT_STATE_NEW), _local(0))
        yield _compare(_UNEQUAL, _local(0))

    def _fib(self, _: str, words: Iterator[str]) -> Iterator[bytes]:
        _expect(words, "saddr", "type", "local")
        yield _expression("fib", be32(3, _FIB_SADDR), be32(2, _FIB_ADDRTYPE), be32(1, _REG_1))
        yield _compare(_EQUAL, _local(_RTN_LOCAL))

    def _numgen(self, _: str, words: Iterator[str]) -> Iterator[bytes]:
        """`numgen random mod 2 vmap { 0 : goto a, 1 : goto b }`."""
        _expect(words, "random", "mod")
        modulus = int(next(words))
        yield _expression("numgen", be32(1, _REG_1), be32(2, modulus), be32(3, _NUMGEN_RANDOM), be32(4, 0))
        _expect(words, "vmap", "{")
        elements = []
        for item in _listed(words):
            number, verdict = item.split(" : ")
            elements.append(element(_local(int(number)), verdict))
        yield _lookup(*self._anonymous(True, elements), verdict=True)

    def _update(self, _: str, words: Iterator[str]) -> Iterator[bytes]:
        """`update @set { ip saddr }`."""
        name = next(words)[1:]
        _expect(words, "{", self._ip)
        yield _payload(_REG_1, _NETWORK, _OFFSETS[self._family][next(words)], _ADDRESS_BYTES[self._family])
        _expect(words, "}")
        yield _expression("dynset", be32(4, _REG_1), be32(3, _DYNSET_UPDATE), text(1, name))

    def _dnat(self, _: str, words: Iterator[str]) -> Iterator[bytes]:
        """`dnat to 10.0.0.1:80`, `dnat to [fd00::1]:80`."""
        _expect(words, "to")
        address, _, port = next(words).rpartition(":")
        yield _immediate_value(_REG_1, packed(address.strip("[]")))
        yield _immediate_value(_REG_2, int(port).to_bytes(2))
        yield _dnat_expression(self._family)

    def _masquerade(self, _: str, words: Iterator[str]) -> Iterator[bytes]:
        _expect(words, "fully-random")
        yield _expression("masq", be32(1, _PORT_FULLY_RANDOM))

    def _reject(self, _: str, words: Iterator[str]) -> Iterator[bytes]:
        code = _ICMP_PORT if self._family is Family.IPV4 else _ICMP6_PORT
        yield _expression("reject", be32(1, _ICMP_UNREACHABLE), attribute(2, bytes([code])))

    def _anonymous(self, is_map: bool, elements: list[bytes]) -> tuple[str, int]:
        """Name and number of a new anonymous set; the kernel fills in what stands for the %d."""
        self._numbers += 1
        self._sets.append(AnonymousSet(self._numbers, is_map, elements))
        return anonymous_name(is_map), self._numbers


def anonymous_name(is_map: bool) -> str:
    """The pattern that the kernel makes a name of."""
    return "__map%d" if is_map else "__set%d"


def _listed(words: Iterator[str]) -> Iterator[str]:
    """The items between `{`, which was read, and `}`."""
    item: list[str] = []
    for word in words:
        if word == "}":
            yield " ".join(item)
            return
        item.append(word.rstrip(","))
        if word.endswith(","):
            yield " ".join(item)
            item = []
    raise ValueError("a list without an end")


def _expect(words: Iterator[str], *expected: str) -> None:
    for word in expected:
        found = next(words, "")
        if found != word:
            raise ValueError(f"{found!r} where {word!r} was expected")


def _compare_address(word: str, offset: int, whole: int, operator: int) -> Iterator[bytes]:
    """An address, or a network: by its bytes where it ends with one, else by its bits."""
    if "/" not in word:
        yield _payload(_REG_1, _NETWORK, offset, whole)
        yield _compare(operator, packed(word))
        return
    network = ipaddress.ip_network(word, strict=False)
    length, rest = divmod(network.prefixlen, 8)
    if rest or not length:
        yield _payload(_REG_1, _NETWORK, offset, whole)
        yield _bitwise(network.netmask.packed, bytes(whole))
        yield _compare(operator, network.network_address.packed)
    else:
        yield _payload(_REG_1, _NETWORK, offset, length)
        yield _compare(operator, network.network_address.packed[:length])


def _expression(name: str, *fields: bytes) -> bytes:
    return nested(LIST_ELEMENT, text(_EXPR_NAME, name), nested(_EXPR_DATA, *fields))


@lru_cache(maxsize=256)
def _payload(register: int, header: int, offset: int, length: int) -> bytes:
    return _expression("payload", be32(1, register), be32(2, header), be32(3, offset), be32(4, length))


@lru_cache(maxsize=16)
def _meta_load(key: int, register: int) -> bytes:
    return _expression("meta", be32(2, key), be32(1, register))


def _compare(operator: int, value: bytes) -> bytes:
    return _compare_head(operator, len(value)) + value + bytes(-len(value) % 4)


@lru_cache(maxsize=64)
def _compare_head(operator: int, length: int) -> bytes:
    """All of a comparison before its value: there are few of them, and a value for every endpoint."""
    data = nested(3, attribute(DATA_VALUE, bytes(length)))
    return _without_end(_expression("cmp", be32(1, _REG_1), be32(2, operator), data), length)


def _bitwise(mask: bytes, xor: bytes, *, boolean: bool = False) -> bytes:
    """register 1 = (register 1 & mask) ^ xor; nft names the operation in what it calls boolean."""
    return _expression(
        "bitwise",
        be32(1, _REG_1),
        be32(2, _REG_1),
        be32(6, 0) if boolean else b"",
        be32(3, len(mask)),
        nested(4, attribute(DATA_VALUE, mask)),
        nested(5, attribute(DATA_VALUE, xor)),
    )


def _lookup(name: str, number: int = 0, *, verdict: bool = False, flags: int = 0) -> bytes:
    return _expression(
        "lookup",
        be32(2, _REG_1),
        be32(3, _VERDICT) if verdict else b"",
        text(1, name),
        be32(4, number) if number else b"",
        be32(5, flags) if flags else b"",
    )


def _immediate_value(register: int, value: bytes) -> bytes:
    return _immediate_head(register, len(value)) + value + bytes(-len(value) % 4)


@lru_cache(maxsize=64)
def _immediate_head(register: int, length: int) -> bytes:
    """All before the value, as of a comparison."""
    data = nested(2, attribute(DATA_VALUE, bytes(length)))
    return _without_end(_expression("immediate", be32(1, register), data), length)


def _without_end(expression: bytes, length: int) -> bytes:
    """Without the last `length` bytes and what fills them up to four."""
    return expression[: -(length + -length % 4)]


def _immediate_verdict(code: str, words: Iterator[str]) -> bytes:
    chain = next(words) if code in ("jump", "goto") else ""
    return _immediate_jump(code, chain)


@lru_cache(maxsize=64)
def _immediate_jump(code: str, chain: str) -> bytes:
    return _expression("immediate", be32(1, _VERDICT), nested(2, verdict_data(code, chain)))


@lru_cache(maxsize=2)
def _dnat_expression(family: Family) -> bytes:
    return _expression(
        "nat",
        be32(1, _DNAT),
        be32(2, _NFPROTO[family]),
        be32(3, _REG_1),
        be32(5, _REG_2),
        be32(7, _PORT_GIVEN),
    )


def _local(value: int) -> bytes:
    """In the host's byte order, as marks, states and counters are."""
    return _LOCAL_ORDER.pack(value)
