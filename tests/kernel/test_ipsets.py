"""The sets of IPVS mode in the running kernel, with the ipset tool as witness."""

from __future__ import annotations

from testbed.net.namespace import Namespace
from testbed.net.process import run
from testbed.proxy.ipvs import sets
from testbed.proxy.ipvs.ipsets import Ipsets
from testbed.proxy.model import Family

MEMBERS = {
    "KUBE-CLUSTER-IP": {"10.96.0.1,tcp:80", "10.96.0.1,udp:53"},
    "KUBE-LOOP-BACK": {"10.244.1.5,tcp:80,10.244.1.5"},
    "KUBE-IPVS-IPS": {"10.96.0.1"},
    "KUBE-NODE-PORT-TCP": {"1", "30080"},
    "KUBE-LOAD-BALANCER-SOURCE-CIDR": {"203.0.113.9,tcp:80,10.0.0.0/8", "203.0.113.9,tcp:80,192.0.2.7"},
}


def in_a_namespace_of_its_own(body: object) -> None:
    with Namespace.create("node") as node:
        node.run(body)  # type: ignore[arg-type]


def test_what_is_written_is_what_ipset_shows_and_what_is_read_back() -> None:
    def body() -> None:
        with Ipsets(Family.IPV4) as ipsets:
            assert ipsets.read() == {}
            ipsets.create(sets.KINDS)
            ipsets.write(MEMBERS, {})
            saved = run(["ipset", "save"]).stdout.splitlines()
            shown = {line for line in saved if line.startswith("add ")}
            assert shown == {f"add {name} {member}" for name in MEMBERS for member in MEMBERS[name]}
            assert {name: members for name, members in ipsets.read().items() if members} == MEMBERS

    in_a_namespace_of_its_own(body)


def test_writing_twice_and_removing_twice_is_no_error() -> None:
    def body() -> None:
        with Ipsets(Family.IPV4) as ipsets:
            ipsets.create(sets.KINDS)
            for _ in range(2):
                ipsets.write(MEMBERS, {})
            for _ in range(2):
                ipsets.write({}, MEMBERS)
            assert not any(ipsets.read().values())

    in_a_namespace_of_its_own(body)


def test_destroying_leaves_the_sets_of_others_and_of_the_other_family() -> None:
    def body() -> None:
        with Ipsets(Family.IPV4) as four, Ipsets(Family.IPV6) as six:
            run(["ipset", "create", "MINE", "hash:ip"])
            four.create(sets.KINDS)
            six.create(sets.KINDS)
            four.destroy()
            assert four.read() == {}
            assert len(six.read()) == len(sets.KINDS)
            six.destroy()
            assert run(["ipset", "list", "-n"]).stdout.split() == ["MINE"]

    in_a_namespace_of_its_own(body)


def test_thousands_of_members_come_back_whole() -> None:
    def body() -> None:
        many = {f"10.96.{number >> 8}.{number & 255},tcp:80" for number in range(5000)}
        with Ipsets(Family.IPV4) as ipsets:
            ipsets.create([sets.CLUSTER_IP])
            ipsets.write({"KUBE-CLUSTER-IP": many}, {})
            assert ipsets.read() == {"KUBE-CLUSTER-IP": many}

    in_a_namespace_of_its_own(body)
