"""The job's entry: measure a topology's sweep and write the results.

Owns the course of a whole run, from its arguments to its last fact. Runs in a sandbox or in a guest.
"""

from __future__ import annotations

import math
import os
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
from testbed.kernel.calibration import measure
from testbed.load.block import MS
from testbed.load.control import LoadProcess
from testbed.results.format import CellKey
from testbed.results.identity import CALIBRATION, Identity
from testbed.results.writer import RunWriter
from testbed.spec import Sweep, Topology
from testbed.spec.clock import INSTRUCTIONS

LOG_DIR = Path("/run/testbed")
_FORKED = ("testbed.cluster.apiserver", "aiohttp.web")

LEFT_OUT = (
    "by the instruction clock only load is measured: how endpoints are balanced and how soon one more "
    "Service answers are left out, since every wait has to be executed"
)


def main(arguments: Mapping[str, Any], line: Wire) -> int:
    """Measure; returns 0 when every cell has been measured.

    `arguments`: `topology` (the model as JSON), `run_dir`, and optionally `lanes` (the part of the sweep's
    lanes to measure; a single one stands beside a direct lane of its own), `interference` (also measure each
    lane alone), `host` (facts of the machine around this kernel), `kernel` (the name of this kernel, the
    image it was booted from, and whether there are several), `identity` (what the launcher knows of it).
    """
    topology = Topology.model_validate(arguments["topology"])
    sweep = topology.sweep
    assert sweep is not None
    by_instructions = sweep.clock == INSTRUCTIONS
    launcher = Launcher(line)
    if by_instructions:
        take_turns()
    with ExitStack() as stack:
        writer = stack.enter_context(RunWriter(Path(arguments["run_dir"])))
        found = kernel_facts(arguments.get("kernel") or {})
        label = label_kernel(writer.described(), found)
        companies = list(plan_companies(sweep, arguments, label if sweep.kernels[1:] else ""))
        writer.describe(state="running", **_facts(topology, sweep, arguments))
        calibrated = calibrate() if by_instructions else {}
        writer.describe(**_kernel_entries(writer.described(), label, found, arguments, calibrated))
        LOG_DIR.mkdir(parents=True, exist_ok=True)
        launcher.stage("importing")
        load = stack.enter_context(LoadProcess.start(log=LOG_DIR / "load.log"))
        schedulers = preload(sweep)
        launcher.stage("starting the load process")
        load.wait_ready()
        if by_instructions:
            launcher.note(LEFT_OUT)
        bench = Bench(
            load=load,
            writer=writer,
            launcher=launcher,
            rng=random.Random(f"{sweep.seed} {arguments.get('lanes')}"),  # noqa: S311 - an order, not a secret
            next_block_id=writer.next_block_id(),
            rounds=sweep.rounds,
            warmup_rounds=sweep.warmup_rounds,
            block_ns=sweep.block_ms * MS,
            budget=Budget(
                math.inf if by_instructions else sweep.budget_s,
                sum(len(company.cells) for company in companies),
            ),
            clock=sweep.clock,
        )
        for company in companies:
            measure_company(bench, topology, company, schedulers)
        spent = (
            {"measuring_instr": round(bench.budget.spent_s * 1e9)}
            if by_instructions
            else {"measuring_s": round(bench.budget.spent_s, 1)}
        )
        writer.describe(state="complete", load_after=load_and_pressure(), **spent)
    return 0


def take_turns() -> None:
    """Let this process and all that it will start run until they wait, whoever they have woken.

    Who preempts whom depends on what each has run before, and moves 3,000 instructions into or out of a
    request (sched(7), SCHED_BATCH: a process that wakes does not preempt).
    """
    os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))


def plan_companies(sweep: Sweep, arguments: Mapping[str, Any], kernel: str = "") -> Iterator[Company]:
    """Which lanes stand side by side, in the order in which they are measured."""
    wanted = tuple(arguments.get("lanes") or sweep.lanes())
    cells = tuple(CellKey(*cell, kernel) for cell in sweep.cells())
    extras = sweep.clock != INSTRUCTIONS
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
        yield Company(wanted[0], beside_direct(wanted[0]), cells, extras=extras)
    else:
        yield Company("", wanted, cells, extras=extras)


def label_kernel(described: Mapping[str, Any], found: Mapping[str, Any]) -> str:
    """What a kernel is called in this run: its release, with the image's name if it is another's too."""
    known = described.get("kernels", {}).get(found["release"])
    if known is None or known.get("image") == found.get("image"):
        return str(found["release"])
    return f"{found['release']} ({Path(str(found.get('image'))).name})"


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


def calibrate() -> dict[str, str]:
    """What a few fixed loops cost by this clock, as facts of an identity; before anything else runs."""
    return {f"{CALIBRATION}{name}": str(cost) for name, cost in measure().items()}


def _kernel_entries(
    described: Mapping[str, Any],
    label: str,
    found: Mapping[str, Any],
    arguments: Mapping[str, Any],
    calibrated: Mapping[str, str],
) -> dict[str, Any]:
    """The facts about this kernel beside those of the kernels that were booted before it."""
    entries: dict[str, Any] = {
        "kernel": found,
        "kernels": {**described.get("kernels", {}), label: found},
    }
    if told := arguments.get("identity"):
        identity = Identity.from_json(told)
        identity = Identity(identity.kernel_path, {**identity.full, **calibrated})
        entries["identity"] = {**described.get("identity", {}), label: identity.to_json()}
    return entries


def _facts(topology: Topology, sweep: Sweep, arguments: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "name": topology.name,
        "topology": arguments["topology"],
        "seed": sweep.seed,
        "lanes": list(sweep.lanes()),
        "isolated": len(arguments.get("lanes") or sweep.lanes()) < len(sweep.lanes()),
        "clock": sweep.clock,
        "versions": versions(),
        "machine": arguments.get("host", {}),
        "load_before": load_and_pressure(),
    }
