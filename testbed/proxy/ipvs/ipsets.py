"""The door to ipset: one `ipset save` to read, one `ipset restore` to write.

Owns how the tool is called. Must not know what the sets are for.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from testbed.net.process import run
from testbed.proxy.ipvs import sets
from testbed.proxy.model import Family

_TIMEOUT_S = 120.0


def read_sets() -> dict[str, set[str]]:
    """Members of every ipset of this network namespace. Raises CommandFailed, MachineLacks."""
    return sets.parse_save(run(["ipset", "save"], timeout_s=_TIMEOUT_S).stdout)


def write_sets(
    create: Iterable[str], added: Mapping[str, Iterable[str]], removed: Mapping[str, Iterable[str]]
) -> int:
    """Apply the difference in one run; the number of lines it took, 0 without a run.

    Raises CommandFailed with ipset's words; lines before the one it stopped at stay applied.
    """
    lines = list(sets.restore_lines(create, added, removed))
    if lines:
        run(["ipset", "-exist", "restore"], input="\n".join(lines) + "\n", timeout_s=_TIMEOUT_S)
    return len(lines)


def destroy_sets(family: Family) -> None:
    """Remove the sets of one family that exist; no rule may refer to them any more."""
    present = read_sets()
    doomed = [name for kind in sets.KINDS if (name := sets.set_name(kind, family)) in present]
    if doomed:
        text = "".join(f"destroy {name}\n" for name in doomed)
        run(["ipset", "restore"], input=text, timeout_s=_TIMEOUT_S)
