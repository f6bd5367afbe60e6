"""Links are as slow as they are asked to be, or it is said why they cannot be."""

from __future__ import annotations

import json
import socket
import subprocess
import threading
import time
from collections.abc import Iterator

import pytest

from testbed.errors import MachineLacks, NetlinkRefused
from testbed.net.fabric import Fabric, NodeAttachment, PodAttachment, build_fabric
from testbed.net.namespace import Namespace
from testbed.net.shaping import has_netem, require_netem, shape


@pytest.fixture
def fabric() -> Iterator[Fabric]:
    pods = (PodAttachment("a", "10.1.1.2"), PodAttachment("b", "10.1.1.3"))
    node = NodeAttachment("node1", "172.18.0.1", "10.1.1.0/24", "10.1.1.1", pods)
    with build_fabric([node], outside_address="172.18.0.9", underlay="172.18.0.0/16") as fabric:
        yield fabric


def qdiscs(namespace: Namespace, interface: str) -> list[dict[str, object]]:
    shown = subprocess.run(
        ["ip", "netns", "exec", namespace.name, "tc", "-j", "qdisc", "show", "dev", interface],
        capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    return json.loads(shown)  # type: ignore[no-any-return]


def transfer_s(fabric: Fabric, size: int) -> float:
    """Seconds that `size` bytes take from pod a to pod b."""
    stream = (socket.AF_INET, socket.SOCK_STREAM)
    with fabric.pods["b"].socket(*stream) as listener, fabric.pods["a"].socket(*stream) as sender:
        listener.bind(("10.1.1.3", 0))
        listener.listen()
        listener.settimeout(30)
        sender.connect(listener.getsockname())
        receiver, _ = listener.accept()
        started_s = time.monotonic()
        sending = threading.Thread(target=sender.sendall, args=(bytes(size),))
        sending.start()
        with receiver:
            receiver.settimeout(30)
            while size:
                size -= len(receiver.recv(1 << 20))
        sending.join()
        return time.monotonic() - started_s


def test_a_rate_is_kept_to(fabric: Fabric) -> None:
    size, rate_bit_s = 1_000_000, 16_000_000
    free_s = transfer_s(fabric, size)
    shape(fabric.pods["a"], "eth0", rate_bit_s=rate_bit_s)
    asked_s = size * 8 / rate_bit_s
    assert free_s < asked_s * 0.9 <= transfer_s(fabric, size) < asked_s * 2


@pytest.mark.parametrize("rate_bit_s", [64_000, 1_000_000_000, 40_000_000_000])
def test_the_kernel_understands_the_rate_as_meant(fabric: Fabric, rate_bit_s: int) -> None:
    shape(fabric.nodes["node1"], "eth0", rate_bit_s=rate_bit_s)
    (root,) = qdiscs(fabric.nodes["node1"], "eth0")
    assert root["kind"] == "tbf"
    assert root["options"]["rate"] * 8 == rate_bit_s  # type: ignore[index]


def test_nothing_asked_for_is_nothing_done(fabric: Fabric) -> None:
    before = qdiscs(fabric.pods["a"], "eth0")
    shape(fabric.pods["a"], "eth0")
    assert qdiscs(fabric.pods["a"], "eth0") == before


def test_a_device_is_shaped_once(fabric: Fabric) -> None:
    shape(fabric.pods["a"], "eth0", rate_bit_s=1_000_000)
    with pytest.raises(NetlinkRefused, match=r"1000000 bit/s.* in a"):
        shape(fabric.pods["a"], "eth0", rate_bit_s=1_000_000)


def test_delay_and_loss_work_or_are_refused_with_a_remedy(fabric: Fabric) -> None:
    pod = fabric.pods["a"]
    if has_netem(fabric.outside):
        shape(pod, "eth0", delay_us=20_000, rate_bit_s=16_000_000)
        assert [qdisc["kind"] for qdisc in qdiscs(pod, "eth0")] == ["netem", "tbf"]
        assert transfer_s(fabric, 1) >= 0.02
        return
    before = qdiscs(pod, "eth0")
    with pytest.raises(MachineLacks, match=r"netem.*--kernel uml"):
        require_netem(fabric.outside)
    with pytest.raises(MachineLacks, match="netem"):
        shape(pod, "eth0", delay_us=100)
    assert qdiscs(pod, "eth0") == before


def test_probing_for_netem_leaves_no_trace(fabric: Fabric) -> None:
    before = qdiscs(fabric.outside, "lo")
    assert has_netem(fabric.outside) == has_netem(fabric.outside)
    assert qdiscs(fabric.outside, "lo") == before
