"""Rounds: every lane of a cell visited once in a new random order, block by block, again and again.

Owns the order of visits, warm-up, the repetition of rejected blocks, and the share of the time budget that a
cell may use. Must not know how lanes are built.
"""

from __future__ import annotations

import math
import os
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from testbed.bench.gate import objections
from testbed.bench.lane import Lane
from testbed.bench.launcher import Launcher
from testbed.bench.meters import Reading
from testbed.bench.probe import Target
from testbed.errors import ProcessDied
from testbed.load.block import SECOND, Block, BlockResult
from testbed.load.control import LoadProcess
from testbed.results.format import FAILED, OK, REJECTED, BlockRecord, CellKey
from testbed.results.writer import RunWriter
from testbed.spec.clock import INSTRUCTIONS, WALL, Clock

FEWEST_ROUNDS = 9
"""Measured in every cell even when the budget is used up: fewer give no usable interval."""

TIMEOUT_NS = 1 * SECOND
"""TCP repeats a lost SYN after a second: such a request must not count, so it need not be waited for."""

ATTEMPTS = 3
"""How often a lane's turn in a round is tried before the round goes on without it."""


@dataclass
class Budget:
    """Time for measuring, shared evenly between the cells that are left; infinite by the instruction clock.

    How many rounds there are must not depend on the machine there, and the machine's time cannot be seen.
    """

    total_s: float
    cells_left: int
    spent_s: float = 0.0
    rounds_done: int = 0
    cells: int = field(init=False)

    def __post_init__(self) -> None:
        self.cells = self.cells_left

    def share_s(self) -> float:
        """What the next cell may use."""
        return max(self.total_s - self.spent_s, 0.0) / max(self.cells_left, 1)

    def left_s(self, rounds_left_here: int, rounds_a_cell: int) -> float:
        """An estimate of the measuring time still to come, from the rounds so far; within the budget."""
        if not self.rounds_done or math.isinf(self.total_s):
            return self.total_s
        one_round_s = self.spent_s / self.rounds_done
        wanted = one_round_s * (rounds_left_here + rounds_a_cell * max(self.cells_left - 1, 0))
        return min(wanted, max(self.total_s - self.spent_s, one_round_s * rounds_left_here))


@dataclass
class Bench:
    """What all blocks of a run share."""

    load: LoadProcess
    writer: RunWriter
    launcher: Launcher
    rng: random.Random
    next_block_id: int
    rounds: int
    warmup_rounds: int
    block_ns: int
    budget: Budget
    clock: Clock = WALL

    def take_block_id(self) -> int:
        self.next_block_id += 1
        return self.next_block_id - 1


@dataclass(frozen=True)
class _Stand:
    """A lane in a cell: where its traffic goes."""

    lane: Lane
    targets: tuple[Target, ...]
    positions: tuple[int, ...]


@dataclass
class CellRounds:
    """The rounds of one cell in one company of lanes."""

    bench: Bench
    cell: CellKey
    company: str
    _stands: list[_Stand] = field(default_factory=list)

    def measure(self, lanes: Sequence[Lane]) -> None:
        """Run warm-up and measured rounds; stops early when the cell's share of the budget is used up."""
        bench = self.bench
        self._stands = [_Stand(lane, *lane.targets(self.cell.traffic)) for lane in lanes if not lane.dead]
        total = bench.warmup_rounds + bench.rounds
        share_s, used_s = bench.budget.share_s(), 0.0
        self._tell(0, total)
        for number in range(1 - bench.warmup_rounds, bench.rounds + 1):
            started = time.monotonic()
            self._round(number)
            bench.writer.flush()
            took_s = time.monotonic() - started
            used_s += took_s
            bench.budget.spent_s += took_s
            bench.budget.rounds_done += 1
            self._tell(number + bench.warmup_rounds, total)
            if number >= FEWEST_ROUNDS and number < bench.rounds and used_s + took_s > share_s:
                bench.launcher.note(f"{self.cell}: stopped after {number} rounds, its time is used up")
                break
        bench.budget.cells_left -= 1

    def _tell(self, over: int, total: int) -> None:
        budget = self.bench.budget
        self.bench.launcher.progress(
            str(self.cell),
            over,
            total,
            left_s=budget.left_s(total - over, total),
            done=budget.rounds_done / (total * budget.cells),
        )

    def _round(self, number: int) -> None:
        standing = [stand for stand in self._stands if not stand.lane.dead]
        for stand in self.bench.rng.sample(standing, len(standing)):
            for attempt in range(1, ATTEMPTS + 1):
                record = self._block(stand, number, attempt)
                self.bench.writer.block(record)
                if record.status != REJECTED:
                    break

    def _block(self, stand: _Stand, number: int, attempt: int) -> BlockRecord:
        """One block of one lane. A process that has died ends the lane, not the run."""
        lane = stand.lane
        block = self._plan(stand)
        before = lane.read_meters()
        result = self.bench.load.run(block)
        counted = lane.read_meters().since(before)
        wrong = objections(block, result, counted, self.bench.clock)
        status, reason = (REJECTED, "; ".join(wrong)) if wrong else (OK, "")
        try:
            lane.check_alive()
        except ProcessDied as died:
            lane.dead = str(died)
            status, reason = FAILED, lane.dead
            self.bench.launcher.note(f"lane {lane.name} is measured no further: {lane.dead}")
        return self._record(stand, number, attempt, status, reason, result, counted)

    def _plan(self, stand: _Stand) -> Block:
        bench = self.bench
        keep = bench.writer.room_for_samples()
        users = self.cell.connections
        return Block(
            id=bench.take_block_id(),
            namespace=stand.lane.client.path,
            user=self.cell.traffic,
            targets=tuple(target.address for target in stand.targets),
            duration_ns=bench.block_ns,
            users=users,
            processes=min(users, os.cpu_count() or 1),
            samples_path=str(bench.writer.samples_path) if keep else None,
            seed=bench.rng.getrandbits(32),
            timeout_ns=TIMEOUT_NS,
            drain=bench.clock == INSTRUCTIONS,
        )

    def _record(
        self,
        stand: _Stand,
        number: int,
        attempt: int,
        status: str,
        reason: str,
        result: BlockResult,
        counted: Reading,
    ) -> BlockRecord:
        return BlockRecord(
            id=result.id,
            lane=stand.lane.name,
            mode=stand.lane.mode,
            services=self.cell.services,
            endpoints=self.cell.endpoints,
            traffic=self.cell.traffic,
            connections=self.cell.connections,
            round=number,
            attempt=attempt,
            status=status,
            reason=reason,
            warmup=number < 1,
            company=self.company,
            unix_ns=result.unix_ns,
            started_ns=result.started_ns,
            ended_ns=result.ended_ns,
            requests=result.requests,
            errors=result.errors,
            connect_p50_ns=result.connect.p50,
            connect_p99_ns=result.connect.p99,
            first_byte_p50_ns=result.first_byte.p50,
            first_byte_p90_ns=result.first_byte.p90,
            first_byte_p99_ns=result.first_byte.p99,
            positions=stand.positions,
            position_requests=tuple(target.requests for target in result.targets),
            position_connect_ns=tuple(target.connect_p50_ns for target in result.targets),
            position_first_byte_ns=tuple(target.first_byte_p50_ns for target in result.targets),
            endpoint_requests=result.endpoints,
            client_cpu_ns=result.client_cpu_ns,
            proxy_cpu_ns=counted.proxy_cpu_ns,
            proxy_switches=counted.proxy_switches,
            system_cpu_ns=counted.cpu_ns,
            syn_retransmits=counted.syn_retransmits,
            conntrack_drops=counted.conntrack_losses,
            samples=result.samples_written,
            kernel=self.cell.kernel,
            idle_ns=result.idle_ns,
            timer_interrupts=result.timer_interrupts,
        )
