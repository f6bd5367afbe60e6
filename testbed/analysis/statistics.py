"""Intervals over rounds: paired effects, the smallest effect that can be seen, slopes, goodness of fit.

Pure numbers in and out; must not know lanes or records. Every interval has a confidence of 95 % and comes
from resampling rounds, the unit that is independent; requests inside a round are not.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from scipy import stats

CONFIDENCE = 0.95
RESAMPLES = 4000
TRIMMED_SHARE = 0.2
"""Cut from each end before averaging rounds: one disturbed round in five moves nothing."""

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Interval:
    """An estimate with its 95 % interval; `low` and `high` are infinite when there are too few rounds."""

    value: float
    low: float
    high: float

    @property
    def half_width(self) -> float:
        return (self.high - self.low) / 2

    def covers(self, truth: float) -> bool:
        return self.low <= truth <= self.high

    def scaled(self, factor: float) -> Interval:
        return Interval(self.value * factor, self.low * factor, self.high * factor)


def centre(values: Floats, axis: int = -1) -> Any:
    """The trimmed mean over rounds: nearly the mean's precision, and robust against disturbed rounds."""
    return stats.trim_mean(values, TRIMMED_SHARE, axis=axis)


def interval(values: Sequence[float] | Floats, *, seed: int = 0) -> Interval:
    """The centre of one value a round, with a BCa bootstrap interval over rounds.

    Falls back on the percentile bootstrap where BCa is degenerate.
    """
    rounds = np.asarray(values, dtype=np.float64)
    if rounds.size == 0:
        return Interval(math.nan, -math.inf, math.inf)
    value = float(centre(rounds))
    if rounds.size < 3:
        return Interval(value, -math.inf, math.inf)
    if np.ptp(rounds) == 0:
        return Interval(value, value, value)
    low, high = _bootstrap(rounds, "BCa", seed)
    if not (math.isfinite(low) and math.isfinite(high)):
        low, high = _bootstrap(rounds, "percentile", seed)
    return Interval(value, low, high)


def paired_difference(ours: Floats, theirs: Floats, *, seed: int = 0) -> Interval:
    """How much more `ours` is than `theirs`, both one value a round and in the same order of rounds."""
    return interval(ours - theirs, seed=seed)


def paired_ratio(ours: Floats, theirs: Floats, *, seed: int = 0) -> Interval:
    """The geometric ratio of `ours` to `theirs`, from log-ratios paired by round."""
    logs = interval(np.log(ours / theirs), seed=seed)
    return Interval(*(math.exp(bound) if bound < 700 else math.inf for bound in _bounds(logs)))


def unpaired_difference(ours: Floats, theirs: Floats, *, seed: int = 0) -> Interval:
    """The difference of the centres of two sets of rounds that were not measured together."""
    if min(ours.size, theirs.size) < 3:
        return Interval(float(centre(ours) - centre(theirs)), -math.inf, math.inf)
    rng = np.random.default_rng(seed)
    drawn = centre(rng.choice(ours, (RESAMPLES, ours.size))) - centre(
        rng.choice(theirs, (RESAMPLES, theirs.size))
    )
    low, high = np.quantile(drawn, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return Interval(float(centre(ours) - centre(theirs)), float(low), float(high))


def smallest_visible(identical: Interval, neutral: float = 0.0) -> float:
    """The minimum detectable effect, from the interval between two identical lanes.

    Its half-width; where the interval misses `neutral` although the lanes are identical, its farther end,
    since the instrument is then biased by that much.
    """
    low, high = identical.low - neutral, identical.high - neutral
    return (high - low) / 2 if low <= 0 <= high else max(abs(low), abs(high))


def resolvable(effect: Interval, visible: float, neutral: float = 0.0) -> bool:
    """Whether an effect is larger than what identical lanes show, and its own interval excludes `neutral`."""
    return abs(effect.value - neutral) >= visible and not effect.covers(neutral)


def slope(x: Sequence[float], y: Sequence[float]) -> Interval:
    """The Theil-Sen slope of y over x with its interval; needs at least two different x."""
    if len(set(x)) < 2:
        return Interval(math.nan, -math.inf, math.inf)
    found = stats.theilslopes(np.asarray(y), np.asarray(x), alpha=CONFIDENCE)
    return Interval(float(found[0]), float(found[2]), float(found[3]))


def uniform_p(counts: Sequence[int]) -> float:
    """The probability of counts at least this uneven if every endpoint were drawn alike (chi-square)."""
    return float(stats.chisquare(counts).pvalue) if len(counts) > 1 and any(counts) else math.nan


def signed_rank_p(differences: Floats) -> float:
    """Wilcoxon's signed-rank test of paired differences against zero."""
    if differences.size < 3 or not np.any(differences):
        return math.nan
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        return float(stats.wilcoxon(differences).pvalue)


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's step-down adjustment of a family of tests; NaN stays NaN and does not count."""
    adjusted = [math.nan] * len(p_values)
    ranked = sorted((p, place) for place, p in enumerate(p_values) if not math.isnan(p))
    highest = 0.0
    for rank, (p, place) in enumerate(ranked):
        highest = max(highest, min(1.0, p * (len(ranked) - rank)))
        adjusted[place] = highest
    return adjusted


def _bootstrap(rounds: Floats, method: Literal["BCa", "percentile"], seed: int) -> tuple[float, float]:
    bootstrap: Callable[..., Any] = stats.bootstrap  # its stubs know no statistic along an axis
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = bootstrap(
            (rounds,),
            centre,
            n_resamples=RESAMPLES,
            confidence_level=CONFIDENCE,
            method=method,
            vectorized=True,
            rng=np.random.default_rng(seed),
        )
    return float(found.confidence_interval.low), float(found.confidence_interval.high)


def _bounds(found: Interval) -> tuple[float, float, float]:
    return found.value, found.low, found.high
