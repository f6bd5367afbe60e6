"""Numbers of pods as controllers are told them: a whole number, or a share in percent."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


def share(value: Any, of: int, whole: Callable[[float], int]) -> int:
    """Return a number of pods given as such or in percent of `of`; what is neither counts as none."""
    text = str(value)
    digits = text.removesuffix("%")
    if not (digits.isascii() and digits.isdigit()):
        return 0
    return whole(int(digits) * of / 100) if text.endswith("%") else int(digits)
