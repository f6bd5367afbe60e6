"""A ledger drawn up in an emulated machine: rows add up, phases stand where they belong."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from testbed.kernel.qemu import QemuKernel
from testbed.ledger.account import UNACCOUNTED

MODES = ("userspace", "iptables")
TIMEOUT_S = 2400


@pytest.mark.validate
def test_a_ledger_adds_up_and_tells_why_a_mode_costs_what_it_does(tmp_path: Path) -> None:
    lacking = QemuKernel().lacking(MODES)
    if lacking:
        pytest.skip(f"no emulated machine here: {next(iter(lacking.values())).remedy}")
    options = ["--rounds", "3", "--rules", "50", *(word for mode in MODES for word in ("--mode", mode))]
    done = subprocess.run(
        [sys.executable, "-m", "testbed", "ledger", "--out", str(tmp_path / "run"), "--json", *options],
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)

    columns = {(column["traffic"], column["lane"]): column for column in found["columns"]}
    assert set(columns) == {
        (traffic, lane) for traffic in ("new-connection", "keepalive") for lane in ("direct", *MODES)
    }
    for column in columns.values():
        total, rows = column["total"]["value"], column["rows"]
        assert sum(rows.values()) == pytest.approx(total)
        assert abs(rows[UNACCOUNTED]) < 0.1 * total
        assert column["check"] == pytest.approx(total, rel=0.1)
        assert column["unread"] == 0
    direct, iptables, userspace = (
        columns["new-connection", lane]["rows"] for lane in ("direct", *MODES[::-1])
    )
    assert iptables["iptables rules"] > direct.get("iptables rules", 0.0)
    assert iptables["netfilter: NAT"] > direct.get("netfilter: NAT", 0.0)
    assert userspace["proxy process"] > iptables.get("proxy process", 0.0) + 50_000
    costs = {unit["what"]: unit["cost"]["value"] for unit in found["units"]}
    assert all(cost > 0 for cost in costs.values()), costs
