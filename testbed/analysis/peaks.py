"""The shape of a distribution that repeats itself: a few sharp peaks, each the cost of one path.

By the instruction clock a request takes one of a few paths (another endpoint, a timer's interrupt, a new slab
of memory), and all requests of one path cost nearly the same. Owns how peaks are found in raw samples. Must
not render, and no interval comes from here: samples are pooled only to be looked at.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from testbed.analysis.rounds import Cell
from testbed.analysis.unit import in_units
from testbed.results.format import BlockRecord, CellKey

WIDTH = 0.005
"""A peak is as wide as this share of its position: narrower than what any two paths of interest differ by."""

SMALLEST_SHARE = 0.02
MOST = 6


@dataclass(frozen=True)
class Peak:
    """Where most of a peak's samples lie, and which share of all samples it holds."""

    position: float
    share: float


@dataclass(frozen=True)
class Peaks:
    """The peaks of one lane in one cell, the tallest first; what they do not hold is `spread` out.

    `interrupts` are the timer's, for each request; None where the kernel does not tell.
    """

    cell: CellKey
    lane: str
    samples: int
    peaks: tuple[Peak, ...]
    spread: float
    interrupts: float | None


def peaks_of(cells: Sequence[Cell], samples: NDArray[np.void]) -> list[Peaks]:
    """The peaks of the time to first byte of every lane in every cell that has samples."""
    order = np.argsort(samples["block"], kind="stable")
    ids = samples["block"][order]
    readings = samples["first_byte_ns"][order]
    found = []
    for cell in cells:
        for lane in cell.lanes:
            blocks = cell.blocks(lane)
            numbers = np.sort(np.array([block.id for block in blocks], dtype=ids.dtype))
            pooled = readings[np.isin(ids, numbers)]
            if pooled.size:
                found.append(_peaks(cell.key, lane, blocks, np.sort(pooled.astype(np.int64))))
    return found


def find_peaks(ordered: NDArray[np.int64]) -> list[Peak]:
    """The peaks of ascending readings: again and again the window that holds most of what is left."""
    total, left = ordered.size, ordered
    found: list[Peak] = []
    while left.size and len(found) < MOST:
        ends = np.searchsorted(left, left * (1 + WIDTH), side="right")
        starts = np.arange(left.size)
        first = int(np.argmax(ends - starts))
        last = int(ends[first])
        share = (last - first) / total
        if share < SMALLEST_SHARE:
            break
        found.append(Peak(float(in_units(np.median(left[first:last]))), share))
        left = np.concatenate([left[:first], left[last:]])
    return found


def _peaks(key: CellKey, lane: str, blocks: Sequence[BlockRecord], ordered: NDArray[np.int64]) -> Peaks:
    found = find_peaks(ordered)
    counted = [block for block in blocks if block.timer_interrupts is not None]
    requests = sum(block.requests for block in counted)
    return Peaks(
        cell=key,
        lane=lane,
        samples=int(ordered.size),
        peaks=tuple(found),
        spread=1.0 - sum(peak.share for peak in found),
        interrupts=sum(block.timer_interrupts or 0 for block in counted) / requests if requests else None,
    )
