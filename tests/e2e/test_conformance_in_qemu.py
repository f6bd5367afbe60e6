"""Every mode does in a distribution's kernel what the table of behaviours says: all of them in one boot."""

from __future__ import annotations

from collections import Counter

import pytest

from testbed.kernel import Job
from testbed.kernel.qemu import QemuKernel

MODES = ("iptables-legacy", "iptables-nft", "nftables", "userspace", "ipvs")
_ONCE_EACH = ("-k", "not in-guest or ipvs")
_LONGEST_TEST_S = 900.0  # emulated, beside other work


@pytest.mark.validate
def test_every_mode_conforms_in_a_kernel_of_a_distribution(pytestconfig: pytest.Config) -> None:
    job = Job(
        entry="guests:run_inside",
        arguments={
            "root": str(pytestconfig.rootpath),
            "nodeids": [*_ONCE_EACH, "tests/kernel/test_conformance.py"],
        },
        modes=frozenset({"iptables", "nftables", "userspace", "ipvs"}),
    )
    passed: Counter[str] = Counter()
    failed: dict[str, str] = {}
    with QemuKernel().start(job) as session:
        while (entry := session.line.receive(_LONGEST_TEST_S)) is not None:
            if (report := entry["report"]) is None:
                continue
            if report["outcome"] == "failed":
                failed[entry["nodeid"]] = str(report["longrepr"])
            elif report["when"] == "call":
                passed.update(mode for mode in MODES if f"[{mode}-" in entry["nodeid"])
        assert session.wait() == 0, failed
    assert failed == {}
    assert passed.keys() == {*MODES}
    assert len({*passed.values()}) == 1
