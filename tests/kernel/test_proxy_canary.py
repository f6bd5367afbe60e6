"""A flush is noticed, and what did not change is not read again."""

from __future__ import annotations

import pytest

from testbed.net.process import Completed
from testbed.proxy.iptables.canary import CHAIN, RULE, Canary
from testbed.proxy.iptables.restore import Iptables, section
from testbed.proxy.model import Family

DECLARATION = f":{CHAIN} - [0:0]"


class Counting(Iptables):
    """Counts how often the tool itself is called."""

    calls = 0

    def call(self, table: str, *arguments: str, check: bool = True) -> Completed:
        self.calls += 1
        return super().call(table, *arguments, check=check)


@pytest.fixture(
    params=[(family, variant) for family in Family for variant in ("legacy", "nft")], ids="-".join
)
def iptables(request: pytest.FixtureRequest) -> Counting:
    made = Counting(*request.param)
    made.restore("".join(section(table, [DECLARATION, RULE]) for table in ("nat", "filter")))
    made.calls = 0
    return made


def test_an_unchanged_table_is_read_once(iptables: Counting) -> None:
    canary = Canary(iptables, ("nat", "filter"))
    for _ in range(3):
        assert canary.flushed() == []
    assert iptables.calls == 2


def test_a_change_is_looked_at_and_only_a_flush_is_one(iptables: Counting) -> None:
    canary = Canary(iptables, ("nat",))
    assert canary.flushed() == []
    iptables.call("nat", "-A", "OUTPUT", "-j", "ACCEPT")
    assert canary.flushed() == []
    iptables.call("nat", "-F")
    assert canary.flushed() == ["nat"]
    iptables.restore(section("nat", [DECLARATION, RULE]))
    assert canary.flushed() == []
    iptables.call("nat", "-F")
    iptables.call("nat", "-X")
    assert canary.flushed() == ["nat"]


def test_a_canary_that_was_never_there_does_not_sing(iptables: Counting) -> None:
    assert Canary(iptables, ("mangle", "nat")).flushed() == ["mangle"]
