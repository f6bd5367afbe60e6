"""What it costs to build a cluster's wiring and to let it go, beside the least that the kernel asks for.

Times are for all nodes and pods together. The bare loop sends the same messages, packed beforehand, through
plain sockets and keeps no books: read the ratio in brackets of each group. A build and its end always take
turns, since the kernel takes namespaces down in the background. Without --benchmark-enable one small cluster
shows that both ways still work.
"""

from __future__ import annotations

import os
import socket
import statistics
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from pytest_benchmark.fixture import BenchmarkFixture
from sandboxed import Puppet

from testbed.net import syscalls
from testbed.net.fabric import Fabric, NodeAttachment, PodAttachment, build_fabric
from testbed.net.namespace import in_own_thread
from testbed.net.netlink import NETLINK_ROUTE, NLM_F_ACK, Message, NetlinkSocket
from testbed.net.rtnetlink import End, link_bridge, link_veth
from testbed.net.wait import wait_until
from testbed.net.wiring import (
    BRIDGE_INDEX,
    FIRST_PORT_INDEX,
    Wiring,
    plug_messages,
    pod_known,
    pod_messages,
)

OUTSIDE, UNDERLAY = "172.18.255.254", "172.18.0.0/16"
ROUNDS = 5
_FD_TO_COME = 0x7A7A7A7A
_SENTINEL_INDEX = BRIDGE_INDEX + 1


@dataclass(frozen=True)
class Step:
    """One namespace of the bare loop: what is sent in it, then in the one above it, then in it again."""

    level: int
    first: bytes = b""
    above: bytes = b""
    then: bytes = b""


# What the process inside the sandbox keeps from one call to the next.
_nodes: list[NodeAttachment] = []
_script: list[Step] = []
_fabrics: list[Fabric] = []
_bare: list[int] = []


@pytest.fixture
def size(benchmark: BenchmarkFixture) -> tuple[int, int]:
    """Nodes, and pods on each."""
    return (10, 100) if benchmark.enabled else (2, 3)


@pytest.fixture
def puppet(size: tuple[int, int]) -> Iterator[Puppet]:
    with Puppet() as puppet:
        puppet.call(prepare, *size)
        yield puppet


@pytest.mark.benchmark(group="build")
@pytest.mark.parametrize("way", ["bare", "fabric"])
def test_build(
    benchmark: BenchmarkFixture,
    puppet: Puppet,
    size: tuple[int, int],
    way: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    build, let_go = WAYS[way]
    used_mb: list[float] = []

    def measure_memory_and_let_go() -> None:
        used_mb.append(free_mb_before - puppet.call(free_mb))
        puppet.call(let_go)

    free_mb_before = puppet.call(free_mb)
    benchmark.pedantic(
        lambda: puppet.call(build), teardown=measure_memory_and_let_go, rounds=ROUNDS, warmup_rounds=1
    )
    if benchmark.enabled:
        pods = size[0] * size[1]
        figures = {
            "ms_a_pod": benchmark.stats.stats.median * 1000 / pods,
            "mb_a_pod": statistics.median(used_mb) / pods,
        }
        benchmark.extra_info.update(figures)
        with capsys.disabled():
            print(f"\n{way}: {figures['ms_a_pod']:.2f} ms and {figures['mb_a_pod']:.2f} MB a pod", end="")


@pytest.mark.benchmark(group="teardown")
@pytest.mark.parametrize("way", ["bare", "fabric"])
def test_teardown(benchmark: BenchmarkFixture, puppet: Puppet, way: str) -> None:
    build, let_go = WAYS[way]
    benchmark.pedantic(
        lambda: puppet.call(let_go), setup=lambda: puppet.call(build), rounds=ROUNDS, warmup_rounds=1
    )


def prepare(nodes: int, pods: int) -> None:
    """Decide what is built, and pack the bare loop's messages in the order of the namespaces."""
    _nodes[:] = [
        NodeAttachment(
            f"node{n}",
            f"172.18.0.{n}",
            f"10.244.{n}.0/24",
            f"10.244.{n}.1",
            tuple(PodAttachment(f"pod-{n}-{p}", f"10.244.{n}.{p + 2}") for p in range(pods)),
        )
        for n in range(1, nodes + 1)
    ]
    wiring = Wiring(tuple(_nodes), PodAttachment("outside", OUTSIDE), (UNDERLAY,))
    _script.append(Step(0, pack(wiring.underlay())))
    for port, node in enumerate(_nodes, FIRST_PORT_INDEX):
        plug = pack(plug_messages(port, node, _FD_TO_COME))
        _script.append(Step(1, pack(wiring.bridge(node)), plug, pack(wiring.node(node))))
        for pod_port, pod in enumerate(node.pods, FIRST_PORT_INDEX):
            plug = pack([*plug_messages(pod_port, pod, _FD_TO_COME), *pod_known(pod)])
            _script.append(Step(2, above=plug, then=pack(pod_messages(pod, node))))
    with NetlinkSocket(NETLINK_ROUTE) as door:
        door.send_batch([link_bridge(End("sentinels", BRIDGE_INDEX))])


def build_with_fabric() -> None:
    _fabrics.append(build_fabric(_nodes, outside_address=OUTSIDE, underlay=UNDERLAY))


def let_fabric_go() -> None:
    first = os.open("/run/netns/fabric", os.O_RDONLY)
    plant_sentinel(first)
    os.close(first)
    _fabrics.pop().close()
    wait_sentinel_gone()


def build_bare() -> None:
    in_own_thread(play)


def let_bare_go() -> None:
    plant_sentinel(_bare[0])
    while _bare:
        os.close(_bare.pop())
    wait_sentinel_gone()
    for path in Path("/run/netns").iterdir():
        path.unlink()


WAYS: dict[str, tuple[Callable[[], None], Callable[[], None]]] = {
    "fabric": (build_with_fabric, let_fabric_go),
    "bare": (build_bare, let_bare_go),
}


def play() -> None:
    doors: list[socket.socket] = []
    for number, step in enumerate(_script):
        syscalls.unshare(syscalls.CLONE_NEWNET)
        fd = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
        _bare.append(fd)
        control = os.open("/proc/sys/net/ipv6/conf/all/disable_ipv6", os.O_WRONLY)
        os.write(control, b"1")
        os.close(control)
        os.symlink(f"/proc/self/fd/{fd}", f"/run/netns/{number}")  # noqa: PTH211 - as bare as can be
        del doors[step.level :]
        doors.append(socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, NETLINK_ROUTE))
        send(doors[-1], step.first)
        if step.above:
            send(doors[-2], step.above.replace(struct.pack("=I", _FD_TO_COME), struct.pack("=I", fd)))
        send(doors[-1], step.then)


def send(door: socket.socket, packed: bytes) -> None:
    if packed:
        door.send(packed)
        assert door.recv(65536)[16:20] == bytes(4), "refused"


def pack(messages: list[Message]) -> bytes:
    """One acknowledgement at the end, as our own socket asks for."""
    last = len(messages) - 1
    return b"".join(message.pack(1, NLM_F_ACK if n == last else 0) for n, message in enumerate(messages))


def plant_sentinel(netns_fd: int) -> None:
    """A link that goes when the kernel has taken down the namespace that is closed last."""
    end = End("sentinel", _SENTINEL_INDEX)
    with NetlinkSocket(NETLINK_ROUTE) as door:
        door.send_batch([link_veth(end, master=BRIDGE_INDEX, peer=end, peer_netns_fd=netns_fd)])


def wait_sentinel_gone() -> None:
    wait_until(lambda: "sentinel" not in [name for _, name in socket.if_nameindex()], "the links' end", 120)


def free_mb() -> float:
    fields = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
    return int(fields["MemAvailable"].split()[0]) / 1024
