"""The load process against real backends, pods and namespaces."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

import numpy as np
import pytest

from testbed.cluster.backend import Listening, start_backend
from testbed.errors import ProcessDied
from testbed.load.block import MS, Block, BlockResult
from testbed.load.control import BlockRefused, LoadProcess
from testbed.net import process
from testbed.net.fabric import Fabric, NodeAttachment, PodAttachment, build_fabric
from testbed.net.wait import wait_until
from testbed.results.sample import SAMPLE

PODS = {"pod-a": "10.244.1.2", "pod-b": "10.244.1.3", "pod-c": "10.244.1.4"}
TARGETS = tuple((address, 8080) for address in PODS.values())
NOBODY = (("10.244.1.2", 9),)


class Place:
    """A node with three served pods and a client, and a load process."""

    def __init__(self, fabric: Fabric, load: LoadProcess, directory: Path) -> None:
        self.fabric = fabric
        self.load = load
        self.samples = directory / "samples.bin"
        self._last = 0

    def run(self, user: str, **fields: object) -> BlockResult:
        self._last += 1
        facts: dict[str, object] = {
            "id": self._last,
            "namespace": self.fabric.pods["client"].path,
            "user": user,
            "targets": TARGETS,
            "duration_ns": 100 * MS,
            "samples_path": str(self.samples),
            "seed": 1,
        }
        return self.load.run(Block(**(facts | fields)))  # type: ignore[arg-type]

    def run_for(self, requests: int, user: str) -> BlockResult:
        """A block of at least so many requests, however slow the machine is: each try lasts twice as long."""
        duration_ns = 100 * MS
        while (result := self.run(user, duration_ns=duration_ns)).requests < requests and not result.errors:
            duration_ns *= 2
        return result

    def recorded(self) -> np.ndarray:
        return np.fromfile(self.samples, dtype=np.dtype(SAMPLE))


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    pods = tuple(PodAttachment(name, address) for name, address in {**PODS, "client": "10.244.1.9"}.items())
    node = NodeAttachment("node1", "172.18.0.1", "10.244.1.0/24", "10.244.1.1", pods)
    with ExitStack() as stack:
        fabric = stack.enter_context(
            build_fabric([node], outside_address="172.18.255.254", underlay="172.18.0.0/16")
        )
        listenings = [
            Listening(name, "node1", fabric.pods[name].path, address, ((8080, "TCP"), (8080, "UDP")))
            for name, address in PODS.items()
        ]
        stack.enter_context(
            start_backend(listenings, control_path=tmp_path / "b.sock", log=tmp_path / "b.log")
        )
        load = stack.enter_context(LoadProcess.start(log=tmp_path / "load.log"))
        load.wait_ready()
        yield Place(fabric, load, tmp_path)


@pytest.mark.parametrize("user", ["new-connection", "keepalive", "udp", "http"])
def test_every_kind_of_user_is_answered_by_all_targets_evenly(place: Place, user: str) -> None:
    result = place.run_for(20, user)

    assert result.errors == {}
    counts = [target.requests for target in result.targets]
    assert max(counts) - min(counts) <= 1
    assert set(result.endpoints) == set(PODS)
    assert [max(names, key=names.__getitem__) for names in result.endpoint_by_target] == list(PODS)
    assert result.ended_ns - result.started_ns >= 100 * MS
    assert 0 < result.client_cpu_ns < result.ended_ns - result.started_ns


def test_a_drained_connection_has_been_closed_by_the_other_side_before_the_next_one_starts(
    place: Place,
) -> None:
    result = place.run_for(20, "new-connection")
    drained = place.run("new-connection", drain=True)

    assert drained.errors == {}
    assert drained.requests > len(TARGETS)
    # The backend has read the end of every connection: it holds none when the block is over.
    assert open_connections(place) == 0
    assert set(drained.endpoints) == set(result.endpoints)


def open_connections(place: Place) -> int:
    """Connections to the pods' ports that neither end has given up."""

    def count() -> int:
        lines = Path("/proc/thread-self/net/tcp").read_text().splitlines()[1:]
        return sum(line.split()[3] in ("01", "08") for line in lines)

    return sum(place.fabric.pods[name].run(count) for name in PODS)


def test_raw_samples_agree_with_the_summary(place: Place) -> None:
    place.run("keepalive")
    result = place.run("new-connection")

    samples = place.recorded()
    ours = samples[samples["block"] == result.id]
    assert len(ours) == result.requests == result.samples_written
    assert abs(int(np.median(ours["first_byte_ns"])) - result.first_byte.p50) <= 1
    assert (ours["connect_ns"] <= ours["first_byte_ns"]).all()
    assert (ours["connect_ns"] > 0).all()
    names = list(result.endpoints)
    for index, name in enumerate(names):
        assert (ours["endpoint"] == index).sum() == result.endpoints[name]
    starts = ours["start_ns"].astype(np.int64)
    assert (np.diff(starts) > 0).all()
    assert result.started_ns <= starts[0]


@pytest.mark.parametrize("user", ["new-connection", "keepalive", "udp", "http"])
def test_even_the_shortest_block_meets_every_target(place: Place, user: str) -> None:
    result = place.run(user, duration_ns=1)

    assert [target.requests for target in result.targets] == [1, 1, 1]


def test_a_kept_connection_has_no_connect_time(place: Place) -> None:
    result = place.run("keepalive")

    assert result.connect.highest == 0
    assert result.first_byte.p50 > 0


@pytest.mark.parametrize(("users", "processes"), [(6, 1), (6, 2), (2, 2)])
def test_many_users_share_the_work_over_processes(place: Place, users: int, processes: int) -> None:
    result = place.run("new-connection", users=users, processes=processes)

    assert result.errors == {}
    samples = place.recorded()
    assert len(samples) == result.requests == sum(result.endpoints.values())
    ends = np.sort(samples["start_ns"] + samples["first_byte_ns"])
    assert (np.sort(samples["start_ns"])[1:] < ends[:-1]).any(), "no two requests were under way at once"


def test_a_refused_connection_is_an_error_by_name_and_ends_in_time(place: Place) -> None:
    result = place.run("new-connection", targets=NOBODY)

    assert set(result.errors) == {"ECONNREFUSED"}
    assert result.requests == 0
    assert result.ended_ns - result.started_ns < 300 * MS


@pytest.mark.parametrize("users", [1, 3])
def test_silence_is_a_timeout_and_does_not_hang(place: Place, users: int) -> None:
    place.fabric.nodes["node1"].run(Path("/proc/sys/net/ipv4/ip_forward").write_text, "0")

    result = place.run("new-connection", targets=(("10.99.0.1", 80),), timeout_ns=150 * MS, users=users)

    assert set(result.errors) == {"timeout"}
    assert sum(result.errors.values()) >= users


def test_a_namespace_that_is_gone_refuses_the_block_and_the_next_one_runs(place: Place) -> None:
    with pytest.raises(BlockRefused, match="gone"):
        place.run("udp", namespace="/run/netns/gone")

    assert place.run_for(20, "udp").errors == {}


def test_a_block_costs_a_few_milliseconds_beside_its_duration(place: Place) -> None:
    place.run("new-connection")
    beside_ns = []
    for _ in range(10):
        started_ns = time.perf_counter_ns()
        result = place.run("new-connection", duration_ns=20 * MS)
        took_ns = time.perf_counter_ns() - started_ns
        beside_ns.append(took_ns - (result.ended_ns - result.started_ns))

    assert min(beside_ns) < 20 * MS  # the others may have waited for a processor


LISTENER = """
import sys, time, locust
from testbed.load.block import Block
from testbed.load.crew import Crew
crew, heard = Crew(), []
crew.environment.events.request.add_listener(lambda **sample: heard.append(sample))
taken, began_s = 0, time.monotonic()
while taken <= 3:
    taken += len(crew.play(Block(1, sys.argv[1], sys.argv[2], (("10.244.1.2", 8080),), 100_000_000)).taken)
longest_ms = 1000 * (time.monotonic() - began_s)
assert len(heard) == taken, (len(heard), taken)
assert all(isinstance(sample["response_time"], float) for sample in heard)
assert all(0 < sample["response_time"] < longest_ms for sample in heard)
"""


@pytest.mark.parametrize("user", ["new-connection", "keepalive", "udp", "http"])
def test_whoever_listens_to_locusts_request_event_hears_of_every_sample(place: Place, user: str) -> None:
    process.run([sys.executable, "-c", LISTENER, place.fabric.pods["client"].path, user])


def test_a_killed_load_process_is_told_with_its_status(place: Place) -> None:
    pid = place.load._child.pid
    os.kill(pid, signal.SIGKILL)

    with pytest.raises(ProcessDied, match="signal 9"):
        place.run("udp")


def test_the_load_process_leaves_no_fork_behind(place: Place) -> None:
    place.run("udp", users=3, processes=3)
    group = place.load._child.pid
    assert len(alive_in_group(group)) == 3

    place.load.close()

    wait_until(lambda: not alive_in_group(group), "the forks to end", 5.0)


def alive_in_group(group: int) -> list[str]:
    found = []
    for status in Path("/proc").glob("[0-9]*/stat"):
        with suppress(FileNotFoundError, ProcessLookupError):
            fields = status.read_text().rpartition(")")[2].split()
            if int(fields[2]) == group and fields[0] != "Z":
                found.append(status.parent.name)
    return found
