"""Statistics: known truths are recovered, identical things are not told apart."""

from __future__ import annotations

import math

import numpy as np
import pytest

from testbed.analysis import statistics
from testbed.analysis.statistics import Interval


def test_an_injected_effect_is_recovered_through_drift_ten_times_its_size() -> None:
    rng = np.random.default_rng(3)
    drift = rng.normal(500, 50, 15)
    base = drift + rng.normal(0, 1, 15)
    ours = drift + 5 + rng.normal(0, 1, 15)

    found = statistics.paired_difference(ours, base)

    assert found.covers(5)
    assert found.low > 0
    assert found.half_width < 2


def test_the_interval_has_about_its_nominal_coverage() -> None:
    rng = np.random.default_rng(0)
    hits = sum(statistics.interval(rng.normal(7, 2, 15)).covers(7) for _ in range(200))

    assert 0.86 <= hits / 200 <= 0.99


def test_one_disturbed_round_in_fifteen_does_not_move_the_estimate() -> None:
    rounds = np.append(np.full(14, 10.0) + np.linspace(-0.1, 0.1, 14), 1000.0)

    assert statistics.interval(rounds).value == pytest.approx(10, abs=0.1)


def test_a_ratio_is_geometric_and_paired() -> None:
    base = np.array([100.0, 200.0, 50.0, 400.0, 120.0])

    found = statistics.paired_ratio(base * 1.5, base)

    assert found.value == pytest.approx(1.5)
    assert found.half_width == pytest.approx(0, abs=1e-12)


def test_constant_rounds_give_an_interval_of_no_width() -> None:
    assert statistics.interval([3.0] * 9) == Interval(3.0, 3.0, 3.0)


def test_a_nearly_degenerate_sample_falls_back_on_percentiles() -> None:
    found = statistics.interval([1.0] * 8 + [2.0])

    assert math.isfinite(found.low)
    assert math.isfinite(found.high)


@pytest.mark.parametrize("rounds", [[], [4.0], [4.0, 5.0]])
def test_too_few_rounds_give_an_infinite_interval(rounds: list[float]) -> None:
    found = statistics.interval(rounds)

    assert found.low == -math.inf
    assert found.high == math.inf


def test_the_smallest_visible_effect_is_the_half_width_of_an_unbiased_pair() -> None:
    assert statistics.smallest_visible(Interval(0.2, -1.0, 2.0)) == pytest.approx(1.5)


def test_a_biased_pair_hides_everything_up_to_its_farther_end() -> None:
    assert statistics.smallest_visible(Interval(2.0, 1.0, 3.0)) == 3.0
    assert statistics.smallest_visible(Interval(0.97, 0.95, 0.99), neutral=1.0) == pytest.approx(0.05)


@pytest.mark.parametrize(
    ("effect", "seen"),
    [
        (Interval(5.0, 4.0, 6.0), True),
        (Interval(-5.0, -6.0, -4.0), True),
        (Interval(1.0, 0.5, 1.5), False),
        (Interval(5.0, -1.0, 11.0), False),
    ],
)
def test_an_effect_is_resolvable_when_larger_than_visible_and_clear_of_none(
    effect: Interval, seen: bool
) -> None:
    assert statistics.resolvable(effect, visible=2.0) is seen


def test_a_slope_is_recovered_with_its_interval() -> None:
    rng = np.random.default_rng(1)
    x = np.repeat([0.001, 1.0, 10.0], 15)

    found = statistics.slope(list(x), list(7.27 * x + 100 + rng.normal(0, 2, x.size)))

    assert found.covers(7.27)
    assert found.half_width < 0.5


def test_one_size_has_no_slope() -> None:
    assert math.isnan(statistics.slope([1.0, 1.0], [2.0, 3.0]).value)


def test_even_counts_are_likely_and_lopsided_ones_are_not() -> None:
    assert statistics.uniform_p([333, 340, 327]) > 0.5
    assert statistics.uniform_p([500, 250, 250]) < 1e-6
    assert math.isnan(statistics.uniform_p([5]))


def test_holm_steps_down_and_leaves_missing_tests_alone() -> None:
    adjusted = statistics.holm([0.01, 0.04, math.nan, 0.03])

    assert adjusted[0] == pytest.approx(0.03)
    assert adjusted[3] == pytest.approx(0.06)
    assert adjusted[1] == pytest.approx(0.06)
    assert math.isnan(adjusted[2])


def test_independent_sets_are_compared_without_pairing() -> None:
    rng = np.random.default_rng(5)

    found = statistics.unpaired_difference(rng.normal(110, 2, 15), rng.normal(100, 2, 15))

    assert found.covers(10)
    assert found.low > 5
