"""The verbs of the command line, in the order of work: doctor, up, run, report (and `proxy`).

Exit statuses: 0 fine, 1 the gate failed, 2 the user can put it right, 3 the work failed, 130 interrupted.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.rich_utils import rich_format_error

from testbed.errors import TestbedError, UserError
from testbed.spec.clock import Clock

INTERRUPTED = 130

app = typer.Typer(
    name="testbed",
    help="A laboratory and benchmark harness for the modes of kube-proxy.",
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

TopologyFile = Annotated[Path, typer.Argument(help="A topology (YAML) or a Kubernetes manifest.")]
KernelName = Annotated[
    str,
    typer.Option("--kernel", help="auto, host, uml (user-mode Linux) or qemu (any distribution's kernel)."),
]
KernelImage = Annotated[
    Path | None,
    typer.Option("--kernel-image", help="Linux to boot in QEMU, such as /boot/vmlinuz-6.1.0-18-amd64."),
]
ClockName = Annotated[
    Clock | None,
    typer.Option("--clock", help="wall, or instructions: counted in an emulated CPU, the same everywhere."),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")]


@app.command()
def doctor(clock: ClockName = None, as_json: AsJson = False) -> None:
    """Say what this machine can do, kernel by kernel and mode by mode, and how to get the rest.

    With --clock instructions: boot the emulated machine, try it out, and count a few fixed operations.
    """
    from rich.console import Console

    from testbed.lab.doctor import examine, render

    findings = examine(clock or "wall")
    if as_json:
        print(json.dumps(findings, indent=2))
    else:
        render(findings, Console())


@app.command()
def up(
    topology: TopologyFile,
    mode: Annotated[str, typer.Option(help="userspace, iptables, ipvs or nftables.")] = "iptables",
    kernel: KernelName = "auto",
    command: Annotated[
        list[str] | None,
        typer.Option("-c", help="Run `NAME COMMAND...` on a pod or node and leave; may be repeated."),
    ] = None,
) -> int:
    """Build the cluster and give a prompt in it, or run commands with -c.

    Example: testbed up topologies/lab.yaml --mode ipvs -c "client curl -s http://web"
    """
    from testbed.lab.cluster import Cluster
    from testbed.lab.shell import interact, run_commands
    from testbed.spec import load_topology

    loaded = load_topology(topology)
    for note in loaded.passed_over:
        print(note, file=sys.stderr)
    with Cluster(loaded, mode=mode, kernel=kernel, tell=_say) as lab:
        for note in (f"kernel: {lab.kernel}", *lab.notes):
            print(note, file=sys.stderr)
        return run_commands(lab, command) if command else interact(lab)


@app.command()
def run(
    topology: TopologyFile,
    kernel: KernelName = "auto",
    kernel_image: KernelImage = None,
    clock: ClockName = None,
    seed: Annotated[int | None, typer.Option(help="Seed of every random order.")] = None,
    rounds: Annotated[int | None, typer.Option(help="Measured rounds of each cell.")] = None,
    budget: Annotated[str | None, typer.Option(help="Time for measuring, such as 240s or 5m.")] = None,
    out: Annotated[Path | None, typer.Option(help="Directory for the results, new or empty.")] = None,
    isolate: Annotated[bool, typer.Option("--isolate", help="Give every lane a boot of its own.")] = False,
    interference: Annotated[
        bool,
        typer.Option("--interference", help="Measure each lane alone too, for what lanes do to each other."),
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Measure a topology's sweep, all modes side by side, and print the comparison.

    Example: testbed run topologies/quickstart.yaml --kernel uml --rounds 9
    By instructions: testbed run topologies/instructions.yaml --clock instructions
    """
    from rich.console import Console

    from testbed.lab.launch import RunOptions, run_sweep
    from testbed.lab.progress import Quiet, display_for
    from testbed.spec import load_topology

    kernels = [str(kernel_image.absolute())] if kernel_image else None
    changes = {"seed": seed, "rounds": rounds, "budget": budget, "clock": clock, "kernels": kernels}
    sweep = load_topology(topology).with_sweep(
        {key: value for key, value in changes.items() if value is not None}
    )
    options = RunOptions(kernel=kernel, out=out, isolate=isolate, interference=interference)
    with Quiet() if as_json else display_for(Console(stderr=True)) as display:
        run_dir = run_sweep(sweep, options, display)
    show_report(run_dir, as_json)


@app.command()
def report(
    run_dir: Annotated[Path, typer.Argument(help="The directory of a run.")], as_json: AsJson = False
) -> None:
    """Compute the tables of a run again from its samples, write them beside it and print them."""
    show_report(run_dir, as_json)


@app.command()
def switch(
    topology: TopologyFile,
    old: Annotated[list[str] | None, typer.Option("--from", help="A mode; may be repeated.")] = None,
    new: Annotated[list[str] | None, typer.Option("--to", help="A mode; may be repeated.")] = None,
    kernel: KernelName = "auto",
    services: Annotated[int, typer.Option(help="Further Services that stand beside the loaded one.")] = 100,
    rate: Annotated[float, typer.Option(help="New connections a second.")] = 100.0,
    repeat: Annotated[int, typer.Option(help="How often each pair is switched.")] = 3,
    out: Annotated[Path | None, typer.Option(help="Directory for the results, new or empty.")] = None,
    as_json: AsJson = False,
) -> None:
    """Switch a loaded node from mode to mode and count the connections that suffer.

    Every pair of modes that the kernel has, unless --from or --to name some.
    Example: testbed switch topologies/lab.yaml --from ipvs --to iptables
    """
    from rich.console import Console

    from testbed.lab.progress import Quiet, display_for
    from testbed.lab.switching import SwitchOptions, read_switches, run_switches, show_switches
    from testbed.spec import load_topology

    options = SwitchOptions(tuple(old or ()), tuple(new or ()), kernel, services, rate, repeat, out)
    loaded = load_topology(topology)
    with Quiet() if as_json else display_for(Console(stderr=True)) as display:
        document = read_switches(run_switches(loaded, options, display))
    if as_json:
        print(json.dumps(document, indent=2))
    else:
        show_switches(document["table"])


BaselineDirectory = Annotated[
    Path | None,
    typer.Option("--baseline", help="Directory of the baseline; results/reference/qemu-instructions."),
]
MeasuredRun = Annotated[
    Path | None, typer.Option("--run", help="Take a run of the gate that is there, instead of measuring one.")
]


@app.command()
def gate(
    baseline: BaselineDirectory = None,
    measured: MeasuredRun = None,
    out: Annotated[Path | None, typer.Option(help="Directory for the results, new or empty.")] = None,
    require_gate: Annotated[
        bool, typer.Option("--require-gate", help="Fail if nothing can be compared with the baseline.")
    ] = False,
    junit: Annotated[Path | None, typer.Option(help="File for a JUnit report.")] = None,
    comment: Annotated[Path | None, typer.Option(help="File for a comment in Markdown.")] = None,
    seed: Annotated[int, typer.Option(help="Seed of every random order.")] = 1,
    as_json: AsJson = False,
) -> int:
    """Fail if a connection costs more or fewer instructions than the baseline says, in any mode.

    Two plain lanes must agree and ten injected rules must be seen, else the measurement itself is no good.
    Exit status 1 where the gate fails.
    """
    from rich.console import Console

    from testbed.gate.baseline import DIRECTORY
    from testbed.lab.gating import GATE_FAILED, GateOptions, hold_gate, show
    from testbed.lab.progress import Quiet, display_for

    options = GateOptions(baseline or DIRECTORY, measured, out, require_gate, junit, comment, seed)
    with Quiet() if as_json else display_for(Console(stderr=True)) as display:
        verdict = hold_gate(options, display)
    show(verdict, as_json)
    return GATE_FAILED if verdict.failed else 0


@app.command()
def ledger(
    mode: Annotated[list[str] | None, typer.Option(help="A mode beside direct; may be repeated.")] = None,
    rounds: Annotated[int, typer.Option(min=3, help="Rounds of the pass without tracing.")] = 5,
    rules: Annotated[int, typer.Option(min=2, help="Services up to which the slope over rules goes.")] = 500,
    kernel_image: KernelImage = None,
    measured: Annotated[
        Path | None, typer.Option("--run", help="Account for a ledger that is there, instead of measuring.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Directory for the results, new or empty.")] = None,
    as_json: AsJson = False,
) -> None:
    """Say where the instructions of a connection and of a request go: processes, phases of the kernel.

    Measured by the instruction clock, mode beside mode; the rows add up to the measured total.
    """
    from rich.console import Console

    from testbed.lab.ledger import MODES, LedgerOptions, account, run_ledger, show
    from testbed.lab.progress import Quiet, display_for

    options = LedgerOptions(tuple(mode or MODES), rounds, rules, out, kernel_image)
    if measured is None:
        with Quiet() if as_json else display_for(Console(stderr=True)) as display:
            measured = run_ledger(options, display)
    show(account(measured), as_json)


baseline_app = typer.Typer(
    name="baseline", help="What a connection costs in each mode.", no_args_is_help=True
)
app.add_typer(baseline_app)


@baseline_app.command()
def refresh(
    why: Annotated[str, typer.Option(help="What made the costs change; it is stored with them.")],
    baseline: BaselineDirectory = None,
    measured: MeasuredRun = None,
    out: Annotated[Path | None, typer.Option(help="Directory for the results, new or empty.")] = None,
) -> None:
    """Measure anew, show old and new costs side by side, and keep the new ones with the reason."""
    from rich.console import Console

    from testbed.gate.baseline import DIRECTORY
    from testbed.lab.gating import GateOptions, refresh_baseline
    from testbed.lab.progress import display_for

    with display_for(Console(stderr=True)) as display:
        path = refresh_baseline(GateOptions(baseline or DIRECTORY, measured, out), why, display, print)
    print(f"written: {path}")


@app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
def proxy() -> None:
    """Run one node's proxy with kube-proxy's own flags (`testbed proxy --help`)."""


def _say(text: str) -> None:
    print(text, file=sys.stderr)


def show_report(run_dir: Path, as_json: bool) -> None:
    """Write table.md, table.csv and table.json into the run's directory, and print the tables."""
    from testbed.analysis.report import write_tables

    tables = write_tables(run_dir)
    if as_json:
        print(tables.json_text())
    else:
        tables.print()


def main(arguments: Sequence[str]) -> int:
    """Run one verb; every expected error becomes one clear message and its exit status."""
    try:
        status: Any = app(list(arguments), standalone_mode=False)
    except (KeyboardInterrupt, typer.Abort):
        print("interrupted", file=sys.stderr)
        return INTERRUPTED
    except TestbedError as error:
        print(error, file=sys.stderr)
        return error.exit_status
    except typer.TyperException as error:
        rich_format_error(error)  # type: ignore[arg-type]  # every one that reaches us is a usage error
        return UserError.exit_status
    return status if isinstance(status, int) else 0
