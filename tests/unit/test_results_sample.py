"""The layout of a raw sample."""

from __future__ import annotations

import numpy as np

from testbed.results.sample import RECORD, SAMPLE


def test_the_struct_and_the_numpy_layout_describe_the_same_bytes() -> None:
    packed = RECORD.pack(7, 2, 5, 123_456_789_012, 85_000, 472_000)

    (sample,) = np.frombuffer(packed, dtype=np.dtype(SAMPLE))

    assert np.dtype(SAMPLE).itemsize == RECORD.size == 24
    assert sample.tolist() == (7, 2, 5, 123_456_789_012, 85_000, 472_000)
