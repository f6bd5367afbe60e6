"""Start a measured run: choose a kernel, send the sweep into it, follow it to its end.

What is measured and how is the business of `testbed.bench`, which runs in the sandbox; this side owns
the results directory, the machine-wide turn to measure, and the record of the host's noise.
"""

from __future__ import annotations

import os
import platform
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from testbed.errors import BadResults, ProcessDied, UserError
from testbed.kernel import Job, Kernel, Session, choose
from testbed.kernel.qemu import QemuKernel
from testbed.lab.account import Account
from testbed.lab.identity import software_identity
from testbed.lab.noise import NoiseRecorder
from testbed.lab.progress import Display
from testbed.lab.turn import Turn
from testbed.results.identity import Identity
from testbed.results.writer import describe
from testbed.spec import Sweep, Topology
from testbed.spec.clock import INSTRUCTIONS, Clock

RUNS = Path("results/runs")
_SWEEP = "testbed.bench.sweep:main"
# Five lanes of 10,000 Services need about 1.5 GB: control planes, proxies, and the rules themselves.
_MEMORY_MB = 4096


@dataclass(frozen=True)
class RunOptions:
    """How a sweep is run.

    `kernel` is auto or the name of one; `out` a new or empty directory; `isolate` gives each lane a boot of
    its own; `interference` measures each lane alone too, and so what the lanes do to each other;
    `further_lanes` stand beside those of the sweep.
    """

    kernel: str = "auto"
    out: Path | None = None
    isolate: bool = False
    interference: bool = False
    further_lanes: tuple[str, ...] = ()


def run_sweep(topology: Topology, options: RunOptions, display: Display) -> Path:
    """Measure the topology's sweep and return the directory that holds its results.

    Raises:
        UserError: the topology has no sweep.
        MachineLacks: no kernel here has every mode of the sweep, or counts instructions if they are wanted.
        BadResults: the results directory cannot be written.
    """
    if topology.sweep is None:
        raise UserError(f"topology {topology.name!r} has no `sweep`: there is nothing to measure")
    boots = _choose_kernels(topology, topology.sweep, options)
    run_dir = make_run_dir(options.out, topology)
    account = Account()
    for boot in boots:
        display.show({"event": "note", "text": f"kernel: {boot}"})
        lanes = (*topology.sweep.lanes(), *options.further_lanes)
        for part in [[lane] for lane in lanes] if options.isolate else [list(lanes)]:
            job = _make_job(topology, boot, run_dir, part, options)
            _run_job(boot.kernel, job, run_dir, display, account)
            describe(run_dir, stages=account.stages())
    return run_dir


@dataclass(frozen=True)
class _Boot:
    """A kernel to measure in, why it was chosen, and the image that the user named, if any."""

    kernel: Kernel
    reason: str
    image: Path | None

    def __str__(self) -> str:
        return " ".join([self.kernel.name, *([str(self.image)] if self.image else []), f"({self.reason})"])


def _choose_kernels(topology: Topology, sweep: Sweep, options: RunOptions) -> list[_Boot]:
    """Every kernel of the run, before the first is booted."""
    images: list[Path | None] = [Path(image) for image in sweep.kernels]
    return [
        _Boot(*choose(options.kernel, topology.kernel_modes, clock=sweep.clock, image=image), image)
        for image in images or [None]
    ]


def _make_job(
    topology: Topology, boot: _Boot, run_dir: Path, lanes: Sequence[str], options: RunOptions
) -> Job:
    sweep = topology.sweep
    assert sweep is not None
    return Job(
        entry=_SWEEP,
        arguments={
            "topology": topology.model_dump(mode="json"),
            "run_dir": str(run_dir),
            "lanes": list(lanes),
            "interference": options.interference,
            "host": machine_facts() | {"kernel_reason": boot.reason},
            "kernel": {"name": boot.kernel.name, "image": str(boot.image or "")},
            "identity": known_identity(boot.kernel, sweep.clock),
        },
        writable=run_dir,
        modes=topology.kernel_modes,
        memory_mb=_MEMORY_MB,
        clock=sweep.clock,
    )


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


def known_identity(kernel: Kernel, clock: Clock) -> dict[str, Any]:
    """What this run's counts depend on, as far as it can be seen from outside of the kernel."""
    path = kernel.identity(clock) if isinstance(kernel, QemuKernel) else {"kernel": kernel.name}
    return Identity(kernel_path=path, full=software_identity()).to_json()


def _run_job(kernel: Kernel, job: Job, run_dir: Path, display: Display, account: Account) -> None:
    by_instructions = job.clock == INSTRUCTIONS
    with ExitStack() as stack:
        # Two runs that count instructions do not disturb each other, but both disturb one that takes time.
        turn = stack.enter_context(Turn(shared=by_instructions))
        if not by_instructions:
            stack.enter_context(NoiseRecorder(run_dir / "noise.csv"))
        account.enter("booting")
        session = stack.enter_context(kernel.start(job))
        for note in session.notes:
            display.show({"event": "note", "text": note})
        _follow(session, turn, display, account)
        status = session.wait()
    account.leave()
    if status != 0:
        raise ProcessDied("the run", status)


def _follow(session: Session, turn: Turn, display: Display, account: Account) -> None:
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
                account.hear(event)
                display.show(event)
