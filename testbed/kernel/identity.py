"""What the cost of a path through the kernel depends on, as far as it is seen from outside: named facts.

Equal facts mean equal counts of instructions; other facts are another baseline. What the job's own programs
are is not known here.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

from testbed.kernel.image import KernelImage
from testbed.kernel.machine import COUNTED, CPU_MODEL, EMULATION, MACHINE
from testbed.net.process import run
from testbed.net.tools import find_tool
from testbed.spec.clock import INSTRUCTIONS, Clock


def machine_identity(program: str, image: KernelImage, clock: Clock) -> Mapping[str, str]:
    """Return the facts of the machine that QEMU makes to boot `image`; under the wall clock less is known.

    Raises:
        MachineLacks: the program is not installed.
        CommandFailed: it does not tell its version.
    """
    facts = {
        "qemu": run([find_tool(program), "--version"]).stdout.partition("\n")[0].rpartition("version ")[2],
        "machine": MACHINE,
        "kernel": image.release,
        "kernel image sha256": hashlib.sha256(image.path.read_bytes()).hexdigest(),
    }
    if clock == INSTRUCTIONS:
        facts |= {"accelerator": EMULATION, "cpu": CPU_MODEL, "kernel line": COUNTED}
    return facts
