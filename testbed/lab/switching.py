"""Switch a loaded node from mode to mode: choose a kernel, run the scenario in it, keep and show what came.

Owns the results of switches on disk: switch.json, switch.md, connections.csv and the noise of the host.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import product
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from testbed.errors import ProcessDied, UserError
from testbed.kernel import Job, Kernel, choose
from testbed.lab.launch import RUNS, machine_facts, make_run_dir
from testbed.lab.noise import NoiseRecorder
from testbed.lab.progress import Display
from testbed.lab.turn import Turn
from testbed.scenario.table import CAPTION, COLUMNS, cells, markdown, remarks, rows
from testbed.spec import Topology
from testbed.spec.fields import MODES

_ENTRY = "testbed.scenario.switch:main"
_MEMORY_MB = 3072
_WIDTH_WITHOUT_TERMINAL = 140


@dataclass(frozen=True)
class SwitchOptions:
    """Which switches: from each of `old` to each of `new`, `repeat` times; none named is every mode there is.

    `services` copies of the first Service stand beside it, and `rate_hz` connections a second go through it.
    """

    old: tuple[str, ...] = ()
    new: tuple[str, ...] = ()
    kernel: str = "auto"
    services: int = 100
    rate_hz: float = 100.0
    repeat: int = 3
    out: Path | None = None


def run_switches(topology: Topology, options: SwitchOptions, display: Display) -> Path:
    """Carry out the switches and return the directory with their results.

    Raises:
        UserError: the topology has no Service that the load could go through, or a number is none.
        MachineLacks: no kernel here has the modes.
        BadResults: the results directory cannot be written.
    """
    if not topology.services or not topology.services[0].proxied:
        raise UserError(
            f"topology {topology.name!r}: the load goes through the first Service, and no proxy serves it"
        )
    if options.services < 0 or options.rate_hz <= 0 or options.repeat < 1:
        raise UserError("--services must be 0 or more, --rate more than 0, --repeat 1 or more")
    kernel, reason, modes = _kernel_and_modes(topology, options)
    pairs = list(product(options.old or modes, options.new or modes))
    stamp = f"{datetime.now():%Y%m%d-%H%M%S}-{topology.name}-switch"
    run_dir = make_run_dir(options.out or RUNS / stamp, topology)
    display.show({"event": "note", "text": f"kernel: {kernel.name} ({reason})"})
    job = Job(
        entry=_ENTRY,
        arguments={
            "topology": topology.model_dump(mode="json"),
            "pairs": pairs,
            "repeat": options.repeat,
            "services": options.services,
            "rate_hz": options.rate_hz,
        },
        modes=frozenset(topology.kernel_mode(mode) for pair in pairs for mode in pair),
        memory_mb=_MEMORY_MB,
    )
    facts = {
        "name": topology.name,
        "kernel": kernel.name,
        "machine": machine_facts() | {"kernel_reason": reason},
        "services": options.services,
        "rate_hz": options.rate_hz,
        "pairs": pairs,
        "repeat": options.repeat,
    }
    with _Results(run_dir, facts) as results:
        _run(kernel, job, results, display)
    return run_dir


def _kernel_and_modes(topology: Topology, options: SwitchOptions) -> tuple[Kernel, str, tuple[str, ...]]:
    """The kernel, why it is that one, and all modes that it has, external proxies included."""
    named = [topology.kernel_mode(mode) for mode in (*options.old, *options.new)]
    if options.old and options.new:
        return *choose(options.kernel, named), ()
    kernel, reason = choose(options.kernel, named or ["iptables"])
    lacking = kernel.lacking(list(MODES))
    externals = [external.name for external in topology.proxy.external if external.mode not in lacking]
    return kernel, reason, (*(mode for mode in MODES if mode not in lacking), *externals)


def _run(kernel: Kernel, job: Job, results: _Results, display: Display) -> None:
    with Turn() as turn, NoiseRecorder(results.directory / "noise.csv"), kernel.start(job) as session:
        for note in session.notes:
            display.show({"event": "note", "text": note})
        while (event := session.line.receive()) is not None:
            match event:
                case {"event": "lock"}:
                    turn.take(
                        lambda: display.show({"event": "note", "text": "waiting for another run to end"})
                    )
                    session.line.send({"locked": True})
                case {"event": "unlock"}:
                    turn.give()
                case {"event": "switched"}:
                    results.add(event)
                case _:
                    display.show(event)
        status = session.wait()
    if status != 0:
        raise ProcessDied("the switches", status)


class _Results:
    """The files of one run of switches; each switch is on disk before the next begins."""

    def __init__(self, directory: Path, facts: dict[str, Any]) -> None:
        self.directory = directory
        self._facts = facts
        self._events: list[dict[str, Any]] = []

    def __enter__(self) -> _Results:
        self._file = (self.directory / "connections.csv").open("w", newline="")
        self._rows = csv.writer(self._file)
        self._rows.writerow(("from", "to", "repeat", "after_switch_us", "latency_us", "failure", "late_us"))
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def add(self, event: dict[str, Any]) -> None:
        """Keep what came of one switch."""
        switched_ns = event.pop("switched_ns", 0)
        for at_ns, latency_ns, failure, late_ns in event.pop("connections", ()):
            self._rows.writerow(
                (
                    event["old"],
                    event["new"],
                    event["repeat"],
                    (at_ns - switched_ns) // 1000,
                    latency_ns // 1000,
                    failure,
                    late_ns // 1000,
                )
            )
        self._file.flush()
        self._events.append(event)
        table = rows(self._events)
        document = {**self._facts, "table": table, "switches": self._events}
        (self.directory / "switch.json").write_text(json.dumps(document, indent=2) + "\n")
        (self.directory / "switch.md").write_text(markdown(table))


def read_switches(directory: Path) -> dict[str, Any]:
    """What `run_switches` has written. Raises UserError where there is nothing."""
    try:
        document: dict[str, Any] = json.loads((directory / "switch.json").read_text())
    except (OSError, ValueError) as error:
        raise UserError(f"{directory}: no switch came about ({error})") from error
    return document


def show_switches(table: Sequence[dict[str, Any]], console: Console | None = None) -> None:
    """Print the table, as wide as the terminal is."""
    console = console or Console()
    if not console.is_terminal:
        console.width = max(console.width, _WIDTH_WITHOUT_TERMINAL)
    shown = Table(title="Switches under load", title_justify="left")
    for number, column in enumerate(COLUMNS):
        shown.add_column(column, justify="left" if number < 2 else "right", no_wrap=number < 2)
    for row in table:
        shown.add_row(*cells(row))
    console.print(shown)
    for sentence in (CAPTION, *remarks(table)):
        console.print(Text(sentence, style="dim"))
