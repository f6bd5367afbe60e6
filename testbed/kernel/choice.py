"""Choose the kernel for a set of modes, and say why in one line."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from testbed.errors import MachineLacks, UserError
from testbed.kernel.features import No
from testbed.kernel.host import HostKernel
from testbed.kernel.protocol import Kernel
from testbed.kernel.qemu import QemuKernel
from testbed.kernel.uml import UmlKernel
from testbed.spec.clock import INSTRUCTIONS, WALL, Clock

AUTO = "auto"


def kernels(image: Path | None = None) -> tuple[Kernel, ...]:
    """Return every kernel there is, in the order in which `auto` prefers them; `image` is for qemu."""
    return (HostKernel(), UmlKernel(), QemuKernel(image))


def choose(
    wanted: str,
    modes: Iterable[str],
    *,
    clock: Clock = WALL,
    image: Path | None = None,
    among: Sequence[Kernel] | None = None,
) -> tuple[Kernel, str]:
    """Return the kernel called `wanted`, or for `auto` the first with every mode, and why it is that one.

    Only qemu boots an `image` and counts instructions. `among` is all there are unless given.

    Raises:
        UserError: no kernel is called so, or it cannot do what the clock or the image asks.
        MachineLacks: the kernel, or each one, lacks a mode; the remedies are those of the first.
    """
    require_linux()
    among = kernels(image) if among is None else among
    candidates = [kernel for kernel in among if wanted in (AUTO, kernel.name)]
    if not candidates:
        names = ", ".join(kernel.name for kernel in among)
        raise UserError(f"no kernel is called {wanted!r} (choose {AUTO} or one of {names})")
    if only := _only_qemu(clock, image):
        candidates = [kernel for kernel in candidates if kernel.name == QemuKernel.name]
        if not candidates:
            raise UserError(f"{only}: the {wanted} kernel does not, choose --kernel {QemuKernel.name}")
    modes = list(dict.fromkeys(modes))
    refusals: dict[str, Mapping[str, No]] = {}
    for kernel in candidates:
        refusals[kernel.name] = kernel.lacking(modes)
        if not refusals[kernel.name]:
            return kernel, _reason(kernel, wanted, refusals, only)
    raise _nothing_fits(refusals)


def require_linux() -> None:
    """Raise MachineLacks on a system that is not Linux."""
    if sys.platform != "linux":
        raise MachineLacks(
            f"testbed builds on Linux namespaces, and this system is {sys.platform}", "run it on Linux"
        )


def _only_qemu(clock: Clock, image: Path | None) -> str | None:
    """Return why nothing but qemu will do, if that is so."""
    if clock == INSTRUCTIONS:
        return "only an emulated machine counts instructions"
    return "only an emulated machine boots an image" if image else None


def _reason(kernel: Kernel, wanted: str, refusals: Mapping[str, Mapping[str, No]], only: str | None) -> str:
    if wanted != AUTO:
        return "as asked for"
    if only:
        return only
    passed_over = [
        f"the {name} kernel lacks {mode}: {answer.reason}"
        for name, answers in refusals.items()
        for mode, answer in list(answers.items())[:1]
    ]
    return "; ".join(passed_over) or "it has every mode that is wanted"


def _nothing_fits(refusals: Mapping[str, Mapping[str, No]]) -> MachineLacks:
    reasons = [
        f"the {name} kernel lacks {mode}: {answer.reason}"
        for name, answers in refusals.items()
        for mode, answer in answers.items()
    ]
    remedies = dict.fromkeys(answer.remedy for answers in refusals.values() for answer in answers.values())
    return MachineLacks("; ".join(reasons), "; or ".join(remedies))
