"""The gate in one boot of an emulated machine: it passes as things are, and fails on ten injected rules."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from testbed.gate.plan import INJECTED, MODES, PLAIN, TWIN
from testbed.kernel.qemu import QemuKernel
from testbed.results.format import BLOCKS_FILE
from testbed.results.run import read_run

ROOT = Path(__file__).parents[2]
TIMEOUT_S = 1500
"""One boot takes 100 s on two idle processors, and many times that beside the other tests."""


def command(*arguments: object, status: int) -> str:
    """Run the command from the repository, where the committed baseline is; its standard output."""
    done = subprocess.run(
        [sys.executable, "-m", "testbed", *map(str, arguments)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )
    assert done.returncode == status, done.stdout + done.stderr
    return done.stdout


def state_of(verdict: dict[str, Any], kind: str) -> str:
    (found,) = {check["state"] for check in verdict["checks"] if kind in check["name"]}
    return str(found)


def without_injected(run: Path, to: Path) -> Path:
    """The same run, had its plain lane been the one with ten rules more."""
    shutil.copytree(run, to)
    names = {INJECTED: PLAIN, PLAIN: INJECTED}
    blocks = [replace(one, lane=names.get(one.lane, one.lane)) for one in read_run(run).blocks]
    (to / BLOCKS_FILE).write_text("".join(json.dumps(one.to_json()) + "\n" for one in blocks))
    return to


def test_the_gate_holds_and_fails_on_ten_injected_rules(tmp_path: Path) -> None:
    lacking = QemuKernel().lacking(MODES)
    if lacking:
        pytest.skip(f"no emulated machine here: {next(iter(lacking.values())).remedy}")
    run, junit, comment = tmp_path / "run", tmp_path / "gate.xml", tmp_path / "gate.md"

    verdict = json.loads(
        command("gate", "--out", run, "--junit", junit, "--comment", comment, "--json", status=0)
    )

    assert state_of(verdict, "two plain lanes agree") == "passed"
    assert state_of(verdict, "ten injected rules are seen") == "passed"
    lanes = {block.lane for block in read_run(run).blocks if block.counts}
    assert lanes == {"direct", *MODES, TWIN, INJECTED}

    # What was compared with the committed baseline is the same; what was not is told wherever one looks.
    for name in MODES:
        state = state_of(verdict, f"{name} costs what it did")
        assert state in ("passed", "skipped")
        if state == "skipped":
            assert "another identity" in comment.read_text()
            assert int(ElementTree.parse(junit).getroot().get("skipped", "0")) > 0
    if not verdict["compared"]:
        command("gate", "--run", run, "--require-gate", status=1)

    # A baseline of this very machine, and plain iptables with ten rules more.
    kept = tmp_path / "kept"
    command("baseline", "refresh", "--run", run, "--baseline", kept, "--why", "a trial", status=0)
    command("gate", "--run", run, "--baseline", kept, "--require-gate", status=0)
    spoilt = without_injected(run, tmp_path / "spoilt")
    found = json.loads(command("gate", "--run", spoilt, "--baseline", kept, "--json", status=1))
    assert state_of(found, "iptables costs what it did") == "failed"
    assert state_of(found, "ipvs costs what it did") == "passed"
    assert state_of(found, "two plain lanes agree") == "failed"
