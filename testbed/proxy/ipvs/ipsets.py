"""The door to the ipsets of this network namespace that are ours.

Owns the socket and the calls that reading and writing take. Must not know what the sets are for.
"""

from __future__ import annotations

import errno
from collections.abc import Iterable, Iterator, Mapping
from types import TracebackType
from typing import Self

from testbed.errors import MachineLacks, NetlinkRefused
from testbed.net.netlink import NETLINK_NETFILTER, Message, NetlinkSocket
from testbed.proxy.ipvs import ipset_messages as messages
from testbed.proxy.ipvs import sets
from testbed.proxy.model import Family


class Ipsets:
    """The sets of one IP family, seen from the calling thread's network namespace."""

    def __init__(self, family: Family) -> None:
        self._family = family
        self._kinds = {sets.set_name(kind, family): kind for kind in sets.KINDS}
        self._socket = NetlinkSocket(NETLINK_NETFILTER)

    def read(self) -> dict[str, set[str]]:
        """Members of those of our sets that exist. Raises MachineLacks in a kernel without ipsets."""
        try:
            replies = self._socket.dump(messages.list_message(self._family))
        except NetlinkRefused as refused:
            if refused.errno != errno.EINVAL:
                raise
            raise MachineLacks(
                "this kernel has no ipsets", "load their module (modprobe ip_set)"
            ) from refused
        types = {name: kind.type for name, kind in self._kinds.items()}
        found: dict[str, set[str]] = {}
        for name, members in filter(None, (messages.read_members(reply.body, types) for reply in replies)):
            found.setdefault(name, set()).update(members)
        return found

    def create(self, kinds: Iterable[sets.SetKind]) -> int:
        """Create sets that do not exist; the number of messages.

        Raises MachineLacks if the kernel lacks a type, NetlinkRefused if a set cannot be made.
        """
        return len(self._socket.send_batch([self._creation(kind) for kind in kinds]))

    def write(self, added: Mapping[str, Iterable[str]], removed: Mapping[str, Iterable[str]]) -> int:
        """Add and remove members of sets that exist; the number of messages. Raises NetlinkRefused."""
        additions = self._members(messages.ADD, added)
        removals = self._members(messages.DELETE, removed)
        return len(self._socket.send_batch([*additions, *removals]))

    def destroy(self) -> None:
        """Destroy our sets; no rule may refer to them any more. Raises NetlinkRefused."""
        self._socket.send_batch([messages.destroy_message(name, self._family) for name in self.read()])

    def close(self) -> None:
        """Close the socket; the sets stay."""
        self._socket.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _creation(self, kind: sets.SetKind) -> Message:
        try:
            reply = self._socket.request(messages.type_message(kind, self._family))
        except NetlinkRefused as refused:
            module = "ip_set_" + kind.type.replace(":", "_").replace(",", "")
            lacking = f"this kernel has no ipsets of type {kind.type}"
            raise MachineLacks(lacking, f"load their module (modprobe {module})") from refused
        return messages.create_message(kind, self._family, messages.read_revision(reply.body))

    def _members(self, command: int, members: Mapping[str, Iterable[str]]) -> Iterator[Message]:
        for name, values in members.items():
            yield from messages.member_messages(command, name, self._kinds[name], self._family, iter(values))
