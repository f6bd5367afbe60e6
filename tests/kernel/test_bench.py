"""A whole sweep on this kernel: real lanes, proxies, load and results; and what happens when a part dies."""

from __future__ import annotations

import os
import random
import signal
import socket
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from testbed.analysis.findings import analyse
from testbed.analysis.report import write_tables
from testbed.bench.balance import measure_balance
from testbed.bench.facts import sysctls
from testbed.bench.lane import Lane
from testbed.bench.launcher import Launcher
from testbed.bench.rounds import Bench, Budget, CellRounds
from testbed.bench.sweep import main
from testbed.load.block import MS
from testbed.load.control import LoadProcess
from testbed.results.format import CellKey
from testbed.results.run import Run, read_run
from testbed.results.writer import RunWriter
from testbed.spec import Topology

SERVICE = {
    "name": "web",
    "endpoints": 3,
    "ports": [
        {"name": "http", "port": 80, "target_port": 8080},
        {"name": "udp", "port": 53, "target_port": 8080, "protocol": "UDP"},
    ],
}
CELL = CellKey(5, 3, "new-connection", 1)


def a_topology(**sweep: Any) -> Topology:
    facts: dict[str, Any] = {
        "modes": ["userspace", "iptables"],
        "services": [1, 20],
        "traffic": ["new-connection"],
        "rounds": 3,
        "warmup_rounds": 1,
        "block_ms": 40,
    }
    return Topology(name="small", nodes=2, pods_per_node=2, services=[SERVICE], sweep=facts | sweep)


class Wire:
    """The launcher's side of the line."""

    def __init__(self) -> None:
        self.events: list[dict[str, Any]] = []

    def send(self, message: dict[str, Any]) -> None:
        self.events.append(message)

    def receive(self, timeout_s: float | None = None) -> dict[str, Any]:
        return {"locked": True}

    def said(self, kind: str) -> list[dict[str, Any]]:
        return [event for event in self.events if event["event"] == kind]


def measured(directory: Path, topology: Topology, **arguments: Any) -> tuple[Run, Wire]:
    wire = Wire()
    status = main(
        {"topology": topology.model_dump(mode="json"), "run_dir": str(directory), **arguments}, wire
    )
    assert status == 0
    return read_run(directory), wire


def test_a_sweep_measures_every_lane_of_every_cell_and_its_control_plane(tmp_path: Path) -> None:
    run, wire = measured(tmp_path, a_topology())

    findings = analyse(run)
    assert run.complete
    assert {(one.cell.services, one.lane) for one in findings.effects} == {
        (services, lane)
        for services in (1, 20)
        for lane in ("direct", "userspace", "iptables", "iptables-twin")
    }
    assert findings.failed == {}
    for record in run.lanes:
        assert record.event != "died", record.reason
        if record.mode != "direct":
            assert record.to_traffic_ns is not None
            assert record.to_traffic_ns > 0
            assert record.sync_ns
    assert {record.event for record in run.lanes} == {"start", "change"}
    last = [block for block in run.blocks if block.services == 20 and block.lane == "iptables"]
    assert {tuple(block.positions) for block in last} == {(1, 10, 20)}
    assert [event["event"] for event in wire.events].count("lock") == len(wire.said("unlock")) == 2
    assert wire.said("progress")[-1]["left_s"] == 0


def test_the_userspace_proxy_works_for_every_connection_and_iptables_for_none(tmp_path: Path) -> None:
    run, _ = measured(tmp_path, a_topology(services=[1], rounds=5))

    cpu_us = {}
    for lane in ("userspace", "iptables"):
        blocks = [block for block in run.blocks if block.lane == lane and block.counts]
        cpu_us[lane] = sum(b.proxy_cpu_ns or 0 for b in blocks) / sum(b.requests for b in blocks) / 1000
    assert cpu_us["userspace"] > 20
    assert cpu_us["iptables"] < 2


def test_the_direct_lane_meets_the_endpoints_themselves(tmp_path: Path) -> None:
    run, _ = measured(tmp_path, a_topology(services=[1]), lanes=["direct"])

    for block in run.blocks:
        assert tuple(block.positions) == ()
        assert sorted(block.endpoint_requests) == ["pod-1-1", "pod-1-2", "pod-2-1"]
        assert len(block.position_requests) == 3


def test_an_isolated_lane_is_recorded_in_a_company_of_its_own(tmp_path: Path) -> None:
    topology = a_topology(services=[1])
    for lane in ("direct", "iptables"):
        run, _ = measured(tmp_path, topology, lanes=[lane])

    assert {(block.company, block.lane) for block in run.blocks} == {
        ("direct", "direct"),
        ("iptables", "direct"),
        ("iptables", "iptables"),
    }
    ids = [block.id for block in run.blocks]
    assert ids == sorted(set(ids))
    assert "iptables" in write_tables(tmp_path).markdown()


def test_interference_is_measured_alone_and_together(tmp_path: Path) -> None:
    topology = a_topology(services=[1], modes=["iptables"], rounds=3)
    run, _ = measured(tmp_path, topology, interference=True)

    found = analyse(run).interferences
    assert {one.lane for one in found} == {"direct", "iptables", "iptables-twin"}


def test_udp_is_measured_over_the_udp_port(tmp_path: Path) -> None:
    run, _ = measured(tmp_path, a_topology(services=[1], traffic=["udp"], modes=["iptables"]))

    assert all(block.requests for block in run.blocks)
    assert {block.status for block in run.blocks} == {"ok"}


def test_raw_samples_of_all_blocks_are_kept(tmp_path: Path) -> None:
    run, _ = measured(tmp_path, a_topology(services=[1], modes=["iptables"]))

    samples = run.samples()
    for block in run.blocks:
        assert (samples["block"] == block.id).sum() == block.requests == block.samples


class Trial:
    """A bench with lanes built by hand."""

    def __init__(self, directory: Path, stack: ExitStack) -> None:
        self.topology = a_topology()
        self.stack = stack
        self.wire = Wire()
        self.writer = stack.enter_context(RunWriter(directory))
        self.writer.describe(state="running")
        load = stack.enter_context(LoadProcess.start(log=directory / "load.log"))
        load.wait_ready()
        self.bench = Bench(
            load=load,
            writer=self.writer,
            launcher=Launcher(self.wire),
            rng=random.Random(1),
            next_block_id=1,
            rounds=3,
            warmup_rounds=0,
            block_ns=40 * MS,
            budget=Budget(60.0, 1),
        )

    def lane(self, name: str) -> Lane:
        lane = self.stack.enter_context(Lane(self.topology, name, 3, ""))
        lane.start(5)
        return lane

    def measure(self, *lanes: Lane) -> Run:
        CellRounds(self.bench, CELL, "").measure(lanes)
        self.writer.flush()
        return read_run(self.writer.directory)


@pytest.fixture
def trial(tmp_path: Path) -> Iterator[Trial]:
    with ExitStack() as stack:
        yield Trial(tmp_path, stack)


@pytest.mark.parametrize("victim", ["proxy", "backend"])
def test_a_part_that_dies_fails_its_lane_and_the_others_go_on(trial: Trial, victim: str) -> None:
    direct, lane = trial.lane("direct"), trial.lane("userspace")
    child = lane.cluster.proxies["node1"] if victim == "proxy" else lane.cluster._children[0]
    os.kill(child.pid, signal.SIGKILL)
    child.wait(5)

    run = trial.measure(direct, lane)

    (failed,) = [block for block in run.blocks if block.lane == "userspace"]
    assert failed.status == "failed"
    assert victim in failed.reason
    assert "signal 9" in failed.reason
    assert len([block for block in run.blocks if block.lane == "direct" and block.counts]) == 3


def test_a_connection_asked_for_before_there_were_rules_swallows_none_of_the_load(trial: Trial) -> None:
    lane = trial.lane("iptables")
    lane.cluster.stop_proxies()
    lane._load(6)
    target = lane.targets("new-connection")[0][-1]

    def from_one_port() -> str:
        with socket.socket() as client:
            client.bind(("", 40000))
            client.settimeout(1.0)
            client.connect(target.address)
            client.send(b"?\n")
            return client.recv(100).decode()

    with pytest.raises(TimeoutError):
        lane.client.run(from_one_port)
    lane.start(6)

    assert lane.client.run(from_one_port).startswith("pod-")


def test_balance_lists_who_answered_each_connection(trial: Trial) -> None:
    (record,) = measure_balance(trial.lane("iptables"), ())

    assert record.errors == {}
    assert record.requests == len(record.sequence) == 120
    assert sorted(record.endpoint_requests) == ["pod-1-1", "pod-1-2", "pod-2-1"]
    assert min(record.endpoint_requests.values()) > 15


def test_the_sysctls_that_avoid_stalls_are_set_where_traffic_starts(trial: Trial) -> None:
    found = sysctls(trial.lane("direct").client)

    assert found["net.ipv4.tcp_timestamps"] == "2"
    assert found["net.ipv4.tcp_tw_reuse"] == "1"
    assert found["net.ipv4.ip_local_port_range"] == "1024 65000"
