"""A session: the lanes of one company built, brought from size to size and measured at each.

Owns the order of building and starting and what happens to a lane that fails. Must not know the job around
it.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from itertools import groupby

from testbed.bench.balance import measure_balance
from testbed.bench.facts import sysctls
from testbed.bench.ground import Ground
from testbed.bench.lane import DIRECT, Lane
from testbed.bench.rounds import Bench, CellRounds
from testbed.errors import TestbedError, UserError
from testbed.results.format import CellKey, LaneRecord
from testbed.spec import Topology
from testbed.spec.clock import INSTRUCTIONS


@dataclass(frozen=True)
class Company:
    """Lanes that stand side by side, and the cells that are measured in them.

    `name` is "" for all lanes together, else the lane that stands beside a direct one only. `extras` adds
    what is not load: the balance over endpoints at the first size, one more Service after every size. By the
    instruction clock there is none of it: waiting is what is dear there.
    """

    name: str
    lanes: tuple[str, ...]
    cells: tuple[CellKey, ...]
    extras: bool


def measure_company(bench: Bench, topology: Topology, company: Company, schedulers: tuple[str, ...]) -> None:
    """Measure all cells of a company; lanes are built anew for every number of endpoints."""
    by_endpoints = sorted(company.cells, key=lambda cell: cell.endpoints)
    for endpoints, cells in groupby(by_endpoints, key=lambda cell: cell.endpoints):
        sizes = sorted(cells, key=lambda cell: cell.services)
        with _standing(bench, topology, company, endpoints) as lanes:
            _Session(bench, company, lanes, schedulers).run(sizes)


@contextmanager
def _standing(bench: Bench, topology: Topology, company: Company, endpoints: int) -> Iterator[list[Lane]]:
    """Build the lanes one at a time in random order; all of them end with the block."""
    with ExitStack() as stack:
        places = {name: stack.enter_context(ExitStack()) for name in company.lanes}
        built: Counter[str] = Counter()

        def build(name: str) -> Lane:
            """Build a lane in place of the one that stood there before, if any."""
            places[name].close()
            built[name] += 1
            lane = Lane(topology, name, endpoints, company.name, bench.clock, built[name])
            return places[name].enter_context(lane)

        standing: dict[str, Lane] = {}
        for name in bench.rng.sample(company.lanes, len(company.lanes)):
            bench.launcher.stage(f"building lane {name}")
            standing[name] = build(name)
        if bench.clock == INSTRUCTIONS:
            ground = Ground(bench)
            bench.launcher.stage("looking for equal ground")
            standing = ground.level(standing, build)
            bench.writer.describe(**{f"ground {company.name or 'all'}": ground.facts()})
        lanes = list(standing.values())
        found = {lane.name: {"client": sysctls(lane.client), "node": sysctls(lane.node)} for lane in lanes}
        order = {f"build_order {company.name or 'all'}": [lane.name for lane in lanes]}
        bench.writer.describe(sysctls=found, **order)
        yield lanes


@dataclass
class _Session:
    bench: Bench
    company: Company
    lanes: Sequence[Lane]
    schedulers: tuple[str, ...]

    def run(self, cells: Sequence[CellKey]) -> None:
        by_size = groupby(cells, key=lambda cell: cell.services)
        for number, (services, at_size) in enumerate(by_size):
            with self.bench.launcher.turn():
                self._start(services)
                if self.company.extras and number == 0:
                    self._balance()
                for cell in at_size:
                    if self._alive():
                        CellRounds(self.bench, cell, self.company.name).measure(self.lanes)
                if self.company.extras:
                    self._change()

    def _start(self, services: int) -> None:
        for lane in self.bench.rng.sample(self.lanes, len(self.lanes)):
            self.bench.launcher.stage(
                f"{lane.name}: starting with {services:,} Service{'' if services == 1 else 's'}"
            )
            self._try(lane, partial(lane.start, services))

    def _balance(self) -> None:
        for lane in self._modes():
            if lane.endpoints < 2:
                continue
            self.bench.launcher.stage(f"{lane.name}: balance over endpoints")
            try:
                for record in measure_balance(lane, self.schedulers):
                    self.bench.writer.balance(replace(record, kernel=self._kernel))
            except TestbedError as error:
                self.bench.writer.lane(replace(self._end(lane, error), kernel=self._kernel))

    def _change(self) -> None:
        for lane in self._modes():
            self.bench.launcher.stage(f"{lane.name}: one more Service than {lane.services:,}")
            self._try(lane, lane.add_one)

    def _try(self, lane: Lane, action: Callable[[], LaneRecord]) -> None:
        """Record what an action on a lane took; one that fails ends the lane, not the run."""
        if lane.dead:
            return
        try:
            record = action()
        except UserError:
            raise
        except TestbedError as error:
            record = self._end(lane, error)
        self.bench.writer.lane(replace(record, kernel=self._kernel))

    def _end(self, lane: Lane, error: TestbedError) -> LaneRecord:
        lane.dead = str(error)
        self.bench.launcher.note(f"lane {lane.name} is measured no further: {lane.dead}")
        return LaneRecord(
            lane=lane.name,
            mode=lane.mode,
            event="died",
            services=lane.services,
            endpoints=lane.endpoints,
            unix_ns=time.time_ns(),
            company=self.company.name,
            reason=lane.dead,
        )

    @property
    def _kernel(self) -> str:
        """Which kernel of several this is; "" where there is but one."""
        return self.company.cells[0].kernel

    def _alive(self) -> bool:
        return any(not lane.dead for lane in self.lanes)

    def _modes(self) -> list[Lane]:
        return [lane for lane in self.lanes if lane.name == lane.mode != DIRECT and not lane.dead]
