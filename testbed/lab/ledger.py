"""Draw up a cost ledger: boot the machine that counts, measure in it, keep and show what came.

Owns the results of a ledger on disk: ledger.json and the traces as recorded, ledger.md and account.json as
accounted.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from testbed.analysis.report import print_table, wide_console
from testbed.errors import BadResults, ProcessDied
from testbed.kernel import Job, choose
from testbed.lab.launch import RUNS, known_identity, make_run_dir
from testbed.lab.progress import Display
from testbed.lab.turn import Turn
from testbed.ledger import render
from testbed.ledger.account import Ledger, draw_up, trace_reader
from testbed.ledger.job import LEDGER_FILE
from testbed.spec import Topology
from testbed.spec.clock import INSTRUCTIONS

MODES = ("userspace", "iptables", "ipvs", "nftables")
RULES = 500
MARKDOWN_FILE = "ledger.md"
ACCOUNT_FILE = "account.json"
_ENTRY = "testbed.ledger.job:main"
_MEMORY_MB = 4096


@dataclass(frozen=True)
class LedgerOptions:
    """What is accounted for: `modes` beside direct, over `rounds` rounds; rules up to `rules` Services."""

    modes: Sequence[str] = MODES
    rounds: int = 5
    rules: int = RULES
    out: Path | None = None
    image: Path | None = None


def ledger_topology(modes: Sequence[str], rounds: int) -> Topology:
    """One Service with three endpoints on one node: all of them equally far away."""
    return Topology.model_validate(
        {
            "name": "ledger",
            "nodes": 1,
            "pods_per_node": 3,
            "services": [{"name": "web", "port": 80, "endpoints": 3}],
            "sweep": {
                "clock": INSTRUCTIONS,
                "modes": list(modes),
                "twin": None,
                "services": [1],
                "traffic": ["new-connection", "keepalive"],
                "rounds": rounds,
                "warmup_rounds": 1,
                "block_ms": 40,
            },
        }
    )


def run_ledger(options: LedgerOptions, display: Display) -> Path:
    """Measure and return the directory with what was recorded.

    Raises:
        MachineLacks: this machine cannot count instructions, or not in these modes.
        BadResults: the results directory cannot be written.
    """
    topology = ledger_topology(options.modes, options.rounds)
    kernel, reason = choose("auto", topology.kernel_modes, clock=INSTRUCTIONS, image=options.image)
    directory = make_run_dir(options.out or RUNS / f"{datetime.now():%Y%m%d-%H%M%S}-ledger", topology)
    display.show({"event": "note", "text": f"kernel: {kernel.name} ({reason})"})
    job = Job(
        entry=_ENTRY,
        arguments={
            "topology": topology.model_dump(mode="json"),
            "run_dir": str(directory),
            "rules": options.rules,
            "kernel": {"name": kernel.name, "image": str(options.image or "")},
            "identity": known_identity(kernel, INSTRUCTIONS),
        },
        writable=directory,
        modes=topology.kernel_modes,
        memory_mb=_MEMORY_MB,
        clock=INSTRUCTIONS,
    )
    with Turn(shared=True) as turn, kernel.start(job) as session:
        while (event := session.line.receive()) is not None:
            match event:
                case {"event": "lock"}:
                    turn.take(
                        lambda: display.show({"event": "note", "text": "waiting for another run to end"})
                    )
                    session.line.send({"locked": True})
                case {"event": "unlock"}:
                    turn.give()
                case _:
                    display.show(event)
        status = session.wait()
    if status != 0:
        raise ProcessDied("the ledger", status)
    return directory


def account(directory: Path) -> Ledger:
    """Account for what a directory holds, and write the tables beside it.

    Raises:
        BadResults: it holds no ledger that can be read, or cannot be written.
    """
    path = directory / LEDGER_FILE
    try:
        found = draw_up(json.loads(path.read_text(encoding="utf-8")), trace_reader(directory))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BadResults(f"{path}: is no readable ledger ({error!r})") from error
    for name, text in ((MARKDOWN_FILE, render.markdown(found)), (ACCOUNT_FILE, render.json_text(found))):
        try:
            (directory / name).write_text(text, encoding="utf-8")
        except OSError as error:
            raise BadResults(f"{directory / name}: cannot be written ({error.strerror})") from error
    return found


def show(found: Ledger, as_json: bool) -> None:
    """Print the tables, or everything as JSON."""
    if as_json:
        print(render.json_text(found), end="")
        return
    console = wide_console()
    for table in render.all_tables(found):
        print_table(table, console)
    for sentence in render.caption(found):
        console.print(sentence, style="dim", markup=False, highlight=False)
