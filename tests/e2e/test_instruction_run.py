"""A run by the instruction clock: twins agree, rules are counted, and nothing is called a time."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from typing import Any

import pytest

from testbed.results.identity import identities, incomparable
from testbed.results.run import Run, read_run

pytestmark = pytest.mark.validate

TOPOLOGY = """\
name: counted
nodes: 1
pods_per_node: 3
services:
  - {name: web, port: 80, endpoints: 3}
sweep:
  clock: instructions
  modes: [iptables, ipvs]
  services: [1, 100]
  traffic: [new-connection]
  rounds: 9
  warmup_rounds: 1
  block_ms: 8
"""


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    directory = tmp_path_factory.mktemp("counted")
    topology = directory / "counted.yaml"
    topology.write_text(TOPOLOGY)
    command = [sys.executable, "-m", "testbed", "run", str(topology), "--out", str(directory / "run")]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return read_run(directory / "run")


def effect(run: Run, lane: str, services: int) -> dict[str, Any]:
    found = json.loads((run.directory / "table.json").read_text())
    return next(
        one for one in found["effects"] if one["lane"] == lane and one["cell"]["services"] == services
    )


def test_the_run_is_complete_and_no_block_idled(run: Run) -> None:
    assert run.complete
    assert {block.status for block in run.blocks} == {"ok"}
    assert all(block.idle_ns is not None and block.timer_interrupts is not None for block in run.blocks)


def test_identical_lanes_agree_within_half_a_percent(run: Run) -> None:
    for services in (1, 100):
        lanes = [effect(run, lane, services) for lane in ("iptables", "iptables-twin")]
        one, other = (lane["first_byte_kinstr"]["value"] for lane in lanes)
        assert abs(one / other - 1) < 0.005


def test_a_hundred_services_cost_iptables_rules_and_ipvs_nothing(run: Run) -> None:
    added = {
        lane: effect(run, lane, 100)["last_cost_kinstr"]["value"]
        - effect(run, lane, 1)["last_cost_kinstr"]["value"]
        for lane in ("iptables", "ipvs")
    }

    assert 2.0 < added["iptables"] < 4.0
    assert abs(added["ipvs"]) < 1.0


def test_the_table_says_instructions_and_what_they_cannot_tell(run: Run) -> None:
    text = (run.directory / "table.md").read_text()

    assert "k instr." in text
    assert "a lower bound on time" in text
    assert not re.findall(r"µs|\d ms\b|\d s\b", text)


def test_a_run_knows_its_identity_and_is_comparable_with_itself(run: Run) -> None:
    (identity,) = identities(run.facts).values()

    assert {"qemu", "cpu", "kernel"} <= set(identity.kernel_path)
    assert "calibration getppid" in identity.full
    assert incomparable(run.facts, run.facts, "full") == ()
