"""The clocks that a run can be measured by.

Owns their names. What a clock's readings mean is said where they are printed, in `testbed.analysis.unit`.
"""

from __future__ import annotations

from typing import Literal, get_args

Clock = Literal["wall", "instructions"]
"""`wall` is time on this machine; `instructions` counts what an emulated CPU has executed, 1 ns for each."""

WALL: Clock = "wall"
INSTRUCTIONS: Clock = "instructions"
CLOCKS: tuple[Clock, ...] = get_args(Clock)
