"""Waiting for a condition, never for a fixed time."""

from __future__ import annotations

import time
from collections.abc import Callable

from testbed.errors import WaitTimeout

_FIRST_PAUSE_S = 0.002
_LONGEST_PAUSE_S = 0.05


def wait_until(true: Callable[[], bool], what: str, timeout_s: float) -> None:
    """Return as soon as `true()` is, asked at growing intervals of 2 to 50 ms.

    Raises:
        WaitTimeout: it was not within `timeout_s`; `what` names what was waited for.
    """
    deadline = time.monotonic() + timeout_s
    pause_s = _FIRST_PAUSE_S
    while not true():
        if time.monotonic() >= deadline:
            raise WaitTimeout(what, timeout_s)
        time.sleep(pause_s)
        pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)
