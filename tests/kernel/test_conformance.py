"""Every mode does what the table of `conformance` says, over TCP and UDP, IPv4 and IPv6."""

from __future__ import annotations

import pytest
from conformance import CASES, Case
from modesunderproof import MODES
from proving import prove_case
from proxynode import Node

WITH_SETTINGS = [pytest.param(case, case.settings, id=name) for name, case in CASES.items()]


@pytest.mark.parametrize(("case", "settings"), WITH_SETTINGS)
@pytest.mark.parametrize("mode", MODES)
def test_traffic_finds_what_the_table_says(node: Node, case: Case) -> None:
    node.service(*case.ends, **case.spec)
    node.tell(*case.slices)
    results = node.sync()
    prove_case(node, case)
    if node.mode.name != "userspace":
        counted = {"internal": 0, "external": 0} | dict.fromkeys(case.no_local, 2)  # ports
        assert [result.no_local_endpoints for result in results] == [counted] * len(results)
