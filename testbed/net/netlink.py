"""Netlink: how messages are laid out, and a socket that sends many of them at once.

Owns the framing (header, attributes, acknowledgements, dumps) common to all netlink families. Must not know
any family's messages: those are built by `rtnetlink` and by the proxiers. Layouts are from <linux/netlink.h>
and <linux/genetlink.h>.

A batch asks the kernel to acknowledge only its last message. Messages are handled in order and a refusal is
always answered, so that one answer proves the whole batch and costs one system call instead of hundreds.
"""

from __future__ import annotations

import errno
import socket
import struct
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from types import TracebackType
from typing import Self

from testbed.errors import NetlinkRefused, WaitTimeout
from testbed.net.namespace import Namespace

NETLINK_ROUTE = 0
NETLINK_NETFILTER = 12
NETLINK_GENERIC = 16

NLM_F_REQUEST = 0x1
NLM_F_ACK = 0x4
NLM_F_DUMP_INTR = 0x10
NLM_F_ROOT = 0x100
NLM_F_MATCH = 0x200
NLM_F_DUMP = NLM_F_ROOT | NLM_F_MATCH
NLM_F_REPLACE = 0x100
NLM_F_EXCL = 0x200
NLM_F_CREATE = 0x400
NLM_F_APPEND = 0x800
_NLM_F_ACK_TLVS = 0x200

_NLMSG_NOOP = 1
_NLMSG_ERROR = 2
_NLMSG_DONE = 3
_NLMSGERR_ATTR_MSG = 1

NLA_F_NESTED = 0x8000
_NLA_TYPE_MASK = 0x3FFF

_SOL_NETLINK = 270
_NETLINK_CAP_ACK = 10
_NETLINK_EXT_ACK = 11

_GENL_ID_CTRL = 0x10
_CTRL_CMD_GETFAMILY = 3
_CTRL_ATTR_FAMILY_ID = 1
_CTRL_ATTR_FAMILY_NAME = 2

MOST_IN_A_BATCH = 100  # more refusals than this could overflow the receive buffer
_RECEIVE_BYTES = 1 << 17
_DUMP_ATTEMPTS = 8

_HEADER = struct.Struct("=IHHII")
_ATTRIBUTE = struct.Struct("=HH")
_ERRNO = struct.Struct("=i")


@dataclass(frozen=True, slots=True)
class Message:
    """One request: `body` is the family's own header and its attributes; `what` is told if it is refused."""

    type: int
    flags: int
    body: bytes
    what: str

    def pack(self, sequence: int, extra_flags: int = 0) -> bytes:
        """The bytes on the wire, padded so that another message may follow."""
        length = _HEADER.size + len(self.body)
        header = _HEADER.pack(length, self.type, self.flags | NLM_F_REQUEST | extra_flags, sequence, 0)
        return header + self.body + bytes(-length % 4)


@dataclass(frozen=True, slots=True)
class Reply:
    """One answer of the kernel: `body` starts with the family's own header."""

    type: int
    flags: int
    body: bytes


def attribute(kind: int, payload: bytes) -> bytes:
    """One attribute, padded."""
    length = _ATTRIBUTE.size + len(payload)
    return _ATTRIBUTE.pack(length, kind) + payload + bytes(-length % 4)


def nested(kind: int, *attributes: bytes) -> bytes:
    """An attribute that holds attributes."""
    return attribute(kind | NLA_F_NESTED, b"".join(attributes))


def text(kind: int, value: str) -> bytes:
    """A string attribute, with its terminating zero."""
    return attribute(kind, value.encode() + b"\0")


def u8(kind: int, value: int) -> bytes:
    """An 8-bit attribute."""
    return attribute(kind, value.to_bytes(1, "little"))


def u16(kind: int, value: int) -> bytes:
    """A 16-bit attribute in host order."""
    return attribute(kind, struct.pack("=H", value))


def u32(kind: int, value: int) -> bytes:
    """A 32-bit attribute in host order."""
    return attribute(kind, struct.pack("=I", value))


def u64(kind: int, value: int) -> bytes:
    """A 64-bit attribute in host order."""
    return attribute(kind, struct.pack("=Q", value))


def be16(kind: int, value: int) -> bytes:
    """A 16-bit attribute in network order."""
    return attribute(kind, struct.pack("!H", value))


def be32(kind: int, value: int) -> bytes:
    """A 32-bit attribute in network order."""
    return attribute(kind, struct.pack("!I", value))


def attributes(data: bytes, offset: int = 0) -> dict[int, bytes]:
    """The attributes from `offset` on, by kind; a repeated kind keeps its last payload."""
    return dict(each_attribute(data, offset))


def each_attribute(data: bytes, offset: int = 0) -> Iterator[tuple[int, bytes]]:
    """The attributes from `offset` on, in order, as lists need them."""
    while offset + _ATTRIBUTE.size <= len(data):
        length, kind = _ATTRIBUTE.unpack_from(data, offset)
        if length < _ATTRIBUTE.size:
            return
        yield kind & _NLA_TYPE_MASK, data[offset + _ATTRIBUTE.size : offset + length]
        offset += (length + 3) & ~3


ANSWER_TIMEOUT_S = 300
"""The largest transactions of a slow guest take tens of seconds."""


class NetlinkSocket:
    """A socket to one netlink family of one namespace; a context manager.

    An open socket keeps its namespace alive. Not for use by several threads at a time.
    """

    def __init__(self, family: int, namespace: Namespace | None = None, *, label: str = "") -> None:
        """`family` is a NETLINK_* number; without `namespace` it is the calling thread's.

        `label` names the namespace in errors, where it is not given itself.
        """
        kind = socket.SOCK_RAW | socket.SOCK_CLOEXEC
        if namespace is None:
            self._socket = socket.socket(socket.AF_NETLINK, kind, family)
        else:
            self._socket = namespace.socket(socket.AF_NETLINK, kind, family)
        self._socket.setsockopt(_SOL_NETLINK, _NETLINK_EXT_ACK, 1)
        self._socket.setsockopt(_SOL_NETLINK, _NETLINK_CAP_ACK, 1)
        # Without a limit a lost answer would be waited for in silence, for ever. Costs nothing a message.
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, struct.pack("ll", ANSWER_TIMEOUT_S, 0))
        self._label = label or (namespace.name if namespace else "")
        self._sequence = 0
        self._genl_families: dict[str, int] = {}

    def send_batch(self, messages: Iterable[Message], *, accept: Collection[int] = ()) -> list[int]:
        """Send messages in order, at most 100 a system call; the errno of each, 0 where it was done.

        All messages of a call are handled even if one is refused. Raises NetlinkRefused for the first
        refusal whose errno is not in `accept`; its `index` counts from the first message of the batch.
        """
        results: list[int] = []
        stream = iter(messages)
        while chunk := list(islice(stream, MOST_IN_A_BATCH)):
            results += self._send_chunk(chunk, len(results), accept)
        return results

    def request(self, message: Message) -> Reply:
        """Send one message that is answered with one message; raises NetlinkRefused."""
        sequence = self._send(message, 0)
        _, reply = next(self._receive(sequence, sequence))
        if reply.type == _NLMSG_ERROR:
            raise self._refusal(reply, message)
        return reply

    def dump(self, message: Message) -> list[Reply]:
        """Everything a dump request lists, asked again if it changed meanwhile; raises NetlinkRefused."""
        for _ in range(_DUMP_ATTEMPTS):
            replies, consistent = self._dump_once(message)
            if consistent:
                return replies
        raise NetlinkRefused(errno.EINTR, f"{message.what} ({_DUMP_ATTEMPTS} times)")

    def genl_family(self, name: str) -> int:
        """The number of a generic netlink family; NetlinkRefused with ENOENT if the kernel lacks it."""
        if name not in self._genl_families:
            body = struct.pack("=BBxx", _CTRL_CMD_GETFAMILY, 1) + text(_CTRL_ATTR_FAMILY_NAME, name)
            reply = self.request(Message(_GENL_ID_CTRL, 0, body, f"generic netlink family {name}"))
            (number,) = struct.unpack("=H", attributes(reply.body, 4)[_CTRL_ATTR_FAMILY_ID])
            self._genl_families[name] = number
        return self._genl_families[name]

    def close(self) -> None:
        """Close the socket; harmless when done twice."""
        self._socket.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _send_chunk(self, chunk: list[Message], base: int, accept: Collection[int]) -> list[int]:
        first = self._sequence + 1
        self._sequence += len(chunk)
        last = self._sequence
        packed = [message.pack(number) for number, message in enumerate(chunk[:-1], first)]
        packed.append(chunk[-1].pack(last, NLM_F_ACK))
        self._socket.sendall(b"".join(packed))
        results = [0] * len(chunk)
        refusals: list[NetlinkRefused] = []
        for number, reply in self._receive(first, last):
            if reply.type != _NLMSG_ERROR:
                continue
            index = number - first
            results[index] = _errno_of(reply)
            if results[index] and results[index] not in accept:
                refusals.append(self._refusal(reply, chunk[index], base + index))
            if number == last:
                break
        if refusals:
            raise refusals[0]
        return results

    def _dump_once(self, message: Message) -> tuple[list[Reply], bool]:
        sequence = self._send(message, NLM_F_DUMP)
        replies: list[Reply] = []
        consistent = True
        for _, reply in self._receive(sequence, sequence):
            consistent = consistent and not reply.flags & NLM_F_DUMP_INTR
            if reply.type == _NLMSG_ERROR or (reply.type == _NLMSG_DONE and _errno_of(reply)):
                raise self._refusal(reply, message)
            if reply.type == _NLMSG_DONE:
                break
            replies.append(reply)
        return replies, consistent

    def _refusal(self, reply: Reply, message: Message, index: int = 0) -> NetlinkRefused:
        """The error for a refused message, with the kernel's own words where it gave some."""
        what = f"{message.what} in {self._label}" if self._label else message.what
        if reply.flags & _NLM_F_ACK_TLVS:
            words = attributes(reply.body, _ERRNO.size + _HEADER.size).get(_NLMSGERR_ATTR_MSG)
            if words:
                what += f" ({words.rstrip(bytes(1)).decode(errors='replace')})"
        return NetlinkRefused(_errno_of(reply), what, index)

    def _send(self, message: Message, extra_flags: int) -> int:
        self._sequence += 1
        self._socket.sendall(message.pack(self._sequence, extra_flags))
        return self._sequence

    def _receive(self, first: int, last: int) -> Iterator[tuple[int, Reply]]:
        """The answers to messages `first` to `last`, as they arrive; the caller knows the end."""
        while True:
            try:
                data = self._socket.recv(_RECEIVE_BYTES)
            except BlockingIOError as silence:
                place = f" in {self._label}" if self._label else ""
                raise WaitTimeout(f"the kernel's answer over netlink{place}", ANSWER_TIMEOUT_S) from silence
            offset = 0
            while offset + _HEADER.size <= len(data):
                length, kind, flags, sequence, _ = _HEADER.unpack_from(data, offset)
                if kind != _NLMSG_NOOP and first <= sequence <= last:
                    yield sequence, Reply(kind, flags, data[offset + _HEADER.size : offset + length])
                offset += (length + 3) & ~3


def _errno_of(reply: Reply) -> int:
    return -int(_ERRNO.unpack_from(reply.body)[0]) if len(reply.body) >= _ERRNO.size else 0
