"""The door to the kernel's IPVS table of this network namespace.

Owns the socket, what reading and writing the table takes, and in which calls. Must not know Services.
"""

from __future__ import annotations

import errno
from collections.abc import Collection, Iterable, Iterator
from itertools import islice
from types import TracebackType
from typing import Self

from testbed.errors import MachineLacks, NetlinkRefused
from testbed.net.netlink import MOST_IN_A_BATCH, NETLINK_GENERIC, Message, NetlinkSocket
from testbed.proxy.ipvs import messages, procfile
from testbed.proxy.ipvs.messages import RealServerEncoder
from testbed.proxy.ipvs.model import Balancing, Live, RealServer, Status, VirtualServer

# Up to so many virtual servers are asked for their connections one by one, more by one pass over all.
_ONE_BY_ONE = 32
_ANY = range(1, 4096)  # every errno
_ABSENT = frozenset({errno.ENOENT, errno.ESRCH})

Connections = dict[VirtualServer, dict[RealServer, Status]]


class IpvsTable:
    """Virtual and real servers of the calling thread's network namespace.

    Writing methods return the number of messages. They raise NetlinkRefused after everything was tried, if
    something was refused that shows another state than the caller believed in; deleting what is gone is fine.
    """

    def __init__(self) -> None:
        """Raises MachineLacks if this kernel has no IPVS."""
        self._socket = NetlinkSocket(NETLINK_GENERIC)
        try:
            self._family = self._socket.genl_family(messages.FAMILY_NAME)
        except NetlinkRefused as refused:
            self._socket.close()
            raise MachineLacks(
                "this kernel has no IPVS",
                "load its module (modprobe ip_vs), or use a kernel that has it (--kernel uml)",
            ) from refused
        self._bytes = 0

    def read(self) -> dict[VirtualServer, Live]:
        """Everything, by a dump of virtual servers and one pass over /proc/net/ip_vs for the real ones."""
        dump = self._message(messages.dump_servers_payload(), "list virtual servers")
        found = [messages.read_server(reply.body) for reply in self._socket.dump(dump)]
        reals = procfile.read_all()
        return {
            server: Live(balancing, {real: status.weight for real, status in reals.get(server, {}).items()})
            for server, balancing in filter(None, found)
        }

    def connections(self, servers: Collection[VirtualServer]) -> Connections:
        """Real servers of some virtual servers, with their connections; those that are gone have none."""
        if len(servers) > _ONE_BY_ONE:
            everything = procfile.read_all()
            return {server: everything.get(server, {}) for server in servers}
        return {server: self._real_servers(server) for server in servers}

    def add_servers(self, servers: Iterable[tuple[VirtualServer, Balancing]]) -> int:
        """Create virtual servers without real ones."""
        return self._send(self._servers(messages.NEW_SERVICE, servers, "add"))

    def edit_servers(self, servers: Iterable[tuple[VirtualServer, Balancing]]) -> int:
        """Change scheduler, flags and persistence of virtual servers in place."""
        return self._send(self._servers(messages.SET_SERVICE, servers, "edit"))

    def delete_servers(self, servers: Iterable[VirtualServer]) -> int:
        """Delete virtual servers with their real ones; connections through them end."""
        doomed = ((server, None) for server in servers)
        return self._send(self._servers(messages.DEL_SERVICE, doomed, "delete"), accept=_ABSENT)

    def add_reals(self, reals: Iterable[tuple[VirtualServer, Iterable[RealServer]]]) -> int:
        """Add masquerading real servers of weight 1."""
        return self._send(self._additions(reals))

    def set_weights(self, reals: Iterable[tuple[VirtualServer, Iterable[RealServer]]], weight: int) -> int:
        """Give real servers weight 0 (no new connections) or 1, and make them masquerade."""
        return self._send(self._weights(reals, weight))

    def delete_reals(self, reals: Iterable[tuple[VirtualServer, Iterable[RealServer]]]) -> int:
        """Delete real servers; connections to them end."""
        return self._send(self._deletions(reals), accept=_ABSENT)

    def set_timeouts(self, tcp_s: int, tcp_fin_s: int, udp_s: int) -> None:
        """Set the namespace's connection timeouts; 0 keeps what the kernel has."""
        payload = messages.timeouts_payload(tcp_s, tcp_fin_s, udp_s)
        self._send(iter([self._message(payload, "set IPVS connection timeouts")]))

    def take_bytes_written(self) -> int:
        """Bytes of messages since the last call."""
        taken, self._bytes = self._bytes, 0
        return taken

    def close(self) -> None:
        """Close the socket; the table stays."""
        self._socket.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _real_servers(self, server: VirtualServer) -> dict[RealServer, Status]:
        payload = messages.server_payload(messages.GET_DEST, server)
        replies = self._socket.dump(self._message(payload, f"list real servers of {server}"))
        return dict(messages.read_real(reply.body, server) for reply in replies)

    def _servers(
        self, command: int, servers: Iterable[tuple[VirtualServer, Balancing | None]], verb: str
    ) -> Iterator[Message]:
        for server, balancing in servers:
            payload = messages.server_payload(command, server, balancing)
            yield self._message(payload, f"{verb} virtual server {server}")

    def _additions(self, reals: Iterable[tuple[VirtualServer, Iterable[RealServer]]]) -> Iterator[Message]:
        for server, added in reals:
            encoder, what = RealServerEncoder(server), f"add a real server to {server}"
            for real in added:
                yield self._message(encoder.new(real), what)

    def _weights(
        self, reals: Iterable[tuple[VirtualServer, Iterable[RealServer]]], weight: int
    ) -> Iterator[Message]:
        for server, changed in reals:
            encoder, what = RealServerEncoder(server), f"set the weight of a real server of {server}"
            for real in changed:
                yield self._message(encoder.set_weight(real, weight), what)

    def _deletions(self, reals: Iterable[tuple[VirtualServer, Iterable[RealServer]]]) -> Iterator[Message]:
        for server, deleted in reals:
            encoder, what = RealServerEncoder(server), f"delete a real server of {server}"
            for real in deleted:
                yield self._message(encoder.delete(real), what)

    def _message(self, payload: bytes, what: str) -> Message:
        self._bytes += len(payload)
        return Message(self._family, 0, payload, what)

    def _send(self, batch: Iterator[Message], accept: Collection[int] = ()) -> int:
        """Send all of it, whatever is refused, then raise the first refusal that is not in `accept`.

        Messages are made chunk by chunk: fresh memory for all at once would cost more than making them.
        """
        sent = 0
        first: NetlinkRefused | None = None
        while chunk := list(islice(batch, MOST_IN_A_BATCH)):
            results = self._socket.send_batch(chunk, accept=_ANY)
            for index, refusal in enumerate(results):
                if refusal and refusal not in accept and first is None:
                    first = NetlinkRefused(refusal, chunk[index].what, sent + index)
            sent += len(chunk)
        if first is not None:
            raise first
        return sent
