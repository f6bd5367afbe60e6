"""Reads the table of `conformance` and holds a node's traffic against it.

Owns how often a question is asked before its answer is believed. Must not know what the table says.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass, field

from asking import SILENCE, Answer, Outcome, Question
from conformance import WAYS, WORDS, Case
from proxynode import NODE, Node, of_family
from smallcluster import GATEWAY, OUTSIDE, PODS

from testbed.proxy.model import Family

_AT_ONCE, _SEEN_ENOUGH, _TRIES = 2, 6, 64
"""How many questions of a kind to ask at a time; so many answers before it is believed that nobody else gives
one; so many at most until everybody has."""
_ANY = "any"
_ADDRESSES = {"node1": NODE, "outside": OUTSIDE} | {pod: address for pod, (_, address) in PODS.items()}


@dataclass
class _Cell:
    """One kind of question, what has to become of it, and what became of it so far."""

    way: str
    question: Question
    expected: frozenset[Outcome]
    found: list[Outcome] = field(default_factory=list)

    @property
    def mute(self) -> bool:
        return self.expected == {SILENCE}

    @property
    def settled(self) -> bool:
        """Whether no further question could tell anything new."""
        found = frozenset(self.found)
        if not found <= self.expected or len(self.found) >= _TRIES:
            return True
        enough = 1 if self.expected & {*WORDS} else _SEEN_ENOUGH
        return len(self.found) >= enough and found == self.expected

    def take(self, outcome: Outcome) -> None:
        anybody = any(isinstance(each, Answer) and each.peer == _ANY for each in self.expected)
        self.found.append(Answer(outcome.pod, _ANY) if anybody and isinstance(outcome, Answer) else outcome)

    def __str__(self) -> str:
        found, expected = (sorted({str(each) for each in side}) for side in (self.found, self.expected))
        asked = self.question
        return (
            f"{asked.protocol} from {asked.source} to {self.way} {asked.address}:{asked.port}: "
            f"{found} instead of {expected}"
        )


def prove(node: Node, expected: str, *sources: str) -> None:
    """Assert that traffic from `sources` (the client pod) finds what a table says."""
    prove_case(node, Case((), expected, sources=sources or ("client",)))


def prove_case(node: Node, case: Case) -> None:
    """Assert that traffic finds what a case says of the node's mode, in every IP family that it has."""
    cells, chance = list(_cells(case, node)), random.Random(1)
    while unsettled := [cell for cell in cells if not cell.settled]:
        asked = [cell for cell in unsettled for _ in range(1 if cell.mute else _AT_ONCE)]
        chance.shuffle(asked)  # else those who take turns could meet the same questions each time
        outcomes = node.cluster.outcomes([cell.question for cell in asked], [cell.mute for cell in asked])
        for cell, outcome in zip(asked, outcomes, strict=True):
            cell.take(outcome)
    wrong = [str(cell) for cell in cells if frozenset(cell.found) != cell.expected]
    assert not wrong, "\n".join(wrong)


def _cells(case: Case, node: Node) -> Iterator[_Cell]:
    for family in node.families:
        for way, source, protocol, text in case.cells(node.mode.name):
            address, port = WAYS[way]
            if family is Family.IPV6 and address.startswith("127."):
                continue  # the kernel translates nothing that goes to ::1
            question = Question(source, of_family(address, family), port, protocol)
            yield _Cell(way, question, frozenset(_outcomes(text, source, family)))


def _outcomes(text: str, source: str, family: Family) -> Iterator[Outcome]:
    """What a cell of the table stands for."""
    if text in WORDS:
        yield text
        return
    for part in text.split(","):
        pods, _, seen = part.partition("=")
        for pod in pods:
            at_home = GATEWAY if PODS[pod][0] == "node1" else NODE
            peer = _ADDRESSES[source] if seen == "own" else at_home
            yield Answer(pod, _ANY if seen == _ANY else of_family(peer, family))
