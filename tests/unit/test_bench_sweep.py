"""The course of a run: which lanes stand together, and where the measured Services are."""

from __future__ import annotations

import pytest

from testbed.bench.lane import measured_places, mode_of
from testbed.bench.launcher import Launcher
from testbed.bench.sweep import label_kernel, plan_companies
from testbed.errors import ProcessDied
from testbed.spec import Sweep

SWEEP = Sweep(services=(1, 1000, 10000), endpoints=(3,), modes=("userspace", "iptables", "ipvs"))


def test_all_lanes_stand_together_and_grow_through_all_cells() -> None:
    (company,) = plan_companies(SWEEP, {})

    assert company.name == ""
    assert company.lanes == ("direct", "userspace", "iptables", "ipvs", "iptables-twin")
    assert [cell.services for cell in company.cells] == [1, 1, 1000, 1000, 10000, 10000]
    assert company.extras


@pytest.mark.parametrize(
    ("lane", "beside"), [("ipvs", ("direct", "ipvs")), ("iptables-twin", ("direct", "iptables-twin"))]
)
def test_an_isolated_lane_has_a_direct_lane_of_its_own(lane: str, beside: tuple[str, ...]) -> None:
    (company,) = plan_companies(SWEEP, {"lanes": [lane]})

    assert (company.name, company.lanes) == (lane, beside)
    assert len(company.cells) == 6


def test_the_isolated_direct_lane_stands_alone() -> None:
    (company,) = plan_companies(SWEEP, {"lanes": ["direct"]})

    assert company.lanes == ("direct",)


def test_interference_measures_each_lane_first_alone_at_both_ends_of_the_sizes() -> None:
    *alone, together = plan_companies(SWEEP, {"interference": True})

    assert [company.name for company in alone] == list(SWEEP.lanes())
    for company in alone:
        assert [cell.services for cell in company.cells] == [1, 10000]
        assert {cell.traffic for cell in company.cells} == {"new-connection"}
        assert not company.extras
    assert together.name == ""


def test_by_the_instruction_clock_only_load_is_measured() -> None:
    (company,) = plan_companies(SWEEP.changed(clock="instructions"), {})

    assert not company.extras


def test_cells_name_the_kernel_where_there_are_several() -> None:
    (company,) = plan_companies(SWEEP, {}, "6.1.0")

    assert {cell.kernel for cell in company.cells} == {"6.1.0"}


def test_two_images_of_one_release_are_told_apart() -> None:
    first = {"release": "6.1.0", "image": "/boot/vmlinuz-a"}
    second = {"release": "6.1.0", "image": "/boot/vmlinuz-b"}

    assert label_kernel({}, first) == "6.1.0"
    assert label_kernel({"kernels": {"6.1.0": first}}, first) == "6.1.0"
    assert label_kernel({"kernels": {"6.1.0": first}}, second) == "6.1.0 (vmlinuz-b)"


@pytest.mark.parametrize(
    ("services", "places"),
    [(1, (0,)), (2, (0, 1)), (3, (0, 1, 2)), (1000, (0, 499, 999)), (9999, (0, 4999, 9998))],
)
def test_first_middle_and_last_are_measured(services: int, places: tuple[int, ...]) -> None:
    assert measured_places(services) == places


def test_a_twin_is_a_second_lane_of_its_mode() -> None:
    assert mode_of("iptables-twin") == mode_of("iptables") == "iptables"


class Wire:
    def __init__(self, answer: dict[str, object] | None) -> None:
        self.sent: list[dict[str, object]] = []
        self.answer = answer

    def send(self, message: dict[str, object]) -> None:
        self.sent.append(message)

    def receive(self, timeout_s: float | None = None) -> dict[str, object] | None:
        return self.answer


def test_the_turn_to_measure_is_given_back_even_after_an_error() -> None:
    wire = Wire({"locked": True})

    def fail_in_turn() -> None:
        with Launcher(wire).turn():
            raise KeyError

    with pytest.raises(KeyError):
        fail_in_turn()
    assert [event["event"] for event in wire.sent] == ["lock", "unlock"]


def test_a_launcher_that_is_gone_ends_the_run() -> None:
    with pytest.raises(ProcessDied, match="launcher"), Launcher(Wire(None)).turn():
        pass
