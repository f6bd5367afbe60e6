"""The wiring of one cluster on paper: who is attached where, and the messages that make it so.

Owns the topology of links, addresses, routes and neighbours. Pure: attachments in, netlink messages out, for
the namespace that a function is named after; `fabric` sends them. Must not know Services or proxies.

    underlay    one namespace with a bridge; eth0 of every node and of the outside client is a port of it
    node        eth0, and a bridge cni0 with the gateway's address; routes to the other nodes' pod
                networks, and a default route to the outside client
    pod         eth0, a port of its node's cni0, with a /32 and a default route through the gateway
    outside     eth0 on the underlay, and a default route through the first node

The /32 sends even a packet between two pods of one bridge through their node's IP stack, so that a node
translates addresses both ways without br_netfilter. Neighbours and bridge ports are known beforehand, by
MACs derived from the addresses: there is no ARP, no flooding and no expiry to disturb a measurement.
"""

from __future__ import annotations

from dataclasses import dataclass

from testbed.net.netlink import Message
from testbed.net.rtnetlink import (
    LOOPBACK_INDEX,
    End,
    address_add,
    bridge_station_add,
    link_bridge,
    link_up,
    link_veth,
    mac_of,
    neighbour_add,
    neighbour_delete,
    route_add,
)

# Above the numbers that a kernel gives to devices of its own making (tunl0, sit0 and their like).
ETH0_INDEX = 1001
BRIDGE_INDEX = 1002
FIRST_PORT_INDEX = 2001

# By family, in the order of an attachment's addresses.
_WHOLE_ADDRESS = ("32", "128")
_EVERYWHERE = ("0.0.0.0/0", "::/0")


@dataclass(frozen=True)
class PodAttachment:
    """A pod (or the client outside): its name and its addresses, without prefix lengths."""

    name: str
    address: str
    address6: str | None = None

    @property
    def addresses(self) -> tuple[str, ...]:
        """The IPv4 and, with dual stack, the IPv6 address."""
        return _present(self.address, self.address6)

    @property
    def mac(self) -> bytes:
        """The MAC of its eth0."""
        return mac_of(self.address)


@dataclass(frozen=True)
class NodeAttachment:
    """A node: its addresses on the underlay, its network of pods with their gateway, and its pods."""

    name: str
    address: str
    pod_network: str
    gateway: str
    pods: tuple[PodAttachment, ...] = ()
    address6: str | None = None
    pod_network6: str | None = None
    gateway6: str | None = None

    @property
    def addresses(self) -> tuple[str, ...]:
        """The IPv4 and, with dual stack, the IPv6 address."""
        return _present(self.address, self.address6)

    @property
    def pod_networks(self) -> tuple[str, ...]:
        """Its pods' networks, by family as `addresses`."""
        return _present(self.pod_network, self.pod_network6)

    @property
    def gateways(self) -> tuple[str, ...]:
        """Its bridge's addresses, by family as `addresses`."""
        return _present(self.gateway, self.gateway6)

    @property
    def mac(self) -> bytes:
        """The MAC of its eth0; that of cni0 comes from the gateway's address."""
        return mac_of(self.address)


@dataclass(frozen=True)
class Wiring:
    """A whole cluster: its nodes with their pods, the client outside, and the underlay's networks (CIDR)."""

    nodes: tuple[NodeAttachment, ...]
    outside: PodAttachment
    underlays: tuple[str, ...]

    def underlay(self) -> list[Message]:
        """The bridge that all nodes are plugged into."""
        return [link_up(LOOPBACK_INDEX), link_bridge(End("br0", BRIDGE_INDEX))]

    def bridge(self, node: NodeAttachment) -> list[Message]:
        """The bridge that a node's pods are plugged into, before the node itself is plugged in."""
        bridge = link_bridge(End("cni0", BRIDGE_INDEX, mac_of(node.gateway)))
        gateways = zip(node.gateways, node.pod_networks, strict=True)
        return [
            link_up(LOOPBACK_INDEX),
            bridge,
            *(address_add(BRIDGE_INDEX, _inside(gateway, network)) for gateway, network in gateways),
        ]

    def node(self, node: NodeAttachment) -> list[Message]:
        """A node's place on the underlay, once it is plugged in, and its ways to all other pods.

        Everything else goes to the outside client: without a route for it, the kernel would refuse a
        connection to a ClusterIP from the node itself before any rule could translate it.
        """
        messages = self._station(node)
        ways = zip(_EVERYWHERE, self.outside.addresses, strict=False)
        messages += [route_add(everywhere, index=ETH0_INDEX, gateway=outside) for everywhere, outside in ways]
        for other in self.nodes:
            if other is not node:
                for address, network in zip(other.addresses, other.pod_networks, strict=True):
                    messages.append(route_add(network, index=ETH0_INDEX, gateway=address))
        return messages

    def client(self) -> list[Message]:
        """The outside client's place on the underlay, once it is plugged in."""
        ways = zip(_EVERYWHERE, self.nodes[0].addresses, strict=False) if self.nodes else ()
        return [
            link_up(LOOPBACK_INDEX),
            *self._station(self.outside),
            *(route_add(everywhere, index=ETH0_INDEX, gateway=node) for everywhere, node in ways),
        ]

    def _station(self, me: NodeAttachment | PodAttachment) -> list[Message]:
        """eth0 up with its addresses, and everybody else on the underlay as a permanent neighbour."""
        mine = zip(me.addresses, self.underlays, strict=True)
        messages = [link_up(ETH0_INDEX)]
        messages += [address_add(ETH0_INDEX, _inside(address, network)) for address, network in mine]
        everybody: tuple[NodeAttachment | PodAttachment, ...] = (*self.nodes, self.outside)
        for other in everybody:
            if other is not me:
                messages += [neighbour_add(ETH0_INDEX, address, other.mac) for address in other.addresses]
        return messages


def pod_messages(pod: PodAttachment, node: NodeAttachment) -> list[Message]:
    """Inside a pod, once it is plugged in."""
    messages = [link_up(LOOPBACK_INDEX), link_up(ETH0_INDEX)]
    gateway_mac = mac_of(node.gateway)
    for address, gateway, whole, everywhere in zip(
        pod.addresses, node.gateways, _WHOLE_ADDRESS, _EVERYWHERE, strict=False
    ):
        messages += (
            address_add(ETH0_INDEX, f"{address}/{whole}"),
            neighbour_add(ETH0_INDEX, gateway, gateway_mac),
            route_add(everywhere, index=ETH0_INDEX, gateway=gateway, onlink=True),
        )
    return messages


def plug_messages(port: int, plugged: NodeAttachment | PodAttachment, netns_fd: int) -> list[Message]:
    """On a bridge: a port whose other end is eth0 in the namespace of `netns_fd`."""
    near, peer = End(f"port{port}", port), End("eth0", ETH0_INDEX, plugged.mac)
    return [
        link_veth(near, master=BRIDGE_INDEX, peer=peer, peer_netns_fd=netns_fd),
        bridge_station_add(port, plugged.mac),
    ]


def pod_known(pod: PodAttachment) -> list[Message]:
    """On the node of a pod: the pod as a permanent neighbour on the bridge."""
    return [neighbour_add(BRIDGE_INDEX, address, pod.mac) for address in pod.addresses]


def pod_forgotten(pod: PodAttachment) -> list[Message]:
    """On the node of a pod that goes: the reverse of `pod_known`."""
    return [neighbour_delete(BRIDGE_INDEX, address) for address in pod.addresses]


def _inside(address: str, network: str) -> str:
    """The address with its network's prefix length."""
    return f"{address}/{network.rpartition('/')[2]}"


def _present(*values: str | None) -> tuple[str, ...]:
    return tuple(value for value in values if value is not None)
