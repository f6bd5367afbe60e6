"""Label and field selectors: parsed once, matched against what the store knows of an object.

Must not know where objects are kept.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

from testbed.cluster.api import failures
from testbed.cluster.resources import Resource

Labels = Mapping[str, str]

_KEY = re.compile(
    r"(?:[a-z0-9](?:[-a-z0-9.]{0,251}[a-z0-9])?/)?[A-Za-z0-9](?:[-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?"
)
_VALUE = re.compile(r"(?:[A-Za-z0-9](?:[-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?)?")
_SET = re.compile(r"(\S+)\s+(in|notin)\s*\(([^()]*)\)")
_COMPARISON = re.compile(r"([^=!<>]*?)\s*(==|=|!=|<|>)\s*(.*)")


OPERATORS = {"In": "in", "NotIn": "notin", "Exists": "exists", "DoesNotExist": "absent"}
"""Operators of matchExpressions, and what a Requirement calls them."""


class Selectable(Protocol):
    """What a selector may ask of an object."""

    @property
    def namespace(self) -> str: ...
    @property
    def name(self) -> str: ...
    @property
    def labels(self) -> Labels: ...
    @property
    def fields(self) -> Mapping[str, str]: ...


class Requirement(NamedTuple):
    """One condition on a label; `operator` is in, notin, exists, absent, < or >."""

    key: str
    operator: str
    values: frozenset[str] = frozenset()

    def matches(self, labels: Labels) -> bool:
        value = labels.get(self.key)
        match self.operator:
            case "in":
                return value in self.values
            case "notin":
                return value not in self.values
            case "exists":
                return value is not None
            case "absent":
                return value is None
        try:
            number, bound = int(value or ""), int(next(iter(self.values)))
        except ValueError:
            return False
        return number < bound if self.operator == "<" else number > bound


LabelSelector = tuple[Requirement, ...]


def is_label_key(text: str) -> bool:
    """Say whether `text` may be the key of a label."""
    return _KEY.fullmatch(text) is not None


def is_label_value(text: str) -> bool:
    """Say whether `text` may be the value of a label."""
    return _VALUE.fullmatch(text) is not None


def parse_labels(text: str) -> LabelSelector:
    """Parse a label selector as written in a URL: `app=web,tier in (a,b),!old,weight>3`.

    Raises ApiError (400) naming the part that is wrong.
    """
    return tuple(_requirement(part) for part in _split(text))


def _split(text: str) -> list[str]:
    parts = re.split(r",(?![^(]*\))", text)
    return [part.strip() for part in parts] if text.strip() else []


def _requirement(part: str) -> Requirement:
    if found := _SET.fullmatch(part):
        key, operator, inside = found.groups()
        requirement = Requirement(key, operator, frozenset(value.strip() for value in inside.split(",")))
    elif found := _COMPARISON.fullmatch(part):
        key, sign, value = found.groups()
        operator = {"=": "in", "==": "in", "!=": "notin"}.get(sign, sign)
        requirement = Requirement(key, operator, frozenset((value,)))
    elif part.startswith("!"):
        requirement = Requirement(part[1:].strip(), "absent")
    else:
        requirement = Requirement(part, "exists")
    if not is_label_key(requirement.key) or not all(map(is_label_value, requirement.values)):
        raise failures.bad_request(f"unable to parse requirement: {part!r} is not a label requirement")
    if requirement.operator in "<>" and not all(v.isascii() and v.isdigit() for v in requirement.values):
        raise failures.bad_request(f"unable to parse requirement: {part!r} must compare with an integer")
    return requirement


def from_object(selector: Mapping[str, Any]) -> LabelSelector:
    """Read a LabelSelector object with matchLabels and matchExpressions, as Deployments have it."""
    labels = selector.get("matchLabels") or {}
    expressions = selector.get("matchExpressions") or []
    return (
        *(Requirement(key, "in", frozenset((value,))) for key, value in labels.items()),
        *(
            Requirement(item["key"], OPERATORS[item["operator"]], frozenset(item.get("values") or ()))
            for item in expressions
        ),
    )


def matches_labels(selector: LabelSelector, labels: Labels) -> bool:
    """Say whether all of the selector's requirements hold."""
    return all(requirement.matches(labels) for requirement in selector)


class FieldRequirement(NamedTuple):
    """One condition on a field: equal to `value`, or unlike it."""

    path: str
    equal: bool
    value: str


def parse_fields(text: str, resource: Resource) -> tuple[FieldRequirement, ...]:
    """Parse a field selector as written in a URL: `metadata.name=web,status.phase!=Running`.

    Raises ApiError (400) for a field that `resource` cannot be selected by.
    """
    requirements = []
    for part in re.split(r"(?<!\\),", text) if text else ():
        found = re.fullmatch(r"([^=!]+)(==|=|!=)(.*)", part.strip())
        if not found:
            raise failures.bad_request(f"invalid field selector: {part!r}; can't understand it")
        path, sign, value = found.groups()
        if path not in ("metadata.name", "metadata.namespace", *resource.fields):
            raise failures.bad_request(f"field label not supported: {path}")
        requirements.append(FieldRequirement(path, sign != "!=", re.sub(r"\\([\\,=])", r"\1", value)))
    return tuple(requirements)


def _field(item: Selectable, path: str) -> str:
    if path == "metadata.name":
        return item.name
    if path == "metadata.namespace":
        return item.namespace
    return item.fields.get(path, "")


@dataclass(frozen=True)
class Selection:
    """Which objects of one resource a list or watch is about; an empty namespace means all."""

    namespace: str = ""
    labels: LabelSelector = ()
    fields: Sequence[FieldRequirement] = ()

    @property
    def everything(self) -> bool:
        return not (self.namespace or self.labels or self.fields)

    def matches(self, item: Selectable) -> bool:
        """Say whether `item` is selected."""
        return (
            (not self.namespace or item.namespace == self.namespace)
            and matches_labels(self.labels, item.labels)
            and all((_field(item, path) == value) is equal for path, equal, value in self.fields)
        )


EVERYTHING = Selection()
