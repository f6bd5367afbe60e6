"""Commands as netlink messages: what nft would send for the lines that `book` and `base` write.

Owns the messages of <linux/netfilter/nf_tables.h> and the comments in them, which are nft's own user data.
The text stays what people read, and what tests give to nft to compare. Pure. Must not know sockets, nor what
the lines are for.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterable, Iterator, Sequence

from testbed.net.netlink import (
    NLM_F_APPEND,
    NLM_F_CREATE,
    Message,
    attribute,
    be32,
    nested,
    text,
)
from testbed.proxy.model import Family
from testbed.proxy.nftables.elements import PROTOCOLS, element, packed
from testbed.proxy.nftables.expressions import AnonymousSet, Rules, anonymous_name

SUBSYSTEM = 10
HEADER = struct.Struct("=BBH")
NFPROTO = {Family.IPV4: 2, Family.IPV6: 10}

_NEWTABLE, _DELTABLE = 0, 2
_NEWCHAIN, _DELCHAIN = 3, 5
_NEWRULE, _DELRULE = 6, 8
_NEWSET, _DELSET = 9, 11
_NEWSETELEM, _DELSETELEM = 12, 14

_TABLE_FLAGS, _TABLE_USERDATA = 2, 6
_CHAIN_NAME, _CHAIN_HOOK, _CHAIN_TYPE = 3, 4, 7
_HOOK_NUMBER, _HOOK_PRIORITY = 1, 2
_RULE_EXPRESSIONS = 4
_SET_FLAGS, _SET_KEY_TYPE, _SET_KEY_LEN, _SET_DATA_TYPE, _SET_DATA_LEN = 3, 4, 5, 6, 7
_SET_DESC, _SET_ID, _SET_TIMEOUT, _SET_USERDATA = 9, 10, 11, 13
_DESC_SIZE = 1
_ELEM_LIST_ELEMENTS, _ELEM_LIST_SET_ID = 3, 4
_OF_TABLE, _NAME = 1, 2  # tables, rules' chains, sets and element lists have their names there

_ANONYMOUS, _CONSTANT, _INTERVAL, _MAP, _DYNAMIC = 0x1, 0x2, 0x4, 0x8, 0x20
_FLAGS = {"dynamic": _DYNAMIC, "timeout": 0x10}
_VERDICT_TYPE = 0xFFFFFF00
_INTEGER_TYPE, _TYPE_BITS = 4, 6
_TYPES = {"ipv4_addr": (7, 4), "ipv6_addr": (8, 16), "inet_proto": (12, 4), "inet_service": (13, 4)}
"""nft's number of each type, and its bytes as part of a key, where all is padded to four."""

_HOOKS = {"prerouting": 0, "input": 1, "forward": 2, "output": 3, "postrouting": 4}

# nft's user data, from libnftnl's udata.h: a byte of type, a byte of length, the value.
_TABLE_COMMENT = 0
_KEY_ORDER, _DATA_ORDER, _MERGED, _DATA_INTERVAL, _SET_COMMENT = 0, 1, 2, 6, 7
_NO_ORDER, _HOST_ORDER, _NETWORK_ORDER = 0, 1, 2

_MOST_ELEMENT_BYTES = 0xFFFF - 8
_COMMENT = re.compile(r'comment "([^"]*)"')
_TYPE = re.compile(r"type ([a-z0-9_. ]+?)( : verdict)? ;")
_SET_OPTION = re.compile(r"flags ([a-z,]+) ;")
_SECONDS = re.compile(r"timeout (\d+)s ;")
_HOOK = re.compile(r"type (\w+) hook (\w+) priority (-?\d+) ;")


class Encoder:
    """Encodes the commands of one transaction on the table of one family."""

    def __init__(self, family: Family) -> None:
        self._head = HEADER.pack(NFPROTO[family], 0, 0)
        self._rules = Rules(family)
        self._tables: dict[str, bytes] = {}
        self._address_type = "ipv4_addr" if family is Family.IPV4 else "ipv6_addr"
        self._set_ids = 1 << 16  # rules number their own from 1
        self._commands = {
            ("add", "table"): self._add_table,
            ("delete", "table"): self._delete_table,
            ("add", "chain"): self._add_chain,
            ("flush", "chain"): self._flush_chain,
            ("delete", "chain"): self._delete_chain,
            ("add", "rule"): self._add_rule,
            ("add", "set"): self._add_set,
            ("add", "map"): self._add_set,
            ("delete", "set"): self._delete_set,
            ("add", "element"): self._add_elements,
            ("delete", "element"): self._delete_elements,
            ("flush", "set"): self._flush_set,
            ("flush", "map"): self._flush_set,
        }

    def encode(self, command: str) -> Iterator[Message]:
        """The messages of one line, in order. Raises ValueError for a line that is not of this language."""
        try:
            verb, kind, _, *names = command.split(" ", 5)
            table, name, rest = (*names, "", "")[:3]
            yield from self._commands[verb, kind](self._table(table), name, rest, command)
        except (ValueError, KeyError, IndexError, StopIteration, RuntimeError, OSError) as wrong:
            raise ValueError(f"no netlink message is known for `{command}` ({wrong})") from wrong

    def _table(self, name: str) -> bytes:
        if name not in self._tables:
            self._tables[name] = self._head + text(_OF_TABLE, name)
        return self._tables[name]

    def _add_table(self, table: bytes, _: str, rest: str, what: str) -> Iterator[Message]:
        # The words of the comment were split off as name and rest.
        comment = _COMMENT.search(what)
        data = attribute(_TABLE_USERDATA, _user_text(_TABLE_COMMENT, comment[1])) if comment else b""
        yield _message(_NEWTABLE, 0, table + be32(_TABLE_FLAGS, 0) + data, what)

    def _delete_table(self, table: bytes, _: str, rest: str, what: str) -> Iterator[Message]:
        yield _message(_DELTABLE, 0, table, what)

    def _add_chain(self, table: bytes, name: str, rest: str, what: str) -> Iterator[Message]:
        body = table + text(_CHAIN_NAME, name)
        if rest:
            kind, hook, priority = _found(_HOOK, rest)
            where = be32(_HOOK_NUMBER, _HOOKS[hook]) + be32(_HOOK_PRIORITY, int(priority) & 0xFFFFFFFF)
            body += text(_CHAIN_TYPE, kind) + nested(_CHAIN_HOOK, where)
        yield _message(_NEWCHAIN, NLM_F_CREATE, body, what)

    def _flush_chain(self, table: bytes, name: str, rest: str, what: str) -> Iterator[Message]:
        yield _message(_DELRULE, 0, table + text(_NAME, name), what)

    def _delete_chain(self, table: bytes, name: str, rest: str, what: str) -> Iterator[Message]:
        yield _message(_DELCHAIN, 0, table + text(_CHAIN_NAME, name), what)

    def _add_rule(self, table: bytes, chain: str, rule: str, what: str) -> Iterator[Message]:
        expressions, sets = self._rules.encode(rule)
        for anonymous in sets:
            yield from self._add_anonymous(table, anonymous, what)
        body = table + text(_NAME, chain) + nested(_RULE_EXPRESSIONS, expressions)
        yield _message(_NEWRULE, NLM_F_CREATE | NLM_F_APPEND, body, what)

    def _add_anonymous(self, table: bytes, made: AnonymousSet, what: str) -> Iterator[Message]:
        """nft lists networks in an interval set as they were written where it reads that they were merged."""
        name, flags = anonymous_name(made.is_map), _ANONYMOUS | _CONSTANT
        if made.is_map:
            kind = be32(_SET_KEY_TYPE, _INTEGER_TYPE) + be32(_SET_KEY_LEN, 4) + _VERDICT_DATA
            flags |= _MAP
            user = _user_number(_KEY_ORDER, _HOST_ORDER) + _VERDICT_USER
        else:
            number, length = _TYPES[self._address_type]
            kind = be32(_SET_KEY_TYPE, number) + be32(_SET_KEY_LEN, length)
            flags |= _INTERVAL
            user = _user_number(_KEY_ORDER, _NETWORK_ORDER) + _user_number(_MERGED, 1)
        body = b"".join(
            (
                table,
                text(_NAME, name),
                be32(_SET_FLAGS, flags),
                kind,
                be32(_SET_ID, made.number),
                nested(_SET_DESC, be32(_DESC_SIZE, len(made.elements))),
                attribute(_SET_USERDATA, user),
            )
        )
        yield _message(_NEWSET, NLM_F_CREATE, body, what)
        head = table + text(_NAME, name) + be32(_ELEM_LIST_SET_ID, made.number)
        yield from _lists(_NEWSETELEM, NLM_F_CREATE, head, made.elements, what)

    def _add_set(self, table: bytes, name: str, rest: str, what: str) -> Iterator[Message]:
        types, verdict = _found(_TYPE, rest)
        parts = [_TYPES[part] for part in types.split(" . ")]
        key_type = 0
        for number, _ in parts:
            key_type = key_type << _TYPE_BITS | number
        flags = _MAP if verdict else 0
        if options := _SET_OPTION.search(rest):
            flags |= sum(_FLAGS[flag] for flag in options[1].split(","))
        self._set_ids += 1
        user = _user_number(_KEY_ORDER, _NO_ORDER if len(parts) > 1 else _NETWORK_ORDER)
        user += _VERDICT_USER if verdict else b""
        if comment := _COMMENT.search(rest):
            user += _user_text(_SET_COMMENT, comment[1])
        timeout = _SECONDS.search(rest)
        body = b"".join(
            (
                table,
                text(_NAME, name),
                be32(_SET_FLAGS, flags),
                be32(_SET_KEY_TYPE, key_type),
                be32(_SET_KEY_LEN, sum(length for _, length in parts)),
                _VERDICT_DATA if verdict else b"",
                be32(_SET_ID, self._set_ids),
                attribute(_SET_TIMEOUT, struct.pack("!Q", int(timeout[1]) * 1000)) if timeout else b"",
                attribute(_SET_USERDATA, user),
            )
        )
        yield _message(_NEWSET, NLM_F_CREATE, body, what)

    def _delete_set(self, table: bytes, name: str, rest: str, what: str) -> Iterator[Message]:
        yield _message(_DELSET, 0, table + text(_NAME, name), what)

    def _add_elements(self, table: bytes, name: str, rest: str, what: str) -> Iterator[Message]:
        yield from _lists(_NEWSETELEM, NLM_F_CREATE, table + text(_NAME, name), _elements(rest), what)

    def _delete_elements(self, table: bytes, name: str, rest: str, what: str) -> Iterator[Message]:
        yield from _lists(_DELSETELEM, 0, table + text(_NAME, name), _elements(rest), what)

    def _flush_set(self, table: bytes, name: str, rest: str, what: str) -> Iterator[Message]:
        yield _message(_DELSETELEM, 0, table + text(_NAME, name), what)


def _message(command: int, flags: int, body: bytes, what: str) -> Message:
    return Message(SUBSYSTEM << 8 | command, flags, body, what)


def _lists(command: int, flags: int, head: bytes, elements: Sequence[bytes], what: str) -> Iterator[Message]:
    """Elements in as many messages as it takes: an attribute's length is told in 16 bits."""
    some: list[bytes] = []
    size = 0
    for one in elements:
        if size + len(one) > _MOST_ELEMENT_BYTES:
            yield _message(command, flags, head + nested(_ELEM_LIST_ELEMENTS, *some), what)
            some, size = [], 0
        some.append(one)
        size += len(one)
    yield _message(command, flags, head + nested(_ELEM_LIST_ELEMENTS, *some), what)


def _elements(listed: str) -> list[bytes]:
    """`{ key : verdict, key }`."""
    if not (listed.startswith("{ ") and listed.endswith(" }")):
        raise ValueError("elements without brackets")
    elements = []
    for item in listed[2:-2].split(", "):
        key, _, verdict = item.partition(" : ")
        elements.append(element(_key(key), verdict))
    return elements


def _key(key: str) -> bytes:
    """Addresses, protocols and ports in a row, each padded to four bytes."""
    return b"".join(map(_key_part, key.split(" . ")))


def _key_part(part: str) -> bytes:
    if part in PROTOCOLS:
        return bytes((PROTOCOLS[part], 0, 0, 0))
    if part.isdecimal():
        return struct.pack("!Hxx", int(part))
    return packed(part)


def _found(pattern: re.Pattern[str], where: str) -> tuple[str, ...]:
    match = pattern.search(where)
    if match is None:
        raise ValueError(f"no {pattern.pattern!r}")
    return match.groups("")


def _user_number(kind: int, value: int) -> bytes:
    return struct.pack("=BBI", kind, 4, value)


def _user_text(kind: int, value: str) -> bytes:
    data = value.encode() + b"\0"
    return bytes((kind, len(data))) + data


_VERDICT_DATA = be32(_SET_DATA_TYPE, _VERDICT_TYPE) + be32(_SET_DATA_LEN, 0)
_VERDICT_USER = _user_number(_DATA_ORDER, _NO_ORDER) + _user_number(_DATA_INTERVAL, 0)


def encode(family: Family, commands: Iterable[str]) -> Iterator[Message]:
    """The messages of the lines of one transaction."""
    encoder = Encoder(family)
    for command in commands:
        yield from encoder.encode(command)
