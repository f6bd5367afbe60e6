"""What only userspace mode has to do: portals apart from endpoints, a descriptor for each Service port."""

from __future__ import annotations

import resource

import pytest
from proxynode import Mode, Node

from testbed.errors import MachineLacks, UserError
from testbed.proxy.iptables.restore import Iptables
from testbed.proxy.model import Family, ServicePort, ServicePortName
from testbed.proxy.proxier import ProxySettings
from testbed.proxy.servicemap import ServiceMap
from testbed.proxy.userspace.proxier import UserspaceProxier

PORTALS = pytest.mark.parametrize(
    "mode", [Mode("userspace", "legacy"), Mode("userspace", "nft")], ids=["legacy", "nft"]
)
SETTINGS = ProxySettings(hostname="node1", node_ips=("127.0.0.1",), iptables_variant="legacy")
ALWAYS_THERE = 5  # four jumps and the anchor


@PORTALS
def test_a_change_of_endpoints_writes_no_rule_and_takes_effect_at_once(node: Node) -> None:
    node.serve(*"abc")
    before = node.dump()
    (result,) = node.serve("c")
    assert (result.full, result.rules_written, result.bytes_written) == (False, 0, 0)
    assert node.pods(3) == ["c"] * 3
    assert node.dump() == before


@PORTALS
def test_a_new_service_writes_its_own_rules_only(node: Node) -> None:
    for number in range(2, 22):
        node.service(name=f"s{number}", vip=f"10.96.0.{number}")
    assert node.sync()[0].rules_written == 20 * 2 * 2
    assert node.sync(full=True)[0].rules_written == 20 * 2 * 2 + 1
    (result,) = node.serve("a")
    assert result.rules_written == 2 * 2
    assert result.rules_total == {"nat": 21 * 2 * 2 + ALWAYS_THERE}
    assert node.pods(1) == ["a"]


@PORTALS
def test_cleanup_removes_what_either_variant_wrote(node: Node) -> None:
    node.serve("a")
    node.clean_up()
    assert "KUBE" not in "\n".join(node.dump())


def test_ipv6_is_refused_with_the_remedy() -> None:
    with pytest.raises(UserError, match="IPv4 only"):
        UserspaceProxier(ProxySettings(family=Family.IPV6))


def test_more_services_than_open_files_allow_are_refused_with_the_remedy() -> None:
    resource.setrlimit(resource.RLIMIT_NOFILE, (512, 512))
    proxier = UserspaceProxier(SETTINGS)
    services = many_services(300)
    with pytest.raises(MachineLacks, match=r"needs 556 open files for 300 .*ulimit -Hn"):
        proxier.sync(services, None)
    proxier.close()


def test_ten_thousand_services_fit_into_one_process() -> None:
    proxier = UserspaceProxier(SETTINGS)
    result = proxier.sync(many_services(10_000), None)
    assert result.rules_written == 2 * 10_000 + ALWAYS_THERE
    assert portal_rules() == 2 * 10_000 + ALWAYS_THERE
    proxier.close()
    assert portal_rules() == 0


def portal_rules() -> int:
    lines = Iptables(Family.IPV4, "legacy").save("nat").splitlines()
    return sum(line.startswith("-A") and "KUBE" in line for line in lines)


def many_services(count: int) -> ServiceMap:
    services = ServiceMap()
    for number in range(count):
        name = ServicePortName("default", f"s{number}", "")
        address = f"10.{100 + number // 62_500}.{number // 250 % 250}.{number % 250}"
        services.set_service((name.namespace, name.name), [ServicePort(name, address, 80)])
    return services
