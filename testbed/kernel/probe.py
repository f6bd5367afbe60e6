"""Ask the kernel this process runs on what it can do: the job behind `Kernel.features`.

Runs in a sandbox or guest of the kind that will be used, in a network namespace that ends with the job, and
tries the real thing each time: the rules that the modes write, a virtual server for each scheduler. Owns the
trials. No answer comes from a version number.

IPVS is not touched while its module is not loaded: the mere question would have the machine's kernel load it,
which is for its owner to decide.
"""

from __future__ import annotations

import gzip
import platform
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from functools import cache, partial
from pathlib import Path
from typing import Any

from testbed.errors import CommandFailed, MachineLacks
from testbed.kernel.line import Line
from testbed.net.process import run

# <linux/ip_vs.h> knows no list; these are all that Linux has had.
SCHEDULERS = ("rr", "wrr", "lc", "wlc", "lblc", "lblcr", "sh", "dh", "sed", "nq", "fo", "ovf", "mh")
_EVIDENCE_CHARACTERS = 120
_CONNTRACK_SWITCH = Path("/proc/sys/net/ipv4/vs/conntrack")

_IPTABLES_RULES = """\
*nat
:TESTBED - [0:0]
-A TESTBED -d 10.96.0.1/32 -p tcp -m comment --comment "a/b:c" -m tcp --dport 80 -j MARK --or-mark 0x4000
-A TESTBED -p tcp -m statistic --mode random --probability 0.5 -m tcp -j DNAT --to-destination 10.244.0.1:8080
-A TESTBED -m mark --mark 0x4000/0x4000 -j MASQUERADE --random-fully
COMMIT
*filter
:TESTBED - [0:0]
-A TESTBED -m conntrack --ctstate INVALID -j DROP
-A TESTBED -p tcp -m tcp --dport 80 -j REJECT
COMMIT
"""
_REDIRECT_RULES = """\
*nat
:TESTBED-PORTALS - [0:0]
-A TESTBED-PORTALS -d 10.96.0.1/32 -p tcp -m comment --comment "a/b:c" -m tcp -j REDIRECT --to-ports 4000
-A TESTBED-PORTALS -d 10.96.0.1/32 -p tcp -m tcp --dport 81 -j DNAT --to-destination 10.0.0.1:4000
COMMIT
"""
_SET_RULES = """\
*nat
:TESTBED-SETS - [0:0]
-A TESTBED-SETS -m set --match-set TESTBED dst,dst -j ACCEPT
COMMIT
"""
_NFTABLES_RULES = """\
table ip testbed {
  map services { type ipv4_addr . inet_proto . inet_service : verdict; }
  chain endpoint-a { meta l4proto tcp dnat to 10.244.0.1:8080; }
  chain pick { numgen random mod 2 vmap { 0 : goto endpoint-a, 1 : goto endpoint-a }; }
  chain mark-masq { mark and 0x4000 != 0 masquerade fully-random; }
  chain nat-prerouting {
    type nat hook prerouting priority dstnat;
    ip daddr . meta l4proto . th dport vmap @services;
  }
}
"""


class _Absent(Exception):
    """A part that this kernel does not have and cannot get."""


def main(arguments: dict[str, Any], line: Line) -> int:
    """Job entry: send one message of all that was found; `elsewhere` helps where nothing else does."""
    elsewhere = arguments["elsewhere"]
    line.send(find_features(elsewhere))
    return 0


def find_features(elsewhere: str) -> dict[str, Any]:
    """Try everything; an answer is None for yes, or a reason and a remedy."""

    def try_to(trial: Callable[[], object]) -> dict[str, str] | None:
        return refusal(trial, elsewhere)

    variants = {name: try_to(partial(try_rules, name, _IPTABLES_RULES)) for name in ("legacy", "nft")}
    working = [name for name, answer in variants.items() if answer is None]
    any_variant = None if working else variants["legacy"]
    ipset = try_to(try_ipset)
    ipvs = any_variant or ipset or try_to(lambda: try_ipvs(working[0]))
    return {
        "release": platform.release(),
        "variants": variants,
        "modes": {
            "userspace": any_variant or try_to(lambda: try_rules(working[0], _REDIRECT_RULES)),
            "iptables": any_variant,
            "ipvs": ipvs,
            "nftables": try_to(lambda: run(["nft", "-f", "-"], input=_NFTABLES_RULES)),
        },
        "schedulers": [] if ipvs else list(working_schedulers()),
        "netem": try_to(try_netem),
        "ipset": ipset,
    }


def refusal(trial: Callable[[], object], elsewhere: str) -> dict[str, str] | None:
    """Run one trial: None if it went well, else why not and what to do about it."""
    try:
        trial()
    except MachineLacks as lacking:
        return {"reason": lacking.what, "remedy": lacking.remedy}
    except _Absent as absent:
        return {"reason": str(absent), "remedy": elsewhere}
    except CommandFailed as failed:
        said = " ".join(failed.stderr.split()) or f"exit status {failed.status}"
        return {"reason": f"{failed.argv[0]}: {said[:_EVIDENCE_CHARACTERS]}", "remedy": elsewhere}
    return None


def try_rules(variant: str, rules: str) -> None:
    """Load rules by one iptables variant, beside what is there."""
    run([f"iptables-{variant}-restore", "--noflush"], input=rules)


def try_ipset() -> None:
    """Make one of the sets that IPVS mode makes."""
    run(["ipset", "create", "TESTBED", "hash:ip,port"])


def try_ipvs(variant: str) -> None:
    """Do what the IPVS mode does first: its switch, its device, its sets in a rule, a virtual server."""
    need_module("ip_vs", "IP_VS", present=Path("/proc/net/ip_vs").exists())
    if not _CONNTRACK_SWITCH.exists():
        raise MachineLacks(
            "net/ipv4/vs/conntrack does not exist in a network namespace of an ordinary user on this kernel",
            "run as root, or with --kernel uml",
        )
    try:
        _CONNTRACK_SWITCH.write_text("1")
    except OSError as error:
        raise MachineLacks(
            f"{_CONNTRACK_SWITCH}: {error.strerror}", "run as root, or with --kernel uml"
        ) from error
    try_device("dummy", "DUMMY")
    try_rules(variant, _SET_RULES)
    try_scheduler("rr", 1)


def try_device(kind: str, symbol: str) -> None:
    """Make a device of a kind, and remove it."""
    try:
        run(["ip", "link", "add", "testbed0", "type", kind])
    except CommandFailed as failed:
        need_module(kind, symbol, present=False)
        raise _Absent(f"no {kind} devices: {failed.stderr.strip()}") from failed
    run(["ip", "link", "delete", "testbed0"])


def try_scheduler(name: str, port: int) -> None:
    """Add a virtual server that is scheduled by `name`."""
    run(["ipvsadm", "--add-service", "--tcp-service", f"10.96.0.1:{port}", "--scheduler", name])


def working_schedulers() -> Iterator[str]:
    """Yield each scheduler that takes a virtual server."""
    for port, name in enumerate(SCHEDULERS, start=2):
        with suppress(CommandFailed):
            try_scheduler(name, port)
            yield name


def try_netem() -> None:
    """Delay packets on the loopback device."""
    try:
        run(["tc", "qdisc", "add", "dev", "lo", "root", "netem", "delay", "1ms"])
    except CommandFailed as failed:
        need_module("sch_netem", "NET_SCH_NETEM", present=False)
        raise _Absent(f"no delay and loss on links: {failed.stderr.strip()}") from failed


def need_module(name: str, symbol: str, *, present: bool) -> None:
    """Say why a part of the kernel is not `present`: MachineLacks if it could be, else _Absent."""
    if present:
        return
    if any(path.name.partition(".")[0].replace("-", "_") == name for path in module_files()):
        raise MachineLacks(f"the module {name} is not loaded", f"sudo modprobe {name}")
    if kernel_configuration().get(f"CONFIG_{symbol}", "n") == "n":
        raise _Absent(f"CONFIG_{symbol} is not set in this kernel")
    raise _Absent(f"this kernel has no {name}")


@cache
def module_files() -> tuple[Path, ...]:
    """Return the files of all modules installed for this kernel, whether loaded or not."""
    index = Path("/lib/modules") / platform.release() / "modules.dep"
    with suppress(OSError):
        return tuple(Path(entry.partition(":")[0]) for entry in index.read_text().splitlines())
    return ()


@cache
def kernel_configuration() -> Mapping[str, str]:
    """Return the options this kernel was built with, where it tells; empty where it does not."""
    for path, read in (
        (Path("/proc/config.gz"), gzip.open),
        (Path(f"/boot/config-{platform.release()}"), open),
    ):
        with suppress(OSError), read(path, "rt") as file:
            return dict(entry.strip().split("=", 1) for entry in file if entry.startswith("CONFIG_"))
    return {}
