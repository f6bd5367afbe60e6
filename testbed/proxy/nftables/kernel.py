"""The door to nf_tables, over netlink alone: transactions, and cheap looks.

The program nft is not run: it reads every chain and set of the kernel back before it sends anything, so that
a change would cost what exists. Owns what is asked, and what is said of a kernel without nf_tables. Must not
know what the table is for.
"""

from __future__ import annotations

import errno
import socket
import struct
from types import TracebackType
from typing import Self

from testbed.errors import MachineLacks, NetlinkRefused, TransactionRefused
from testbed.net.netlink import NETLINK_NETFILTER, Message, NetlinkSocket, attributes, text
from testbed.proxy.model import Family
from testbed.proxy.nftables import base
from testbed.proxy.nftables.messages import encode
from testbed.proxy.nftables.transaction import TransactionSocket

# <linux/netfilter/nf_tables.h>
_SUBSYSTEM = 10 << 8
_GETTABLE, _GETCHAIN, _GETSET = 1, 4, 10
_TABLE_NAME = 1
_CHAIN_TABLE, _CHAIN_NAME, _CHAIN_USE = 1, 3, 6
_SET_TABLE, _SET_NAME = 1, 2
_NFGENMSG = struct.Struct("=BBH")
_FAMILIES = {Family.IPV4: socket.AF_INET, Family.IPV6: socket.AF_INET6}  # NFPROTO_IPV4, _IPV6

_BYTES_A_CHARACTER = 3
"""Messages are at most 2.3 times as long as the commands that they are made of."""


def has_table(family: Family) -> bool:
    """Whether nftables mode left its table in the calling thread's network namespace."""
    with NfTables(family) as kernel:
        return kernel.exists()


class NfTables:
    """The table of one IP family in the calling thread's network namespace."""

    def __init__(self, family: Family, transactions: TransactionSocket | None = None) -> None:
        """Transactions go through `transactions`, by default a socket with as much room as there is."""
        self._family = family
        self._socket = NetlinkSocket(NETLINK_NETFILTER)
        self._transactions = transactions or TransactionSocket()

    @property
    def most_characters(self) -> int:
        """Commands of so many characters go through the socket in one transaction for certain."""
        return self._transactions.most_bytes // _BYTES_A_CHARACTER

    def check(self) -> None:
        """Try a base chain for address translation. Raises MachineLacks without nf_tables."""
        name = f"{base.ip(self._family)} {base.TABLE}-probe"
        hook = "{ type nat hook prerouting priority -100 ; }"
        lines = (f"add table {name}", f"add chain {name} nat-prerouting {hook}", f"delete table {name}")
        try:
            self.apply("\n".join(lines) + "\n")
        except TransactionRefused as refused:
            raise MachineLacks(
                f"this kernel has no nf_tables for {self._family} ({refused})",
                "use a kernel that has them (--kernel host or qemu), or another mode",
            ) from refused

    def apply(self, transaction: str) -> None:
        """Apply commands all together or not at all. Raises TransactionRefused, which names the command."""
        try:
            messages = list(encode(self._family, transaction.splitlines()))
        except ValueError as unknown:
            raise TransactionRefused(errno.EINVAL, str(unknown)) from unknown
        self._transactions.commit(messages)

    def exists(self) -> bool:
        """Whether the table is there."""
        try:
            self._socket.request(self._request(_GETTABLE, text(_TABLE_NAME, base.TABLE)))
        except NetlinkRefused as refused:
            if refused.errno in (errno.ENOENT, errno.EAFNOSUPPORT, errno.EOPNOTSUPP, errno.EINVAL):
                return False
            raise
        return True

    def uses(self, chain: str) -> int:
        """How many rules and jumps a chain has together; 0 if it is not there."""
        try:
            reply = self._socket.request(
                self._request(_GETCHAIN, text(_CHAIN_TABLE, base.TABLE) + text(_CHAIN_NAME, chain))
            )
        except NetlinkRefused as refused:
            if refused.errno == errno.ENOENT:
                return 0
            raise
        return int.from_bytes(attributes(reply.body, _NFGENMSG.size)[_CHAIN_USE])

    def chains(self) -> list[str]:
        """Names of the table's chains."""
        return self._names(_GETCHAIN, _CHAIN_TABLE, _CHAIN_NAME)

    def sets(self) -> list[str]:
        """Names of the table's sets and maps."""
        return self._names(_GETSET, _SET_TABLE, _SET_NAME)

    def close(self) -> None:
        """Close the sockets; the table stays."""
        self._socket.close()
        self._transactions.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _names(self, command: int, table_attribute: int, name_attribute: int) -> list[str]:
        request = self._request(command, text(table_attribute, base.TABLE))
        found = (attributes(reply.body, _NFGENMSG.size) for reply in self._socket.dump(request))
        own = base.TABLE.encode() + b"\0"
        return [
            each[name_attribute].rstrip(b"\0").decode() for each in found if each.get(table_attribute) == own
        ]

    def _request(self, command: int, body: bytes) -> Message:
        head = _NFGENMSG.pack(_FAMILIES[self._family], 0, 0)
        return Message(_SUBSYSTEM | command, 0, head + body, "look at the nftables table")
