"""What is wrong with an input, in the words of the project: where, what, and what to write instead.

Owns the step from a validator's complaint to a `Problem`. It knows pydantic's error types, so that
nobody else has to, and knows nothing about topologies.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from types import NoneType, UnionType
from typing import Annotated, Any, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError

from testbed.errors import Problem

Path = tuple[str | int, ...]

_KINDS = {
    "int": "a whole number",
    "float": "a number",
    "string": "text",
    "bool": "true or false",
    "tuple": "a list",
    "list": "a list",
    "dict": "a mapping",
    "model": "a mapping",
}
_MANY = 15


@dataclass(frozen=True)
class Mistake:
    """One thing that is wrong with the value at `path`, counted from the model that was validated.

    `reads` names the top-level keys that the finding was derived from besides its own, and `beside` those of
    the same part: where one of them is in doubt itself, the finding is worth nothing. `meant` is the key
    that an unknown one was probably meant to be.
    """

    path: Path
    message: str
    remedy: str = ""
    reads: frozenset[str] = frozenset()
    beside: frozenset[str] = frozenset()
    meant: str = ""

    @property
    def doubts(self) -> tuple[Path, ...]:
        """The paths whose values are not to be relied on."""
        return (self.path, (*self.path[:-1], self.meant)) if self.meant else (self.path,)

    def under(self, path: Path) -> Mistake:
        """The same mistake, seen from further up."""
        return replace(self, path=path + self.path)


class Mistakes(ValueError):
    """Raised by validators that may find several mistakes; pydantic carries it to `mistakes_in`."""

    def __init__(self, mistakes: Iterable[Mistake]) -> None:
        self.mistakes = tuple(mistakes)
        super().__init__("; ".join(mistake.message for mistake in self.mistakes))


class Wrong(Mistakes):
    """Raised by the validator of one value."""

    def __init__(self, message: str, remedy: str = "") -> None:
        super().__init__([Mistake((), message, remedy)])


def show(value: object) -> str:
    """The value as its writer knows it."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, dict | BaseModel):
        return "a mapping"
    if isinstance(value, list | tuple):
        return "a list"
    if value is None:
        return "nothing"
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def show_path(path: Path) -> str:
    """`("services", 2, "name")` as `services[2].name`."""
    text = ""
    for step in path:
        if isinstance(step, int):
            text += f"[{step}]"
        elif re.fullmatch(r"[\w-]+", step):
            text += f".{step}" if text else step
        else:
            text += f"[{step!r}]"
    return text


def nearest(value: object, names: Collection[str]) -> str:
    """A remedy that offers the name meant by `value`, or all names where none is near and they are few."""
    folded = {name.lower().replace("_", "").replace("-", ""): name for name in names}
    wanted = str(value).lower().replace("_", "").replace("-", "")
    if found := difflib.get_close_matches(wanted, folded, n=1, cutoff=0.6):
        return f"did you mean {folded[found[0]]!r}?"
    if 0 < len(names) <= _MANY:
        return f"one of {', '.join(names)}" if len(names) > 1 else f"only {next(iter(names))!r}"
    return ""


def annotation_at(model: type[BaseModel], path: Path) -> Any:
    """The type that `model` declares for the value at `path`, or None where it declares none."""
    here: Any = model
    for step in path:
        here = _bare(here)
        if isinstance(here, type) and issubclass(here, BaseModel):
            field = here.model_fields.get(str(step))
            here = field.annotation if field else None
        elif get_origin(here) in (tuple, list):
            here = get_args(here)[0]
        elif get_origin(here) is dict:
            here = get_args(here)[1]
        else:
            return None
    return _bare(here)


def _bare(annotation: Any) -> Any:
    """`annotation` without `Annotated` and `| None`."""
    if get_origin(annotation) is Annotated:
        return _bare(get_args(annotation)[0])
    if get_origin(annotation) in (Union, UnionType):
        first, *others = [arg for arg in get_args(annotation) if arg is not NoneType]
        return annotation if others else _bare(first)
    return annotation


def mistakes_in(error: ValidationError, model: type[BaseModel]) -> list[Mistake]:
    """All mistakes that pydantic found while it validated input for `model`."""
    found: list[Mistake] = []
    for detail in error.errors(include_url=False):
        path = tuple(step for step in detail["loc"] if step != "[key]")
        kind, value, context = detail["type"], detail["input"], detail.get("ctx", {})
        if isinstance(raised := context.get("error"), Mistakes):
            found += [mistake.under(path) for mistake in raised.mistakes]
        elif kind == "extra_forbidden":
            found.append(_unknown_key(model, path))
        else:
            found.append(Mistake(path, *_describe(kind, value, context, annotation_at(model, path), path)))
    misspelt = {mistake.doubts[-1] for mistake in found if mistake.meant}
    return [mistake for mistake in found if mistake.message != _MISSING or mistake.path not in misspelt]


_MISSING = "this key is missing"
_CHOSEN_ELSEWHERE = {
    "mode": "name modes under sweep.modes, or one with --mode",
    "kernel": "choose it with --kernel",
}


def _unknown_key(model: type[BaseModel], path: Path) -> Mistake:
    """The mistake for a key that `model` does not have."""
    if remedy := _CHOSEN_ELSEWHERE.get(str(path[-1]), ""):
        return Mistake(path, "unknown key", remedy)
    owner = annotation_at(model, path[:-1])
    keys = [name for name, field in owner.model_fields.items() if field.repr]
    remedy = nearest(path[-1], keys)
    meant = remedy.split("'")[1] if remedy.startswith("did you mean") else ""
    if not meant and (home := _home_of(str(path[-1]), model)):
        remedy = f"it belongs under {home!r}"
    elif not meant:
        remedy = f"known keys: {', '.join(keys)}"
    return Mistake(path, "unknown key", remedy, meant=meant)


def _home_of(key: str, model: type[BaseModel]) -> str:
    """The top-level key of `model` under which `key` is known."""
    for name in model.model_fields:
        part = annotation_at(model, (name,))
        part = _bare(get_args(part)[0]) if get_origin(part) is tuple else part
        if isinstance(part, type) and issubclass(part, BaseModel) and key in part.model_fields:
            return name
    return ""


def _describe(
    kind: str, value: object, context: dict[str, Any], annotation: Any, path: Path
) -> tuple[str, str]:
    """Message and remedy for one of pydantic's error types."""
    if kind == "missing":
        return _MISSING, ""
    if kind == "literal_error":
        names = [str(name) for name in get_args(annotation)]
        noun = str(path[-1] if isinstance(path[-1], str) else path[-2]).replace("_", " ")
        return f"{show(value)} is not {_NOUNS.get(noun, f'a valid {noun}')}", nearest(value, names)
    if kind in ("greater_than_equal", "greater_than"):
        return f"{show(value)} is too small", f"at least {context.get('ge', context.get('gt'))}"
    if kind in ("less_than_equal", "less_than"):
        return f"{show(value)} is too large", f"at most {context.get('le', context.get('lt'))}"
    if kind == "too_short":
        return "the list is empty", f"name at least {context.get('min_length', 1)}"
    wanted = _KINDS.get(kind.split("_")[0])
    if wanted is None:
        return f"{show(value)} cannot be used here", str(context or "")
    if value is None:
        return "nothing is given", f"{wanted} is wanted"
    remedy = ""
    if wanted == "text" and isinstance(value, bool | int | float):
        remedy = "put it in quotes"
    elif str(path[-1]).endswith(("_ms", "_s")) and isinstance(value, str):
        remedy = "the key names the unit, write the number alone"
    return f"{show(value)} is not {wanted}", remedy


_NOUNS = {
    "scheduler": "an IPVS scheduler",
    "modes": "a mode",
    "twin": "a mode",
    "traffic": "a kind of traffic",
    "protocol": "a protocol",
    "type": "a Service type",
    "session affinity": "a session affinity",
    "ip families": "an IP family",
    "iptables variant": "an iptables variant",
    "kind": "a kind of workload",
    "start": "a way to start",
    "nodes": "a choice of nodes",
}


def problems(
    mistakes: Sequence[Mistake], *, file: str = "", lines: dict[Path, int] | None = None
) -> list[Problem]:
    """The mistakes as problems, in the order of the file; a path without a line takes its parent's."""
    located = []
    for mistake in mistakes:
        path = mistake.path
        while lines and path and path not in lines:
            path = path[:-1]
        line = lines.get(path) if lines else None
        located.append(Problem(mistake.message, file, line, show_path(mistake.path), mistake.remedy))
    unique = dict.fromkeys(located)
    return sorted(unique, key=lambda problem: problem.line or 0)
