"""The rules that stand in for network policies match no packet of the lab."""

from ipaddress import ip_network

from testbed.cluster.filters import filter_rules_text


def test_every_rule_is_different_and_from_the_benchmark_network() -> None:
    sources = [line.split()[3] for line in filter_rules_text(300).splitlines() if " -s " in line]
    assert len(set(sources)) == 300
    assert all(ip_network(source).subnet_of(ip_network("198.18.0.0/15")) for source in sources)


def test_traffic_meets_them_before_anything_else_in_the_chain() -> None:
    assert "-I FORWARD 1 " in filter_rules_text(1)
