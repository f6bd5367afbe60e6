"""A live cluster's wiring: the namespaces of its nodes, its pods and the client outside.

Owns the namespaces and the order that makes building them fast; what is in them is decided by `wiring`. Must
not know Services, proxies, or what runs in a pod.

One thread builds everything: it becomes each new namespace in turn, so that sockets opened there need no
switch, each link is born with its far end in place (moving one costs 17 ms), and a pod's own settings go in
one batch through one socket that is closed at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

from testbed.net import limits
from testbed.net.namespace import Namespace, become, in_own_thread, sysctl_path, write_sysctl
from testbed.net.netlink import NETLINK_ROUTE, Message, NetlinkSocket
from testbed.net.rtnetlink import link_delete
from testbed.net.wiring import (
    FIRST_PORT_INDEX,
    NodeAttachment,
    PodAttachment,
    Wiring,
    plug_messages,
    pod_forgotten,
    pod_known,
    pod_messages,
)

__all__ = ["OUTSIDE", "Fabric", "NodeAttachment", "PodAttachment", "build_fabric"]

OUTSIDE = "outside"
_UNDERLAY = "fabric"


@dataclass
class _Bridge:
    """A bridge and the socket that adds its ports; `ports` are device numbers by who is plugged in."""

    door: NetlinkSocket
    ports: dict[str, int] = field(default_factory=dict)
    next_port: int = FIRST_PORT_INDEX

    def plug(self, plugged: NodeAttachment | PodAttachment, namespace: Namespace, *then: Message) -> None:
        """Make eth0 of a namespace a port of this bridge; `then` goes in the same batch."""
        port = self.next_port
        self.next_port += 1
        self.door.send_batch([*plug_messages(port, plugged, namespace.fd), *then])
        self.ports[plugged.name] = port

    def unplug(self, name: str, *then: Message) -> None:
        """Delete a port with its other end; `then` goes in the same batch."""
        self.door.send_batch([link_delete(self.ports.pop(name)), *then])


class Fabric:
    """The live wiring of one cluster; a context manager whose end closes every namespace.

    `nodes` and `pods` are open namespaces by name, `outside` is that of the client outside the cluster.
    """

    outside: Namespace

    def __init__(self, prefix: str, *, ipv6: bool) -> None:
        self.nodes: dict[str, Namespace] = {}
        self.pods: dict[str, Namespace] = {}
        self._prefix = prefix
        self._ipv6 = ipv6
        self._bridges: dict[str, _Bridge] = {}
        self._nodes: dict[str, NodeAttachment] = {}
        self._places: dict[str, tuple[PodAttachment, str]] = {}
        self._stack = ExitStack()

    def add_pod(self, node: str, pod: PodAttachment) -> Namespace:
        """Wire one more pod to a live node.

        Raises:
            UserError: the name is taken.
            MachineLacks: the node's bridge, memory or open files have no room for it.
        """
        limits.check_names([*self.nodes, *self.pods, OUTSIDE, _UNDERLAY, pod.name])
        limits.check_ports({node: len(self._bridges[node].ports) + 1})
        limits.check_memory(namespaces=1)
        limits.allow_open_files(1)
        return in_own_thread(lambda: self._build_pod(pod, self._nodes[node]))

    def remove_pod(self, name: str) -> None:
        """Unplug a pod and let go of its namespace.

        Its link is gone at once; the namespace ends with the last process that is in it or was forked
        while it was open.
        """
        pod, node = self._places.pop(name)
        self._bridges[node].unplug(name, *pod_forgotten(pod))
        self.pods.pop(name).close()

    def close(self) -> None:
        """Close every namespace; the kernel takes all links down in batches, in the background."""
        self._stack.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def build(self, wiring: Wiring) -> None:
        """Build everything. The calling thread is left in the last namespace: give it one of its own."""
        self._become(_UNDERLAY)
        underlay = self._open_bridge(_UNDERLAY, wiring.underlay())
        for node in wiring.nodes:
            self.nodes[node.name] = namespace = self._become(node.name)
            self._nodes[node.name] = node
            _forward(ipv6=self._ipv6)
            bridge = self._open_bridge(node.name, wiring.bridge(node))
            underlay.plug(node, namespace)
            bridge.door.send_batch(wiring.node(node))
            for pod in node.pods:
                self._build_pod(pod, node)
        self.outside = self._become(OUTSIDE)
        _accept_any_way_back()
        underlay.plug(wiring.outside, self.outside)
        self._send_here(OUTSIDE, wiring.client())

    def _build_pod(self, pod: PodAttachment, node: NodeAttachment) -> Namespace:
        namespace = self._become(pod.name)
        self._bridges[node.name].plug(pod, namespace, *pod_known(pod))
        self._send_here(pod.name, pod_messages(pod, node))
        self.pods[pod.name] = namespace
        self._places[pod.name] = (pod, node.name)
        return namespace

    def _become(self, name: str) -> Namespace:
        return self._stack.enter_context(become(self._prefix + name, ipv6=self._ipv6))

    def _open_bridge(self, name: str, messages: Sequence[Message]) -> _Bridge:
        """A bridge in the calling thread's namespace, with a socket that stays open for ports to come."""
        _bridge_without_iptables()
        door = self._stack.enter_context(NetlinkSocket(NETLINK_ROUTE, label=name))
        door.send_batch(messages)
        bridge = self._bridges[name] = _Bridge(door)
        return bridge

    @staticmethod
    def _send_here(name: str, messages: Sequence[Message]) -> None:
        """Through a socket that does not stay, since an open one would keep its namespace alive."""
        with NetlinkSocket(NETLINK_ROUTE, label=name) as door:
            door.send_batch(messages)


def build_fabric(
    nodes: Sequence[NodeAttachment],
    *,
    outside_address: str,
    underlay: str,
    prefix: str = "",
    ipv6: bool = False,
    outside_address6: str | None = None,
    underlay6: str | None = None,
) -> Fabric:
    """Build the wiring of a cluster inside the current sandbox.

    `underlay` is the network (CIDR) of the nodes' and the outside client's addresses. `prefix` starts the
    names under /run/netns, so that several fabrics stand side by side. With `ipv6` every attachment has
    both addresses, and `outside_address6` and `underlay6` are given; without it the protocol is off.

    Raises:
        UserError: a name is used twice.
        MachineLacks: a limit of the kernel, memory or open files would be exceeded; nothing is built then.
        NetlinkRefused: the kernel refused a link, address or route; what was built is gone again.
    """
    _check_room(nodes)
    outside = PodAttachment(OUTSIDE, outside_address, outside_address6)
    underlays = (underlay,) if underlay6 is None else (underlay, underlay6)
    wiring = Wiring(tuple(nodes), outside, underlays)
    with ExitStack() as undo:
        fabric = undo.enter_context(Fabric(prefix, ipv6=ipv6))
        in_own_thread(lambda: fabric.build(wiring))
        undo.pop_all()
    return fabric


def _check_room(nodes: Sequence[NodeAttachment]) -> None:
    names = [*(node.name for node in nodes), *(pod.name for node in nodes for pod in node.pods)]
    names += (OUTSIDE, _UNDERLAY)
    limits.check_names(names)
    limits.check_ports({node.name: len(node.pods) for node in nodes} | {"the underlay": len(nodes) + 1})
    limits.check_memory(len(names))
    limits.allow_open_files(len(names) + len(nodes))


def _forward(*, ipv6: bool) -> None:
    """Make a node of the calling thread's namespace, before it has devices that copy their defaults."""
    write_sysctl("net.ipv4.ip_forward", 1)
    _accept_any_way_back()
    # A packet between two pods leaves by the bridge it came in on, as it must: nobody is to be told.
    for scope in ("all", "default"):
        write_sysctl(f"net.ipv4.conf.{scope}.send_redirects", 0)
    if ipv6:
        write_sysctl("net.ipv6.conf.all.forwarding", 1)


def _bridge_without_iptables() -> None:
    """Keep br_netfilter, where a kernel has it, from translating before the node's IP stack does.

    It is on by default. A translated packet would skip the IP stack, and one that goes back to the pod it
    came from would be dropped, as no port is in hairpin mode.
    """
    for protocol in ("iptables", "ip6tables", "arptables"):
        key = f"net.bridge.bridge-nf-call-{protocol}"
        if sysctl_path(key).exists():
            write_sysctl(key, 0)


def _accept_any_way_back() -> None:
    """Answers may come in by another device than questions went out by; a host's default would drop them."""
    for scope in ("all", "default"):
        write_sysctl(f"net.ipv4.conf.{scope}.rp_filter", 0)
