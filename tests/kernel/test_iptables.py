"""What only iptables mode has to do: few rules a sync, comments, and two variants of the tools."""

from __future__ import annotations

from pathlib import Path

import pytest
from proxylab import Lab, service, slice_of
from proxynode import Mode, Node
from smallcluster import PODS, PORT, small_cluster

LEGACY, NFT = Mode("iptables", "legacy"), Mode("iptables", "nft")
both_variants = pytest.mark.parametrize("mode", [LEGACY, NFT], ids=["legacy", "nft"])
in_legacy = pytest.mark.parametrize("mode", [LEGACY], ids=["legacy"])


@both_variants
def test_a_partial_sync_writes_only_what_changed_and_leaves_no_chain_behind(node: Node) -> None:
    for number in range(2, 20):
        node.service("a", "b", name=f"other{number}", vip=f"10.96.0.{number}")
    node.serve("a", "b")
    result = node.serve("b", "c")[0]
    assert not result.full
    # For each of two ports a masquerade rule, a choice of two, and two rules per endpoint: no common chain.
    assert result.rules_last == {"filter": 0, "nat": 2 * 7}
    assert f"{PODS['a'][1]}:{PORT}" not in "\n".join(line for line in node.dump() if "/web" in line)
    for number in range(2, 20):
        node.delete(f"other{number}")
    node.sync()
    assert sum(line.startswith(":KUBE-SEP-") for line in node.dump()) == 2 * 2 * len(node.families)


@both_variants
def test_comments_name_the_service_so_that_grep_finds_its_rules(node: Node) -> None:
    node.serve("a", "c")
    listed = node.command("iptables -t nat -L -n -v")
    for comment in ("cluster IP", f"-> {PODS['a'][1]}:{PORT}"):
        assert f"/* default/web:tcp {comment} */" in listed


@in_legacy
@pytest.mark.parametrize("settings", [{"comments_up_to_endpoints": 4}])
def test_many_endpoints_lose_their_comments_and_get_them_back(node: Node) -> None:
    node.serve("a", "b")
    with_comments = node.dump()
    assert all(result.full for result in node.serve("c", name="third", vip="10.96.0.3"))
    assert not [line for line in node.dump() if "KUBE-SEP" in line and "comment" in line]
    node.delete("third")
    assert all(result.full for result in node.sync())
    assert node.dump() == with_comments


@in_legacy
def test_changing_the_variant_leaves_the_old_ones_rules_to_cleanup(node: Node) -> None:
    with Node(node.cluster, NFT) as old:
        old.serve("a")
        node.serve("a")
        old.clean_up_after("iptables", active="iptables", variant="legacy")
        assert "KUBE" not in "\n".join(old.dump())
        assert node.pods(5) == ["a"] * 5


@pytest.mark.guest
def test_the_process_follows_the_api_where_legacy_is_all_there_is(tmp_path: Path) -> None:
    with small_cluster(tmp_path) as cluster:
        lab = Lab(cluster, tmp_path)
        try:
            lab.api.load([service(), slice_of("a")])
            lab.start_proxy()
            lab.wait_for("a")
            lab.api.replace(slice_of("c"))
            lab.wait_for("c")
            assert "iptables variant legacy" in lab.log.read_text()
        finally:
            lab.close()
