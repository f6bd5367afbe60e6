"""The job's entry: measure what the ledger is drawn up from. Runs in the guest.

Owns the course: lanes, plain rounds with each process's account, the same load traced, then rules, a hop and
bytes. Writes `ledger.json` and one trace a lane and kind of traffic; must not add anything up.
"""

from __future__ import annotations

import json
import random
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from testbed.bench.facts import kernel_facts, versions
from testbed.bench.lane import DIRECT, Lane
from testbed.bench.launcher import Launcher, Wire
from testbed.bench.meters import process_cpu_ns
from testbed.bench.probe import Target
from testbed.bench.sweep import LOG_DIR, preload, take_turns
from testbed.ledger.payload import time_echoes
from testbed.ledger.phases import PHASES
from testbed.ledger.tracing import Tracer, calibrate
from testbed.load.block import MS, Block, BlockResult
from testbed.load.control import LoadProcess
from testbed.spec import Topology
from testbed.spec.clock import INSTRUCTIONS

LEDGER_FILE = "ledger.json"
TRACED_BLOCK_NS = 12 * MS
WARM_UP_NS = 2 * MS
HOP_BLOCK_NS = 8 * MS
_TIMEOUT_NS = 1000 * MS


@dataclass
class _Desk:
    """What all steps share."""

    load: LoadProcess
    launcher: Launcher
    rng: random.Random
    directory: Path
    topology: Topology
    written: dict[str, Any] = field(default_factory=dict)
    _last_block: int = 0

    def play(self, lane: Lane, traffic: str, duration_ns: int, targets: Sequence[Target] = ()) -> BlockResult:
        """One block of load on a lane, on its own targets unless others are given."""
        self._last_block += 1
        block = Block(
            id=self._last_block,
            namespace=lane.client.path,
            user=traffic,
            targets=tuple(one.address for one in targets or lane.targets(traffic)[0]),
            duration_ns=duration_ns,
            seed=self.rng.getrandbits(32),
            timeout_ns=_TIMEOUT_NS,
            drain=True,
        )
        return self.load.run(block)

    def write(self, **facts: Any) -> None:
        self.written |= facts
        (self.directory / LEDGER_FILE).write_text(json.dumps(self.written, indent=1) + "\n")


def main(arguments: Mapping[str, Any], line: Wire) -> int:
    """Measure; returns 0 when everything has been written.

    `arguments`: `topology` (the model as JSON, with the sweep whose lanes are measured), `run_dir`, `rules`
    (how many Services the slope over rules goes up to), `kernel`, `identity`.
    """
    topology = Topology.model_validate(arguments["topology"])
    sweep = topology.sweep
    assert sweep is not None
    launcher = Launcher(line)
    take_turns()
    LOG_DIR.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        launcher.stage("importing")
        load = stack.enter_context(LoadProcess.start(log=LOG_DIR / "load.log"))
        preload(sweep)
        load.wait_ready()
        rng = random.Random(sweep.seed)  # noqa: S311 - an order, not a secret
        desk = _Desk(load, launcher, rng, Path(arguments["run_dir"]), topology)
        desk.write(
            state="running",
            clock=INSTRUCTIONS,
            kernel=kernel_facts(arguments.get("kernel") or {}),
            identity=arguments.get("identity") or {},
            versions=versions(),
            topology=arguments["topology"],
        )
        with launcher.turn():
            _measure(desk, int(arguments["rules"]))
        desk.write(state="complete")
    return 0


def _measure(desk: _Desk, rules: int) -> None:
    sweep = desk.topology.sweep
    assert sweep is not None
    with ExitStack() as stack:
        lanes: list[Lane] = []
        for name in sweep.lanes():
            desk.launcher.stage(f"building and starting lane {name}")
            lane = Lane(desk.topology, name, sweep.endpoints[0], "ledger", INSTRUCTIONS)
            lanes.append(stack.enter_context(lane))
            lane.start(1)
        desk.write(blocks=_plain_rounds(desk, lanes, sweep.traffic, sweep.rounds, sweep.warmup_rounds))
        _trace(desk, lanes, sweep.traffic)
        desk.launcher.stage("bytes")
        direct = next(lane for lane in lanes if lane.mode == DIRECT)
        address = direct.targets("keepalive")[0][0].address
        desk.write(echoes=direct.client.run(time_echoes, address))
        desk.launcher.stage(f"iptables: starting with {rules:,} Services")
        ruled = [lane for lane in lanes if lane.name in (DIRECT, "iptables")]
        for lane in ruled:
            lane.start(rules)
        desk.write(rules=_plain_rounds(desk, ruled, ("new-connection",), sweep.rounds, 1))
    desk.write(hops=_hop_rounds(desk, sweep.rounds))


def _plain_rounds(
    desk: _Desk, lanes: Sequence[Lane], traffic: Sequence[str], rounds: int, warmup: int
) -> list[dict[str, Any]]:
    """Every lane in every round once a kind of traffic, with what each process used meanwhile."""
    found = []
    for kind in traffic:
        for number in range(1 - warmup, rounds + 1):
            desk.launcher.progress(kind, number, rounds, left_s=float("inf"), done=max(number, 0) / rounds)
            for lane in desk.rng.sample(lanes, len(lanes)):
                block = _block(desk, lane, kind, number)
                if number >= 1:
                    found.append(block)
    return found


def _block(desk: _Desk, lane: Lane, traffic: str, number: int) -> dict[str, Any]:
    pids = lane.cluster.pids()
    before = {name: process_cpu_ns(pid) for name, pid in pids.items()}
    sweep = desk.topology.sweep
    assert sweep is not None
    result = desk.play(lane, traffic, sweep.block_ms * MS)
    after = {name: process_cpu_ns(pid) for name, pid in pids.items()}
    lane.check_alive()
    return {
        "lane": lane.name,
        "traffic": traffic,
        "round": number,
        "positions": lane.targets(traffic)[1],
        "used_ns": {name: (after[name] or 0) - (before[name] or 0) for name in pids},
        **_facts(result),
    }


def _trace(desk: _Desk, lanes: Sequence[Lane], traffic: Sequence[str]) -> None:
    """Trace a short block of each lane; a kernel without the tracer leaves the phases out, and says so."""
    desk.launcher.stage("tracing")
    tracer = Tracer()
    try:
        tracer.prepare(name for names in PHASES.values() for name in names)
    except OSError as error:
        desk.launcher.note(f"the kernel's phases are left out: it has no function graph tracer ({error})")
        desk.write(no_tracer=str(error))
        return
    per_call, trace = calibrate(tracer, desk.directory)
    traced = []
    for kind in traffic:
        for lane in lanes:
            desk.play(lane, kind, WARM_UP_NS)
            with tracer.on():
                result = desk.play(lane, kind, TRACED_BLOCK_NS)
            path = desk.directory / f"trace-{lane.name}-{kind}.txt"
            tracer.save(path)
            traced.append(
                {
                    "lane": lane.name,
                    "traffic": kind,
                    "trace": path.name,
                    "threads": {
                        name: sorted(int(path.name) for path in Path(f"/proc/{pid}/task").iterdir())
                        for name, pid in {"client": desk.load.pid, **lane.cluster.pids()}.items()
                    },
                    **_facts(result),
                }
            )
    tracer.close()
    desk.write(traced=traced, absent=tracer.absent, calibration={"per_call": per_call, "trace": trace.name})


def _hop_rounds(desk: _Desk, rounds: int) -> list[dict[str, Any]]:
    """Direct lanes of two nodes, whose endpoints are on the client's own node and on the other one."""
    desk.launcher.stage("a hop")
    topology = desk.topology.model_copy(update={"nodes": 2, "pods_per_node": 2})
    with Lane(topology, DIRECT, 3, "hop", INSTRUCTIONS) as lane:
        lane.start(1)
        nodes = {pod.address: pod.spec.node for pod in lane.cluster.plan.pods}
        own = lane.cluster.plan.nodes[0].name
        targets = lane.targets("new-connection")[0]
        found = []
        for kind in ("new-connection", "keepalive"):
            for number in range(rounds + 1):
                facts = _facts(desk.play(lane, kind, HOP_BLOCK_NS, targets))
                local = [nodes[target.host] == own for target in targets]
                if number:
                    found.append({"traffic": kind, "round": number, "local": local, **facts})
    return found


def _facts(result: BlockResult) -> dict[str, Any]:
    return {
        "window_ns": result.ended_ns - result.started_ns,
        "requests": result.requests,
        "errors": dict(result.errors),
        "client_ns": result.client_cpu_ns,
        "idle_ns": result.idle_ns,
        "timer_interrupts": result.timer_interrupts,
        "targets": [asdict(target) for target in result.targets],
    }
