"""What has to be done to a node, given what is wanted and what is there."""

from __future__ import annotations

from testbed.proxy.ipvs.diff import Changes, compare, everything, own_servers
from testbed.proxy.ipvs.model import Balancing, Live, NodeState, RealServer, VirtualServer
from testbed.proxy.ipvs.plan import ServicePlan, Touched, Wanted, WantedServer
from testbed.proxy.model import ServicePortName

NAME = ServicePortName("default", "web", "")
SERVER = VirtualServer("TCP", "10.96.0.1", 80)
STALE = VirtualServer("TCP", "10.96.0.9", 80)
FOREIGN = VirtualServer("TCP", "192.0.2.1", 8080)
ONE, TWO, THREE = (RealServer(f"10.244.0.{number}", 80) for number in (1, 2, 3))
RR = Balancing("rr")


def wanting(*reals: RealServer, balancing: Balancing = RR) -> Wanted:
    wanted = Wanted()
    plan = ServicePlan(
        (WantedServer(SERVER, balancing, reals),),
        (SERVER.address,),
        (("KUBE-CLUSTER-IP", "10.96.0.1,tcp:80"),),
    )
    wanted.replace(NAME, plan, Touched())
    return wanted


def holding(**weights: int) -> NodeState:
    """A node with the wanted service in place; weights by `one`, `two`, `three`."""
    reals = {"one": ONE, "two": TWO, "three": THREE}
    live = Live(RR, {reals[name]: weight for name, weight in weights.items()})
    return NodeState({SERVER: live}, {SERVER.address}, {"KUBE-CLUSTER-IP": {"10.96.0.1,tcp:80"}})


def compared(wanted: Wanted, state: NodeState) -> Changes:
    own = own_servers(state, ["192.0.2.1"], [])
    return compare(wanted, state, everything(wanted, state, own, ["KUBE-CLUSTER-IP"]))


def test_an_empty_node_gets_everything() -> None:
    changes = compared(wanting(ONE, TWO), NodeState())
    assert changes == Changes(
        new_servers=[(SERVER, RR)],
        new_reals=[(SERVER, [ONE, TWO])],
        new_addresses=["10.96.0.1"],
        new_members={"KUBE-CLUSTER-IP": ["10.96.0.1,tcp:80"]},
    )


def test_a_node_in_the_wanted_state_is_left_alone() -> None:
    assert compared(wanting(ONE, TWO), holding(one=1, two=1)) == Changes()


def test_endpoints_come_and_go_without_touching_the_others() -> None:
    changes = compared(wanting(ONE, TWO), holding(two=1, three=1))
    assert changes == Changes(new_reals=[(SERVER, [ONE])], retired=[(SERVER, [THREE])])


def test_a_draining_endpoint_that_is_wanted_again_gets_its_weight_back() -> None:
    assert compared(wanting(ONE), holding(one=0)) == Changes(revived=[(SERVER, [ONE])])


def test_a_real_server_that_does_not_masquerade_is_put_right() -> None:
    assert compared(wanting(ONE), holding(one=-1)) == Changes(revived=[(SERVER, [ONE])])


def test_another_scheduler_or_persistence_edits_the_virtual_server_in_place() -> None:
    changes = compared(wanting(ONE, balancing=Balancing("lc")), holding(one=1))
    assert changes == Changes(changed_servers=[(SERVER, Balancing("lc"))])


def test_what_nobody_wants_goes_with_its_address_and_its_members() -> None:
    state = holding(one=1)
    state.servers[STALE] = Live(RR)
    state.addresses.add(STALE.address)
    state.sets["KUBE-CLUSTER-IP"].add("10.96.0.9,tcp:80")
    assert compared(wanting(ONE), state) == Changes(
        gone_servers=[STALE],
        gone_addresses=[STALE.address],
        gone_members={"KUBE-CLUSTER-IP": ["10.96.0.9,tcp:80"]},
    )


def test_a_virtual_server_that_somebody_else_made_is_left_alone() -> None:
    state = holding(one=1)
    state.servers[FOREIGN] = Live(RR)
    assert compared(wanting(ONE), state) == Changes()


def test_a_virtual_server_at_a_node_port_of_ours_is_ours() -> None:
    state = NodeState({FOREIGN: Live(RR)})
    assert own_servers(state, ["192.0.2.1"], [("TCP", 8080)]) == {FOREIGN}
    assert own_servers(state, ["192.0.2.1"], [("UDP", 8080)]) == set()
    assert own_servers(state, ["192.0.2.2"], [("TCP", 8080)]) == set()


def test_only_what_was_touched_is_compared() -> None:
    wanted, state = wanting(ONE), NodeState()
    assert compare(wanted, state, Touched()) == Changes()
    touched = Touched(servers={SERVER: None})
    assert compare(wanted, state, touched) == Changes(new_servers=[(SERVER, RR)], new_reals=[(SERVER, [ONE])])
