"""The socket that nf_tables takes transactions from: all of a batch or nothing.

Owns the framing of a batch, how much of one a socket carries, and what a refusal means. Must not know
messages' contents.

The kernel handles a batch inside the one system call that sends it: every message first, then all of them
together. It answers each message that it refuses, the beginning of the batch if it refuses to commit, and the
last message, which asks for it. All of that is there to be read when the call returns.
"""

from __future__ import annotations

import errno
import socket
import struct
from collections.abc import Iterator, Sequence
from types import TracebackType
from typing import Self

from testbed.errors import MachineLacks, TransactionRefused
from testbed.net.netlink import NETLINK_NETFILTER, NLM_F_ACK, Message, attributes
from testbed.proxy.nftables.messages import HEADER, SUBSYSTEM

_BATCH_BEGIN, _BATCH_END = 0x10, 0x11  # <linux/netfilter/nfnetlink.h>
_ERROR = 2
_EDGE = HEADER.pack(socket.AF_UNSPEC, 0, socket.htons(SUBSYSTEM))
_NLMSGHDR = struct.Struct("=IHHII")
_ERRNO = struct.Struct("=i")

_SO_SNDBUFFORCE = 32
_OVERHEAD_BYTES = 32  # what netlink_sendmsg keeps back
_SEND_BUFFER_BYTES = 16 << 20
_RECEIVE_BYTES = 1 << 17

_SOL_NETLINK, _CAP_ACK, _EXT_ACK = 270, 10, 11
_ACK_TLVS = 0x200
_ATTR_MESSAGE = 1

_MOST_WORDS = 300


class TransactionSocket:
    """Sends batches to nf_tables of the calling thread's network namespace; a context manager."""

    def __init__(self, send_buffer_bytes: int = _SEND_BUFFER_BYTES) -> None:
        """Ask for so much room; who is not root of the machine gets what it allows everybody."""
        self._socket = socket.socket(
            socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, NETLINK_NETFILTER
        )
        self._socket.setsockopt(_SOL_NETLINK, _CAP_ACK, 1)
        self._socket.setsockopt(_SOL_NETLINK, _EXT_ACK, 1)
        self.most_bytes = _widen(self._socket, send_buffer_bytes)
        """So long may the messages of one batch be together."""
        self._sequence = 0

    def commit(self, messages: Sequence[Message]) -> int:
        """Have all messages done together, or none of them; the bytes that were sent.

        Raises TransactionRefused for the first message that the kernel refuses, MachineLacks if the batch is
        longer than this socket takes.
        """
        if not messages:
            return 0
        first = self._sequence
        batch = self._packed(messages)
        try:
            self._socket.sendall(batch)
        except OSError as failed:
            if failed.errno != errno.EMSGSIZE:
                raise
            raise _too_long(len(batch), self.most_bytes) from failed
        self._await(messages, first)
        return len(batch)

    def close(self) -> None:
        """Close the socket; what was committed stays."""
        self._socket.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _packed(self, messages: Sequence[Message]) -> bytes:
        """The batch on the wire; its beginning has the sequence number before that of the first message."""
        first = self._sequence
        last = first + len(messages)
        self._sequence = (last + 2) & 0x7FFFFFFF
        parts = [Message(_BATCH_BEGIN, 0, _EDGE, "").pack(first)]
        parts += [message.pack(number) for number, message in enumerate(messages[:-1], first + 1)]
        parts.append(messages[-1].pack(last, NLM_F_ACK))
        parts.append(Message(_BATCH_END, 0, _EDGE, "").pack(last + 1))
        return b"".join(parts)

    def _await(self, messages: Sequence[Message], first: int) -> None:
        """Read the answers up to that to the last message; raise the first refusal among them."""
        refusal: TransactionRefused | None = None
        last = first + len(messages)
        for sequence, code, words in self._answers():
            if not first <= sequence <= last:
                continue
            if code and refusal is None:
                index = sequence - first - 1
                what = _shortened(messages[index].what) if index >= 0 else "commit a transaction"
                refusal = TransactionRefused(code, what + words, max(index, 0))
            if sequence == last:
                break
        else:
            # So many refusals that their answers did not fit.
            refusal = refusal or TransactionRefused(errno.ENOBUFS, "answers to a transaction were lost")
        if refusal is not None:
            raise refusal

    def _answers(self) -> Iterator[tuple[int, int, str]]:
        """Sequence number, errno and the kernel's own words of each answer that is there."""
        while True:
            try:
                data = self._socket.recv(_RECEIVE_BYTES, socket.MSG_DONTWAIT)
            except BlockingIOError:
                return
            except OSError as failed:
                if failed.errno != errno.ENOBUFS:
                    raise
                continue
            offset = 0
            while offset + _NLMSGHDR.size <= len(data):
                length, kind, flags, sequence, _ = _NLMSGHDR.unpack_from(data, offset)
                if kind == _ERROR:
                    body = data[offset + _NLMSGHDR.size : offset + length]
                    yield sequence, -int(_ERRNO.unpack_from(body)[0]), _words(flags, body)
                offset += (length + 3) & ~3


def _shortened(what: str) -> str:
    return what if len(what) <= _MOST_WORDS else f"{what[:_MOST_WORDS]}..."


def _words(flags: int, body: bytes) -> str:
    if not flags & _ACK_TLVS:
        return ""
    said = attributes(body, _ERRNO.size + _NLMSGHDR.size).get(_ATTR_MESSAGE, b"")
    return f" ({said.rstrip(bytes(1)).decode(errors='replace')})" if said else ""


def _widen(sock: socket.socket, wanted: int) -> int:
    """Make room for long batches; how much there is then."""
    try:
        sock.setsockopt(socket.SOL_SOCKET, _SO_SNDBUFFORCE, wanted)
    except PermissionError:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, wanted)
    return sock.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF) - _OVERHEAD_BYTES


def _too_long(length: int, most: int) -> MachineLacks:
    return MachineLacks(
        f"a transaction of {length} bytes is longer than this socket takes ({most})",
        f"raise net.core.wmem_max on the machine to {length}",
    )
