"""The job's entry: measure a topology's sweep and write the results.

Owns the course of a whole run, from its arguments to its last fact. Runs in a sandbox or in a guest.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from importlib import import_module
from pathlib import Path
from typing import Any

from testbed.bench.facts import kernel_facts, load_and_pressure, versions
from testbed.bench.lane import DIRECT
from testbed.bench.launcher import Launcher, Wire
from testbed.bench.rounds import Bench, Budget
from testbed.bench.session import Company, measure_company
from testbed.load.block import MS
from testbed.load.control import LoadProcess
from testbed.results.format import CellKey
from testbed.results.writer import RunWriter
from testbed.spec import Sweep, Topology

LOG_DIR = Path("/run/testbed")
_FORKED = ("testbed.cluster.apiserver", "aiohttp.web")


def main(arguments: Mapping[str, Any], line: Wire) -> int:
    """Measure; returns 0 when every cell has been measured.

    `arguments`: `topology` (the model as JSON), `run_dir`, and optionally `lanes` (the part of the sweep's
    lanes to measure; a single one stands beside a direct lane of its own), `interference` (also measure each
    lane alone), `host` (facts of the machine around this kernel).
    """
    topology = Topology.model_validate(arguments["topology"])
    sweep = topology.sweep
    assert sweep is not None
    companies = list(plan_companies(sweep, arguments))
    launcher = Launcher(line)
    with ExitStack() as stack:
        writer = stack.enter_context(RunWriter(Path(arguments["run_dir"])))
        writer.describe(state="running", **_facts(topology, sweep, arguments))
        LOG_DIR.mkdir(parents=True, exist_ok=True)
        load = stack.enter_context(LoadProcess.start(log=LOG_DIR / "load.log"))
        schedulers = preload(sweep)
        launcher.stage("starting the load process")
        load.wait_ready()
        bench = Bench(
            load=load,
            writer=writer,
            launcher=launcher,
            rng=random.Random(f"{sweep.seed} {arguments.get('lanes')}"),  # noqa: S311 - an order, not a secret
            next_block_id=writer.next_block_id(),
            rounds=sweep.rounds,
            warmup_rounds=sweep.warmup_rounds,
            block_ns=sweep.block_ms * MS,
            budget=Budget(sweep.budget_s, sum(len(company.cells) for company in companies)),
        )
        for company in companies:
            measure_company(bench, topology, company, schedulers)
        writer.describe(
            state="complete", load_after=load_and_pressure(), measuring_s=round(bench.budget.spent_s, 1)
        )
    return 0


def plan_companies(sweep: Sweep, arguments: Mapping[str, Any]) -> Iterator[Company]:
    """Which lanes stand side by side, in the order in which they are measured."""
    wanted = tuple(arguments.get("lanes") or sweep.lanes())
    cells = tuple(CellKey(*cell) for cell in sweep.cells())
    if arguments.get("interference"):
        ends = {min(sweep.services), max(sweep.services)}
        first = cells[0]
        few = tuple(
            cell
            for cell in cells
            if cell.services in ends
            and (cell.endpoints, cell.traffic, cell.connections)
            == (first.endpoints, first.traffic, first.connections)
        )
        for lane in wanted:
            yield Company(lane, beside_direct(lane), few, extras=False)
    if len(wanted) == 1:
        yield Company(wanted[0], beside_direct(wanted[0]), cells, extras=True)
    else:
        yield Company("", wanted, cells, extras=True)


def beside_direct(lane: str) -> tuple[str, ...]:
    """The lane with the direct lane that its cost is counted from."""
    return (lane,) if lane == DIRECT else (DIRECT, lane)


def preload(sweep: Sweep) -> tuple[str, ...]:
    """Import once what is forked: proxies, control planes. Returns the schedulers of this kernel's IPVS."""
    from testbed.proxy.main import preload as preload_proxy

    for module in _FORKED:
        import_module(module)
    for mode in sweep.modes:
        preload_proxy(mode)
    if "ipvs" not in sweep.modes:
        return ()
    from testbed.proxy.ipvs.schedulers import available_schedulers

    return tuple(sorted(available_schedulers()))


def _facts(topology: Topology, sweep: Sweep, arguments: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "name": topology.name,
        "topology": arguments["topology"],
        "seed": sweep.seed,
        "lanes": list(sweep.lanes()),
        "isolated": len(arguments.get("lanes") or sweep.lanes()) < len(sweep.lanes()),
        "kernel": kernel_facts(),
        "clock": "wall",
        "versions": versions(),
        "machine": arguments.get("host", {}),
        "load_before": load_and_pressure(),
    }
