"""Connections go round the endpoints strictly; a client with affinity goes back to its own."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from testbed.proxy.userspace.balancer import Address, Rotation

A, B, C, D = (("10.0.0.1", 80), ("10.0.0.2", 80), ("10.0.0.3", 80), ("10.0.0.4", 80))


class Clock:
    """A clock that a test moves."""

    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


def take(rotation: Rotation, count: int, client: str = "") -> list[Address | None]:
    return [rotation.next(client) for _ in range(count)]


def test_every_endpoint_has_its_turn_in_order() -> None:
    assert take(Rotation([A, B, C]), 7) == [A, B, C, A, B, C, A]


def test_without_endpoints_there_is_none_to_give() -> None:
    assert take(Rotation(), 2) == [None, None]
    assert take(Rotation((), 10.0), 1, "1.2.3.4") == [None]


def test_it_goes_on_behind_the_last_endpoint_when_one_is_added_or_removed() -> None:
    rotation = Rotation([A, B, C])
    assert take(rotation, 2) == [A, B]
    rotation.update([A, B, C, D], None)
    assert take(rotation, 2) == [C, D]
    rotation.update([B, C], None)
    assert take(rotation, 3) == [B, C, B]


def test_endpoints_that_all_change_start_from_the_first() -> None:
    rotation = Rotation([A, B])
    take(rotation, 1)
    rotation.update([C, D], None)
    assert take(rotation, 2) == [C, D]


@given(st.integers(1, 9), st.integers(1, 9), st.integers(0, 20))
def test_any_number_of_turns_differs_by_at_most_one_between_endpoints(
    before: int, count: int, turns: int
) -> None:
    rotation = Rotation([(f"10.0.1.{n}", 80) for n in range(before)])
    take(rotation, turns)
    rotation.update([(f"10.0.0.{n}", 80) for n in range(count)], None)
    given_out = Counter(take(rotation, turns))
    assert max(given_out.values(), default=0) - min(given_out.values(), default=0) <= 1


def test_a_client_with_affinity_stays_and_others_go_round() -> None:
    rotation = Rotation([A, B], 60.0)
    assert take(rotation, 3, "c1") == [A, A, A]
    assert take(rotation, 3, "c2") == [B, B, B]
    assert take(rotation, 1, "c3") == [A]


def test_affinity_ends_after_the_timeout_without_connections() -> None:
    clock = Clock()
    rotation = Rotation([A, B], 10.0, clock=clock)
    assert take(rotation, 1, "c1") == [A]
    clock.now_s += 9
    assert take(rotation, 1, "c1") == [A]
    clock.now_s += 9
    assert take(rotation, 1, "c1") == [A]
    clock.now_s += 11
    assert take(rotation, 1, "c1") == [B]


def test_a_client_whose_endpoint_is_gone_or_unreachable_gets_another_and_keeps_it() -> None:
    rotation = Rotation([A, B, C], 60.0)
    assert take(rotation, 1, "c1") == [A]
    rotation.update([B, C], 60.0)
    assert take(rotation, 2, "c1") == [B, B]
    assert rotation.next("c1", anew=True) == C
    assert take(rotation, 2, "c1") == [C, C]


def test_a_client_keeps_its_endpoint_when_others_change() -> None:
    rotation = Rotation([A, B], 60.0)
    take(rotation, 1, "c0")
    assert take(rotation, 1, "c1") == [B]
    rotation.update([A, B, C, D], 60.0)
    assert take(rotation, 2, "c1") == [B, B]


def test_idle_clients_are_forgotten() -> None:
    clock = Clock()
    rotation = Rotation([A, B], 10.0, clock=clock)
    for number in range(100):
        rotation.next(f"c{number}")
    clock.now_s += 11
    rotation.next("another")
    assert rotation.client_count == 1


def test_switching_affinity_off_goes_round_again() -> None:
    rotation = Rotation([A, B], 60.0)
    take(rotation, 2, "c1")
    rotation.update([A, B], None)
    assert rotation.client_count == 0
    assert take(rotation, 3, "c1") == [B, A, B]
