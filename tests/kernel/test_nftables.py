"""What only nftables mode has to do: sets that cannot change, and a table that somebody else made."""

from __future__ import annotations

import pytest
from proxynode import Mode, Node
from test_behaviours import affine

pytestmark = pytest.mark.parametrize("mode", [Mode("nftables")], ids=["nftables"])


def test_another_affinity_timeout_takes_effect_at_once(node: Node) -> None:
    node.serve("a", "b", **affine(60))
    assert not any(result.full for result in node.serve("a", **affine(30)))
    assert node.pods(5) == ["a"] * 5
    table = "".join(node.dump())
    assert "timeout 30s" in table
    assert "timeout 1m" not in table


def test_a_table_that_is_not_ours_under_our_name_is_made_anew(node: Node) -> None:
    node.command("nft flush ruleset")
    node.command("nft add table ip kube-proxy")
    node.sh("nft", "add", "set", "ip", "kube-proxy", "cluster-ips", "{ type inet_service; }")
    node.service("a")
    node.sync(full=True)
    assert node.pods(2) == ["a", "a"]


def test_one_change_writes_what_changed_however_many_services_there_are(node: Node) -> None:
    def lines_of_a_change() -> int:
        node.serve("a", "b")
        return sum(result.rules_written for result in node.serve("a", "c"))

    few = lines_of_a_change()
    for number in range(2, 60):
        node.service("a", "b", name=f"s{number}", vip=f"10.96.0.{number}")
    node.sync()
    assert lines_of_a_change() == few
