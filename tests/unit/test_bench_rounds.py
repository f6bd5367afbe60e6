"""Rounds: order, warm-up, repetition, budget and lanes that die; the load process is made up."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from testbed.bench.launcher import Launcher
from testbed.bench.meters import Reading
from testbed.bench.probe import Target
from testbed.bench.rounds import ATTEMPTS, FEWEST_ROUNDS, Bench, Budget, CellRounds
from testbed.errors import ProcessDied
from testbed.load.block import MS, Block, BlockResult, Quantiles, TargetSummary
from testbed.results.format import CellKey
from testbed.results.run import Run, read_run
from testbed.results.writer import RunWriter

CELL = CellKey(1000, 3, "new-connection", 1)
NOTHING = Reading(0, 0, None, None, {})


class FakeLane:
    """A lane whose client's namespace is its name; it dies when told to."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.mode = name.removesuffix("-twin")
        self.dead = ""
        self.client = SimpleNamespace(path=name)
        self.died: ProcessDied | None = None

    def targets(self, traffic: str) -> tuple[tuple[Target, ...], tuple[int, ...]]:
        return (Target("10.96.0.1", 80), Target("10.96.0.2", 80)), (1, 1000)

    def read_meters(self) -> Reading:
        return NOTHING

    def check_alive(self) -> None:
        if self.died:
            raise self.died


class FakeLoad:
    """Answers every block at once; `spoil` may change a result."""

    def __init__(self) -> None:
        self.blocks: list[Block] = []
        self.spoil: Callable[[Block, BlockResult], BlockResult] = lambda _, result: result

    def run(self, block: Block) -> BlockResult:
        self.blocks.append(block)
        good = BlockResult(
            id=block.id,
            started_ns=0,
            ended_ns=block.duration_ns,
            unix_ns=1,
            requests=20,
            errors={},
            endpoints={"pod-1-1": 20},
            client_cpu_ns=1,
            connect=Quantiles(p50=10),
            first_byte=Quantiles(p50=50),
            targets=(TargetSummary(10, 10, 40), TargetSummary(10, 10, 60)),
            samples_written=0,
        )
        return self.spoil(block, good)


class Wire:
    def __init__(self) -> None:
        self.events: list[dict[str, Any]] = []

    def send(self, message: dict[str, Any]) -> None:
        self.events.append(message)

    def receive(self, timeout_s: float | None = None) -> dict[str, Any]:
        return {"locked": True}


class Trial:
    """One cell with three lanes on fakes."""

    def __init__(self, directory: Path, budget_s: float = 60.0, rounds: int = 12) -> None:
        self.load = FakeLoad()
        self.wire = Wire()
        self.lanes = [FakeLane(name) for name in ("direct", "iptables", "iptables-twin")]
        self.writer = RunWriter(directory)
        self.writer.describe(state="running")
        self.bench = Bench(
            load=self.load,  # type: ignore[arg-type]
            writer=self.writer,
            launcher=Launcher(self.wire),
            rng=random.Random(7),
            next_block_id=1,
            rounds=rounds,
            warmup_rounds=2,
            block_ns=150 * MS,
            budget=Budget(budget_s, cells_left=1),
        )

    def measure(self) -> Run:
        CellRounds(self.bench, CELL, "").measure(self.lanes)  # type: ignore[arg-type]
        return read_run(self.writer.directory)


@pytest.fixture
def trial(tmp_path: Path) -> Iterator[Trial]:
    trial = Trial(tmp_path)
    yield trial
    trial.writer.close()


def test_every_round_visits_every_lane_once_in_changing_order(trial: Trial) -> None:
    run = trial.measure()

    orders = []
    for number in range(-1, 13):
        order = tuple(block.lane for block in run.blocks if block.round == number)
        assert sorted(order) == ["direct", "iptables", "iptables-twin"]
        orders.append(order)
    assert len(set(orders)) > 3


def test_warm_up_rounds_come_first_and_are_marked(trial: Trial) -> None:
    run = trial.measure()

    assert [block.round for block in run.blocks if block.warmup] == [-1] * 3 + [0] * 3
    assert len([block for block in run.blocks if block.counts]) == 3 * 12


def test_the_same_seed_gives_the_same_order(tmp_path: Path) -> None:
    orders = [
        [(block.lane, block.round) for block in Trial(tmp_path / name).measure().blocks]
        for name in ("a", "b")
    ]

    assert orders[0] == orders[1]


def test_a_disturbed_block_is_recorded_and_measured_again(trial: Trial) -> None:
    def spoil(block: Block, result: BlockResult) -> BlockResult:
        return replace(result, errors={"timeout": 1}) if block.id == 10 else result

    trial.load.spoil = spoil
    run = trial.measure()

    (rejected,) = [block for block in run.blocks if block.status == "rejected"]
    assert rejected.reason == "errors: timeout x1"
    turn = (rejected.lane, rejected.round)
    (again,) = [block for block in run.blocks if block.counts and (block.lane, block.round) == turn]
    assert again.attempt == 2


def test_a_lane_that_is_always_disturbed_is_tried_a_bounded_number_of_times(trial: Trial) -> None:
    def spoil(block: Block, result: BlockResult) -> BlockResult:
        return replace(result, errors={"ECONNREFUSED": 9}) if block.namespace == "iptables" else result

    trial.load.spoil = spoil
    run = trial.measure()

    tries = Counter(block.round for block in run.blocks if block.lane == "iptables")
    assert set(tries.values()) == {ATTEMPTS}
    assert len([block for block in run.blocks if block.lane == "direct" and block.counts]) == 12


def test_a_dead_proxy_fails_its_block_with_evidence_and_ends_only_its_lane(trial: Trial) -> None:
    lane = trial.lanes[1]

    def spoil(block: Block, result: BlockResult) -> BlockResult:
        if block.namespace == "iptables" and block.id > 15:
            lane.died = ProcessDied("proxy of node1", -9, "Traceback: boom")
        return result

    trial.load.spoil = spoil
    run = trial.measure()

    (failed,) = [block for block in run.blocks if block.status == "failed"]
    assert failed.lane == "iptables"
    assert "signal 9" in failed.reason
    assert "boom" in failed.reason
    assert run.blocks[-1].round == 12
    assert not [block for block in run.blocks if block.lane == "iptables" and block.id > failed.id]
    assert any("measured no further" in event.get("text", "") for event in trial.wire.events)


def test_a_used_up_budget_ends_the_cell_after_the_fewest_rounds(tmp_path: Path) -> None:
    trial = Trial(tmp_path, budget_s=0.0, rounds=40)
    run = trial.measure()

    assert max(block.round for block in run.blocks) == FEWEST_ROUNDS
    assert any(event["event"] == "note" and "time is used up" in event["text"] for event in trial.wire.events)


def test_progress_counts_up_to_its_end(trial: Trial) -> None:
    trial.measure()

    progress = [event for event in trial.wire.events if event["event"] == "progress"]
    assert [event["round"] for event in progress] == list(range(15))
    assert {event["of"] for event in progress} == {14}
    assert progress[-1]["left_s"] == 0


def test_blocks_carry_ids_without_gaps_and_their_positions(trial: Trial) -> None:
    run = trial.measure()

    assert [block.id for block in run.blocks] == list(range(1, len(run.blocks) + 1))
    assert tuple(run.blocks[0].positions) == (1, 1000)
    assert tuple(run.blocks[0].position_first_byte_ns) == (40, 60)


def test_raw_samples_are_asked_for_only_while_there_is_room(tmp_path: Path) -> None:
    trial = Trial(tmp_path)
    trial.writer = trial.bench.writer = RunWriter(tmp_path, samples_limit_bytes=24)
    trial.measure()

    assert {block.samples_path for block in trial.load.blocks} == {None}


def test_the_budget_is_shared_between_the_cells_that_are_left() -> None:
    budget = Budget(240.0, cells_left=4)
    assert budget.share_s() == 60

    budget.spent_s, budget.cells_left, budget.rounds_done = 40.0, 3, 10
    assert budget.share_s() == pytest.approx(200 / 3)
    assert budget.left_s(rounds_left_here=5, rounds_a_cell=10) == pytest.approx(4 * 25)
