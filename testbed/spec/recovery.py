"""All mistakes at once: where some parts of the input are wrong, what is right is still checked as a whole.

A validator that stops at the first kind of mistake sends its user round in circles. So parts in error are
taken out, the rest is validated again, and what that finds is kept unless it comes of the taking out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from pydantic import BaseModel, ValidationError

from testbed.spec.mistakes import Mistake, Path, mistakes_in

_ROUNDS = 12


def all_mistakes(model: type[BaseModel], data: Mapping[str, Any], error: ValidationError) -> list[Mistake]:
    """The mistakes in `error`, and those that show once its parts are out of the way."""
    found = mistakes_in(error, model)
    doubtful = [path for mistake in found for path in mistake.doubts]
    pruned: dict[str, Any] = {
        key: dict(enumerate(value)) if isinstance(value, list) and _holds_models(value) else value
        for key, value in _copied(data).items()
    }
    lists = {key for key, value in pruned.items() if isinstance(value, dict) and 0 in value}
    latest = found
    for _ in range(_ROUNDS):
        if _is_of_the_whole(error):
            break
        doubtful += [_take_out(pruned, mistake.path) for mistake in latest]
        numbers = {key: list(pruned[key]) for key in lists & pruned.keys()}
        try:
            model.model_validate(pruned | {key: list(pruned[key].values()) for key in numbers})
        except ValidationError as next_error:
            error = next_error
        else:
            break
        latest = [
            replace(mistake, path=_renumber(mistake.path, numbers)) for mistake in mistakes_in(error, model)
        ]
        found = found + [mistake for mistake in latest if not _rests_on(mistake, doubtful)]
        doubtful += [path for mistake in latest for path in mistake.doubts]
    return found


def _is_of_the_whole(error: ValidationError) -> bool:
    """Whether every part was right, so that the whole has been checked: there is no more to find."""
    return any(detail["loc"] == () for detail in error.errors(include_url=False))


def _holds_models(values: Sequence[Any]) -> bool:
    return any(isinstance(value, dict | BaseModel) for value in values)


def _take_out(data: dict[str, Any], path: Path) -> Path:
    """Remove what is at `path`, or the nearest thing above that has a key; return the path of that.

    Elements of lists further in have no key of their own: without one of them the others would move up.
    """
    for length in range(len(path), 0, -1):
        holder: Any = data
        for step in path[: length - 1]:
            inside = isinstance(holder, dict) and step in holder
            inside = inside or (isinstance(holder, list) and isinstance(step, int) and step < len(holder))
            holder = holder[step] if inside else None
        if isinstance(holder, dict) and path[length - 1] in holder:
            del holder[path[length - 1]]
            return path[:length]
    return path


def _copied(value: Any) -> Any:
    """A copy of the plain parts of `value`, to take things out of."""
    if isinstance(value, dict):
        return {key: _copied(inner) for key, inner in value.items()}
    return [_copied(inner) for inner in value] if isinstance(value, list | tuple) else value


def _renumber(path: Path, numbers: Mapping[str, Sequence[int]]) -> Path:
    if len(path) > 1 and path[0] in numbers and isinstance(path[1], int):
        return (path[0], numbers[str(path[0])][path[1]], *path[2:])
    return path


def _rests_on(mistake: Mistake, doubtful: Sequence[Path]) -> bool:
    """Whether a finding comes of a value that was in doubt already."""
    path = mistake.path
    return any(
        doubt[0] in mistake.reads
        or doubt == path[: len(doubt)]
        or path == doubt[: len(path)]
        or _beside(path, doubt) in mistake.beside
        for doubt in doubtful
        if doubt
    )


def _beside(path: Path, doubt: Path) -> str | int:
    """The key of `doubt` in the part that `path` is in too, or nothing where they are in different parts."""
    depth = 2 if len(path) > 1 and isinstance(path[1], int) else 1
    return doubt[depth] if len(doubt) > depth and path[:depth] == doubt[:depth] else ""
