"""The text that ipset reads and writes."""

from __future__ import annotations

from testbed.proxy.ipvs import sets
from testbed.proxy.model import Family


def test_every_set_has_kube_proxys_name_and_a_prefix_of_its_own_for_ipv6() -> None:
    names = {sets.set_name(kind, Family.IPV4) for kind in sets.KINDS}
    assert names == {
        "KUBE-LOOP-BACK",
        "KUBE-CLUSTER-IP",
        "KUBE-EXTERNAL-IP",
        "KUBE-EXTERNAL-IP-LOCAL",
        "KUBE-LOAD-BALANCER",
        "KUBE-LOAD-BALANCER-FW",
        "KUBE-LOAD-BALANCER-LOCAL",
        "KUBE-LOAD-BALANCER-SOURCE-IP",
        "KUBE-LOAD-BALANCER-SOURCE-CIDR",
        "KUBE-NODE-PORT-TCP",
        "KUBE-NODE-PORT-UDP",
        "KUBE-NODE-PORT-SCTP-HASH",
        "KUBE-NODE-PORT-LOCAL-TCP",
        "KUBE-NODE-PORT-LOCAL-UDP",
        "KUBE-NODE-PORT-LOCAL-SCTP-HASH",
        "KUBE-HEALTH-CHECK-NODE-PORT",
        "KUBE-IPVS-IPS",
    }
    assert sets.set_name(sets.LOOP_BACK, Family.IPV6) == "KUBE-6-LOOP-BACK"
    assert max(len(sets.set_name(kind, Family.IPV6)) for kind in sets.KINDS) < 32


def test_a_set_is_created_for_its_family_or_for_all_ports() -> None:
    assert sets.create_line(sets.CLUSTER_IP, Family.IPV6) == (
        "create KUBE-6-CLUSTER-IP hash:ip,port family inet6 hashsize 1024 maxelem 1048576"
    )
    assert sets.create_line(sets.NODE_PORT_TCP, Family.IPV4) == (
        "create KUBE-NODE-PORT-TCP bitmap:port range 0-65535"
    )


def test_a_restore_creates_then_adds_then_removes() -> None:
    lines = sets.restore_lines(["create A hash:ip"], {"A": ["10.0.0.1", "10.0.0.2"]}, {"B": ["80"]})
    assert list(lines) == ["create A hash:ip", "add A 10.0.0.1", "add A 10.0.0.2", "del B 80"]


def test_what_ipset_saved_is_read_back_by_set() -> None:
    saved = (
        "create KUBE-CLUSTER-IP hash:ip,port family inet hashsize 1024 maxelem 65536 bucketsize 12\n"
        "add KUBE-CLUSTER-IP 10.96.0.1,tcp:80\n"
        "add KUBE-CLUSTER-IP 10.96.0.2,udp:53 timeout 7\n"
        "create KUBE-NODE-PORT-TCP bitmap:port range 0-65535\n"
    )
    assert sets.parse_save(saved) == {
        "KUBE-CLUSTER-IP": {"10.96.0.1,tcp:80", "10.96.0.2,udp:53"},
        "KUBE-NODE-PORT-TCP": set(),
    }


def test_everything_is_two_halves_and_a_single_address_has_no_prefix() -> None:
    assert sets.source_nets("0.0.0.0/0") == ("0.0.0.0/1", "128.0.0.0/1")
    assert sets.source_nets("::/0") == ("::/1", "8000::/1")
    assert sets.source_nets("192.0.2.7/24") == ("192.0.2.0/24",)
    assert sets.source_nets("192.0.2.7/32") == ("192.0.2.7",)
