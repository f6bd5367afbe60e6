"""The iptables rules of IPVS mode, as whole files, and what may vary in them."""

from __future__ import annotations

from pathlib import Path

import pytest

from testbed.proxy.ipvs import sets
from testbed.proxy.ipvs.rules import CHAINS, JUMPS, OWN_CHAINS, SHARED_CHAINS, count_rules, render_rules
from testbed.proxy.model import Family
from testbed.proxy.proxier import ProxySettings

GOLDEN = Path(__file__).parent.parent / "golden" / "ipvs"
CASES = {
    "ipv4": ProxySettings(cluster_cidr="10.244.0.0/16"),
    "ipv6-other-mark": ProxySettings(family=Family.IPV6, cluster_cidr="fd00:244::/48", masquerade_bit=15),
    "masquerade-all": ProxySettings(cluster_cidr="10.244.0.0/16", masquerade_all=True),
    "no-cluster-cidr": ProxySettings(),
}


@pytest.mark.parametrize("case", CASES)
def test_the_rules_are_those_of_the_golden_file(case: str) -> None:
    assert render_rules(CASES[case]) == (GOLDEN / f"{case}.txt").read_text()


@pytest.mark.parametrize("case", CASES)
def test_their_number_is_a_constant(case: str) -> None:
    assert count_rules(render_rules(CASES[case])) == {"nat": 23, "filter": 19}


def test_every_set_is_matched_and_every_chain_is_led_into() -> None:
    text = render_rules(CASES["ipv4"])
    for kind in sets.KINDS:
        assert f"--match-set {sets.set_name(kind, Family.IPV4)} " in text, kind.name
    for table, chains in CHAINS.items():
        section = text[text.index(f"*{table}") :].partition("COMMIT")[0]
        targets = {jump.target for jump in JUMPS if jump.table == table}
        for chain in chains:
            assert chain in targets or f"-j {chain}" in section, chain


def test_a_chain_is_either_this_modes_own_or_shared() -> None:
    for table, chains in CHAINS.items():
        assert sorted([*OWN_CHAINS[table], *SHARED_CHAINS[table]]) == sorted(chains)
