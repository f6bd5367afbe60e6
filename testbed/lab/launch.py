"""Start a measured run: choose a kernel, send the sweep into it, follow it to its end.

What is measured and how is the business of `testbed.bench`, which runs in the sandbox; this side owns
the results directory, the machine-wide turn to measure, and the record of the host's noise.
"""

from __future__ import annotations

import os
import platform
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from testbed.errors import BadResults, ProcessDied, UserError
from testbed.kernel import Job, Kernel, Session, choose
from testbed.lab.noise import NoiseRecorder
from testbed.lab.progress import Display
from testbed.lab.turn import Turn
from testbed.spec import Topology

RUNS = Path("results/runs")
_SWEEP = "testbed.bench.sweep:main"
# Five lanes of 10,000 Services need about 1.5 GB: control planes, proxies, and the rules themselves.
_MEMORY_MB = 4096


@dataclass(frozen=True)
class RunOptions:
    """How a sweep is run.

    `kernel` is auto, host or uml; `out` a new or empty directory; `isolate` gives each lane a boot of its
    own; `interference` measures each lane alone too, and so what the lanes do to each other.
    """

    kernel: str = "auto"
    out: Path | None = None
    isolate: bool = False
    interference: bool = False


def run_sweep(topology: Topology, options: RunOptions, display: Display) -> Path:
    """Measure the topology's sweep and return the directory that holds its results.

    Raises:
        UserError: the topology has no sweep.
        MachineLacks: no kernel here has every mode of the sweep.
        BadResults: the results directory cannot be written.
    """
    if topology.sweep is None:
        raise UserError(f"topology {topology.name!r} has no `sweep`: there is nothing to measure")
    kernel, reason = choose(options.kernel, set(topology.sweep.modes))
    run_dir = make_run_dir(options.out, topology)
    display.show({"event": "note", "text": f"kernel: {kernel.name} ({reason})"})
    lanes = topology.sweep.lanes()
    for part in [[lane] for lane in lanes] if options.isolate else [list(lanes)]:
        arguments = {
            "topology": topology.model_dump(mode="json"),
            "run_dir": str(run_dir),
            "lanes": part,
            "interference": options.interference,
            "host": machine_facts() | {"kernel_reason": reason},
        }
        modes = frozenset(topology.sweep.modes)
        job = Job(entry=_SWEEP, arguments=arguments, writable=run_dir, modes=modes, memory_mb=_MEMORY_MB)
        _run_job(kernel, job, run_dir, display)
    return run_dir


def make_run_dir(out: Path | None, topology: Topology) -> Path:
    """Create the directory of a run: `out`, or one named by the time under `results/runs`.

    Raises:
        BadResults: it cannot be created, or holds another run already.
    """
    path = out or RUNS / f"{datetime.now():%Y%m%d-%H%M%S}-{topology.name}"
    try:
        path.mkdir(parents=True, exist_ok=True)
        occupied = any(path.iterdir())
    except OSError as error:
        raise BadResults(
            f"{path}: {error.strerror}: name a directory that can be written with --out"
        ) from error
    if occupied:
        raise BadResults(f"{path} is not empty: name a new directory with --out, runs are never overwritten")
    if not os.access(path, os.W_OK):
        raise BadResults(f"{path} cannot be written: name another directory with --out")
    return path.resolve()


def machine_facts() -> dict[str, Any]:
    """What a reader of the results wants to know of the machine around the kernel under test."""
    return {
        "release": platform.release(),
        "machine": platform.machine(),
        "cpus": os.cpu_count(),
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "root": os.geteuid() == 0,
    }


def _run_job(kernel: Kernel, job: Job, run_dir: Path, display: Display) -> None:
    with Turn() as turn, NoiseRecorder(run_dir / "noise.csv"), kernel.start(job) as session:
        for note in session.notes:
            display.show({"event": "note", "text": note})
        _follow(session, turn, display)
        status = session.wait()
    if status != 0:
        raise ProcessDied("the run", status)


def _follow(session: Session, turn: Turn, display: Display) -> None:
    """Show what the run says, and give it its turn to measure when it asks."""

    def on_wait() -> None:
        display.show({"event": "note", "text": "waiting: another run on this machine is measuring"})

    while (event := session.line.receive()) is not None:
        match event:
            case {"event": "lock"}:
                turn.take(on_wait)
                session.line.send({"locked": True})
            case {"event": "unlock"}:
                turn.give()
            case _:
                display.show(event)
