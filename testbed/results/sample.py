"""One raw sample: its binary layout, shared by the load process and the analysis.

Imports nothing, so that the load process starts without numpy.
"""

from __future__ import annotations

import struct

SAMPLE = [
    ("block", "<u4"),
    ("target", "<u2"),
    ("endpoint", "<u2"),
    ("start_ns", "<u8"),
    ("connect_ns", "<u4"),
    ("first_byte_ns", "<u4"),
]
"""Fields of a sample, as `numpy.dtype` takes them.

`block` is the block's id, `target` the index of the target in the block, `endpoint` the index of the
endpoint in the block's `endpoints`, `start_ns` the monotonic clock of the kernel under test, `connect_ns`
and `first_byte_ns` count from `start_ns`. A connection that was open before has `connect_ns` 0.
"""

RECORD = struct.Struct("<IHHQII")
"""The same layout for `struct`."""

UNKNOWN_ENDPOINT = 0xFFFF
LONGEST_NS = 0xFFFF_FFFF
"""A time that does not fit into the field (above 4.29 s) is stored as this."""
