"""The lab by hand: a prompt in which nodes and pods are addressed by name.

client curl -s http://web                       run a command on a pod
node1 iptables -t nat -L -n -v | grep web       or on a node; pipes work as in any shell
nodes, pods, services                           what there is
kubectl get svc -A                              kubectl, on the first node
mode ipvs                                       switch every node's proxy to another mode
help, exit
"""

from __future__ import annotations

import re
import readline
import shlex
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from difflib import get_close_matches

from rich.console import Console
from rich.table import Table

from testbed.errors import TestbedError, UserError
from testbed.lab.cluster import Cluster

_PROMPT = "testbed> "
_LEAVE = ("exit", "quit")
_KUBECTL = "kubectl"
_ASSIGNMENT = re.compile(r"[A-Za-z_]\w*=.*", re.DOTALL)


def run_commands(lab: Cluster, lines: Sequence[str]) -> int:
    """Run each line in order; stop at the first that fails and return its exit status, as `sh -e` does."""
    for line in lines:
        status = run_line(lab, line)
        if status != 0:
            return status
    return 0


def interact(lab: Cluster) -> int:
    """Read lines until `exit` or the end of input; a line that fails is reported and costs nothing."""
    readline.set_completer(_completer(lab))
    readline.parse_and_bind("tab: complete")
    _print_help(lab)
    while True:
        try:
            line = input(_PROMPT).strip()
        except EOFError:
            print()
            return 0
        except KeyboardInterrupt:
            print()
            continue
        if line in _LEAVE:
            return 0
        try:
            run_line(lab, line)
        except TestbedError as error:
            print(error, file=sys.stderr)


def run_line(lab: Cluster, line: str) -> int:
    """Run one line of the prompt and return its exit status.

    Raises:
        UserError: it begins with the name of nothing in the lab.
    """
    word, _, rest = line.strip().partition(" ")
    if word == "" or word.startswith("#"):
        return 0
    if is_kubectl(line):
        return _run_on(lab, lab.nodes[0], line)
    if word not in _VERBS:
        return _run_on(lab, word, rest)
    verb, arguments = _VERBS[word], rest.split()
    if len(arguments) != len(verb.takes):
        raise UserError(f"usage: {' '.join((word, *verb.takes))}")
    verb.do(lab, *arguments)
    return 0


def is_kubectl(line: str) -> bool:
    """Whether a line calls kubectl, perhaps behind variables: `KUBE_EDITOR=vi kubectl edit ...`."""
    try:
        words = shlex.split(line)
    except ValueError:  # an open quote; the shell will say so
        words = line.split()
    return next((word for word in words if not _ASSIGNMENT.fullmatch(word)), "") == _KUBECTL


def _run_on(lab: Cluster, name: str, command: str) -> int:
    try:
        host = lab.host(name)
    except UserError as error:
        verbs = get_close_matches(name, (*_VERBS, *_LEAVE), n=1)
        if not verbs:
            raise
        raise UserError(f"{error} (or the verb {verbs[0]!r}?)") from None
    if not command:
        raise UserError(f"{name}: say what to run there, such as `{name} ip address`")
    return lab.execute(host.name, ["sh", "-c", command], b"", _write_through)


def _write_through(stream: str, chunk: bytes) -> None:
    out = sys.stdout.buffer if stream == "stdout" else sys.stderr.buffer
    out.write(chunk)
    out.flush()


def _print_rows(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    table = Table(title=title, title_justify="left")
    for column in columns:
        table.add_column(column)
    for row in rows:
        table.add_row(*row)
    Console().print(table)


def _print_nodes(lab: Cluster) -> None:
    rows = [(node["name"], node["address"]) for node in lab.inventory()["nodes"]]
    _print_rows("nodes", ("name", "address"), rows)


def _print_pods(lab: Cluster) -> None:
    rows = [
        (pod["namespace"], pod["name"], pod["node"], pod["address"], ", ".join(pod["ports"]))
        for pod in lab.inventory()["pods"]
    ]
    _print_rows("pods", ("namespace", "name", "node", "address", "ports"), rows)


def _print_services(lab: Cluster) -> None:
    rows = [
        (*(service[key] for key in ("namespace", "name", "type", "cluster_ip")), ", ".join(service["ports"]))
        for service in lab.inventory()["services"]
    ]
    _print_rows("services", ("namespace", "name", "type", "cluster IP", "ports"), rows)


def _switch_mode(lab: Cluster, mode: str) -> None:
    lab.switch_mode(mode)
    print(f"every proxy is in {mode} mode")


def _print_help(lab: Cluster) -> None:
    print(f"{len(lab.nodes)} nodes, {len(lab.pods)} pods, mode {lab.mode}.")
    print(f"NAME COMMAND runs a command on a node or pod; also: {_KUBECTL}, {', '.join(_VERBS)}, exit.")


@dataclass(frozen=True)
class _Verb:
    """What the prompt itself does; `takes` names its arguments."""

    do: Callable[..., None]
    takes: tuple[str, ...] = ()


_VERBS = {
    "nodes": _Verb(_print_nodes),
    "pods": _Verb(_print_pods),
    "services": _Verb(_print_services),
    "mode": _Verb(_switch_mode, takes=("MODE",)),
    "help": _Verb(_print_help),
}


def _completer(lab: Cluster) -> Callable[[str, int], str | None]:
    def complete(text: str, index: int) -> str | None:
        words = sorted({*_VERBS, *_LEAVE, _KUBECTL, *lab.nodes, *lab.pods, "outside"})
        matches = [word for word in words if word.startswith(text)]
        return matches[index] if index < len(matches) else None

    return complete
