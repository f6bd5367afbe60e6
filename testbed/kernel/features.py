"""What a kernel can do for the lab, and what to do about what it cannot.

Owns the answers. How they are found is the business of `testbed.kernel.probe`, which runs in the kernel.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Self

from testbed.errors import ProcessDied
from testbed.kernel.session import Session

PROBE = "testbed.kernel.probe:main"
MODES = ("userspace", "iptables", "ipvs", "nftables")
# The lane without a Service needs no proxy, so every kernel has it.
_ALWAYS_THERE = frozenset({"direct"})


@dataclass(frozen=True)
class Yes:
    """The kernel can."""


@dataclass(frozen=True)
class No:
    """The kernel cannot: why, and the command or change that helps."""

    reason: str
    remedy: str

    def __str__(self) -> str:
        return f"{self.reason} ({self.remedy})"


Answer = Yes | No


@dataclass(frozen=True)
class Features:
    """What one kernel can do.

    Attributes:
        kernel: its name, host, uml or qemu.
        release: of the kernel itself.
        modes: an answer for every mode in `MODES`.
        iptables_variants: an answer each for `legacy` and `nft`.
        schedulers: names of the IPVS schedulers that took a virtual server.
        netem: delay and loss on links.
        ipset: sets of addresses and ports.
    """

    kernel: str
    release: str
    modes: Mapping[str, Answer]
    iptables_variants: Mapping[str, Answer]
    schedulers: tuple[str, ...]
    netem: Answer
    ipset: Answer

    def lacking(self, modes: Iterable[str]) -> dict[str, No]:
        """Those of `modes` that this kernel does not have, in their order, each with its answer."""
        answers = {mode: self.modes.get(mode, _unknown(mode)) for mode in modes if mode not in _ALWAYS_THERE}
        return {mode: answer for mode, answer in answers.items() if isinstance(answer, No)}

    @classmethod
    def from_json(cls, kernel: str, found: Mapping[str, Any]) -> Self:
        """Read what `testbed.kernel.probe` sent."""
        return cls(
            kernel=kernel,
            release=found["release"],
            modes={mode: _answer(found["modes"][mode]) for mode in MODES},
            iptables_variants={name: _answer(found["variants"][name]) for name in ("legacy", "nft")},
            schedulers=tuple(found["schedulers"]),
            netem=_answer(found["netem"]),
            ipset=_answer(found["ipset"]),
        )


def hear_features(kernel: str, session: Session) -> Features:
    """Receive what the job `PROBE` found out in a session."""
    found = session.line.receive()
    if found is None:
        raise ProcessDied("the probe of the kernel", session.wait())
    return Features.from_json(kernel, found)


def _answer(packed: Mapping[str, str] | None) -> Answer:
    return Yes() if packed is None else No(packed["reason"], packed["remedy"])


def _unknown(mode: str) -> No:
    return No(f"{mode!r} is not a mode", f"choose among {', '.join(MODES)}")
