"""The one door to iptables: variant, lock, transactions, and the jumps from the built-in chains.

Owns how the tools are called. Must not know Services, nor what any rule means. Used by every mode that has
iptables rules.
"""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from ipaddress import ip_network
from pathlib import Path

from testbed.errors import CommandFailed, MachineLacks
from testbed.net.process import Completed, run
from testbed.net.tools import find_tool
from testbed.proxy.model import Family

VARIANTS = ("auto", "legacy", "nft")
_LOCK_WAIT_S = 5  # kube-proxy's -w
_DESTINATION = re.compile(r" -d (\S+) ")
_RESTORE_TIMEOUT_S = 900.0  # the nft variant takes minutes for some ten thousand rules


@dataclass(frozen=True, slots=True)
class Jump:
    """A rule in a built-in chain that leads into one of ours.

    `match` is the part between the comment and `-j`, ready for restore input; `last` appends the rule
    instead of putting it first.
    """

    table: str
    chain: str
    target: str
    comment: str = ""
    match: str = ""
    last: bool = False

    @property
    def rule(self) -> str:
        """The rule without its command: what follows `-A CHAIN`."""
        comment = f'-m comment --comment "{self.comment}"' if self.comment else ""
        return " ".join(part for part in (self.match, comment, f"-j {self.target}") if part)


class Iptables:
    """iptables of one IP family in the network namespace of the caller.

    `variant` is `legacy`, `nft`, or `auto`: legacy where this kernel has it, since restoring thousands of
    Services takes the nft variant ten times as long and more, else nft. Raises MachineLacks when the tools
    or the kernel's tables are missing.
    """

    def __init__(self, family: Family = Family.IPV4, variant: str = "auto", *, probe: bool = True) -> None:
        self.family = family
        self._command = "iptables" if family is Family.IPV4 else "ip6tables"
        self._env = _lock_of_namespace()
        self.variant = self._choose(variant) if probe else variant

    def restore(self, text: str | bytes) -> None:
        """Apply `*table ... COMMIT` sections in one call of `iptables-restore --noflush`.

        Declaring a chain of ours (`:NAME - [0:0]`) empties it. Every table is replaced as a whole or not at
        all. Raises CommandFailed with the tool's words.
        """
        argv = [self._tool("-restore"), "--noflush", "--counters", "-w", str(_LOCK_WAIT_S)]
        run(argv, input=text, env=self._env, timeout_s=_RESTORE_TIMEOUT_S)

    def save(self, table: str) -> str:
        """One table in the form of `iptables-save`; empty when the kernel has no such table."""
        argv = [self._tool("-save"), "-t", table]
        done = run(argv, env=self._env, timeout_s=_RESTORE_TIMEOUT_S, check=False)
        return done.stdout if done.exit_status == 0 else ""

    def call(self, table: str, *arguments: str, check: bool = True) -> Completed:
        """Run `iptables -t table ...` itself. Raises CommandFailed unless `check` is off."""
        argv = [self._tool(""), "-w", str(_LOCK_WAIT_S), "-t", table, *arguments]
        return run(argv, env=self._env, check=check)

    def ensure_jumps(self, jumps: Sequence[Jump]) -> None:
        """Add those jumps that are missing. Their target chains must exist."""
        self._restore_sections(
            (table, missing_jumps([jump for jump in jumps if jump.table == table], self.save(table)))
            for table in _tables(jumps)
        )

    def remove_chains(self, table: str, chains: Iterable[str], prefixes: tuple[str, ...] = ()) -> None:
        """Delete chains of these names, or that begin so, with their rules and all jumps to them, at once."""
        saved = self.save(table)
        present = chains_in(saved)
        doomed = present.intersection(chains) | {chain for chain in present if chain.startswith(prefixes)}
        self._restore_sections([(table, removal(saved, doomed))])

    def _restore_sections(self, sections: Iterable[tuple[str, Sequence[str]]]) -> None:
        text = "".join(section(table, lines) for table, lines in sections if lines)
        if text:
            self.restore(text)

    def _tool(self, suffix: str) -> str:
        return str(find_tool(f"{self._command}-{self.variant}{suffix}"))

    def _choose(self, wanted: str) -> str:
        """Settle on a variant whose tools are installed and whose tables this kernel has."""
        refusals = []
        for variant in ("legacy", "nft") if wanted == "auto" else (wanted,):
            self.variant = variant
            try:
                self.call("nat", "-S", "OUTPUT")
            except (CommandFailed, MachineLacks) as refusal:
                refusals.append(refusal)
            else:
                return variant
        if len(refusals) == 1 and isinstance(refusals[0], MachineLacks):
            raise refusals[0]
        words = "; ".join(dict.fromkeys(_last_line(refusal) for refusal in refusals))
        raise MachineLacks(
            f"{self._command} ({wanted}) does not work in this kernel ({words})",
            "load its modules (modprobe iptable_nat nft_compat) or choose another --iptables-variant",
        ) from refusals[-1]


def section(table: str, lines: Iterable[str]) -> str:
    """One table's part of restore input."""
    return "\n".join((f"*{table}", *lines, "COMMIT\n"))


def missing_jumps(jumps: Sequence[Jump], saved: str) -> list[str]:
    """Restore lines for the jumps that `saved`, the table as `iptables-save` prints it, lacks."""
    rules = saved.splitlines()
    return [
        f"-A {jump.chain} {jump.rule}" if jump.last else f"-I {jump.chain} 1 {jump.rule}"
        for jump in jumps
        if not _places(jump, rules)
    ]


def removal(saved: str, doomed: Collection[str]) -> list[str]:
    """Restore lines that delete existing chains; `saved` is the table in `iptables-save` form."""
    jumps = [
        f"-D{rule[2:]}"
        for rule in saved.splitlines()
        if rule.startswith("-A ") and _target(rule) in doomed and rule.split(" ", 2)[1] not in doomed
    ]
    chains = sorted(doomed)
    return [*(f":{chain} - [0:0]" for chain in chains), *jumps, *(f"-X {chain}" for chain in chains)]


def chains_in(saved: str) -> set[str]:
    """Names of the chains that `iptables-save` printed."""
    return set(re.findall(r"^:(\S+) ", saved, re.MULTILINE))  # no list of lines: a table may have 200,000


def stale_jumps(jumps: Sequence[Jump], saved: str) -> list[str]:
    """Restore lines that delete what leads from the chains of `jumps` to their targets for other traffic."""
    rules = saved.splitlines()
    kept = {rule for jump in jumps for rule in _places(jump, rules)}
    ways = {(f"-A {jump.chain} ", f" -j {jump.target}") for jump in jumps}
    return [
        f"-D{rule[2:]}"
        for rule in rules
        if rule not in kept and any(rule.startswith(start) and rule.endswith(end) for start, end in ways)
    ]


def _places(jump: Jump, rules: Sequence[str]) -> list[str]:
    """The rules that are this jump: same chains, same comment, for the same destination."""
    start, end = f"-A {jump.chain} ", f" -j {jump.target}"
    return [
        rule
        for rule in rules
        if rule.startswith(start)
        and rule.endswith(end)
        and jump.comment in rule
        and _destination(rule) == _destination(f" {jump.match} ")
    ]


def _destination(rule: str) -> str:
    """The range that a rule is limited to by `-d`, as iptables prints it; empty without a limit."""
    found = _DESTINATION.search(rule)
    network = ip_network(found[1], strict=False) if found else None
    return str(network) if network is not None and network.prefixlen else ""


def _target(rule: str) -> str:
    """The chain a rule jumps to, empty if it has none; -j stands last but for a target's own options."""
    _, _, target = rule.rpartition(" -j ")
    return target.split(" ", 1)[0]


def _tables(jumps: Sequence[Jump]) -> list[str]:
    return list(dict.fromkeys(jump.table for jump in jumps))


def _last_line(error: Exception) -> str:
    text = error.stderr if isinstance(error, CommandFailed) else str(error)
    return text.strip().splitlines()[-1] if text.strip() else type(error).__name__


def _lock_of_namespace() -> dict[str, str]:
    """Give a network namespace of its own its own xtables lock: /run/xtables.lock is one file for all nodes.

    Where the whole container or machine shares one network namespace, the usual lock is shared too.
    """
    if "XTABLES_LOCKFILE" in os.environ:
        return {}
    own = Path("/proc/thread-self/ns/net").stat().st_ino
    try:
        shared = Path("/proc/1/ns/net").stat().st_ino
    except OSError:
        shared = 0
    return {} if own == shared else {"XTABLES_LOCKFILE": f"/run/xtables-{own}.lock"}
