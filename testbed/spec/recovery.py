"""All mistakes at once: where some parts of the input are wrong, what is right is still checked as a whole.

A validator that stops at the first kind of mistake sends its user round in circles. So parts in error are
taken out, the rest is validated again, and what that finds is kept unless it comes of the taking out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import BaseModel, ValidationError

from testbed.spec.mistakes import Mistake, Path, mistakes_in

_ROUNDS = 8


def all_mistakes(model: type[BaseModel], data: Mapping[str, Any], error: ValidationError) -> list[Mistake]:
    """The mistakes in `error`, and those that show once its parts are out of the way."""
    found = mistakes_in(error, model)
    doubtful = [mistake.path for mistake in found]
    pruned: dict[str, Any] = {
        key: dict(enumerate(value)) if isinstance(value, list | tuple) and _holds_models(value) else value
        for key, value in data.items()
    }
    latest = [tuple(detail["loc"]) for detail in error.errors(include_url=False)]
    for _ in range(_ROUNDS):
        if () in latest:
            break
        for path in latest:
            _take_out(pruned, path)
        numbers = {key: list(value) for key, value in pruned.items() if _is_numbered(value)}
        try:
            model.model_validate(
                {key: list(value.values()) if key in numbers else value for key, value in pruned.items()}
            )
        except ValidationError as next_error:
            fresh = [_renumbered(mistake, numbers) for mistake in mistakes_in(next_error, model)]
            found += [mistake for mistake in fresh if not _rests_on(mistake, doubtful)]
            latest = [
                _renumber(tuple(detail["loc"]), numbers) for detail in next_error.errors(include_url=False)
            ]
            doubtful += [mistake.path for mistake in fresh]
        else:
            break
    return found


def _holds_models(values: Sequence[Any]) -> bool:
    return any(isinstance(value, dict | BaseModel) for value in values)


def _is_numbered(value: Any) -> bool:
    """Whether `value` is a list that was turned into a mapping, so that removing leaves the numbers alone."""
    return isinstance(value, dict) and bool(value) and all(isinstance(key, int) for key in value)


def _take_out(data: dict[str, Any], path: Path) -> None:
    """Remove the smallest part that has the value at `path` and that may be absent."""
    top = path[0]
    inside = data.get(str(top))
    if _is_numbered(inside) and len(path) > 1:
        assert isinstance(inside, dict)
        element = inside.get(path[1])
        if len(path) == 3 and isinstance(element, dict) and path[2] in element:
            inside[path[1]] = {key: value for key, value in element.items() if key != path[2]}
        else:
            inside.pop(path[1], None)
            if not inside:
                data[str(top)] = []
    elif isinstance(inside, dict) and len(path) == 2 and path[1] in inside:
        data[str(top)] = {key: value for key, value in inside.items() if key != path[1]}
    else:
        data.pop(str(top), None)


def _renumber(path: Path, numbers: Mapping[str, Sequence[int]]) -> Path:
    if len(path) > 1 and path[0] in numbers and isinstance(path[1], int):
        return (path[0], numbers[str(path[0])][path[1]], *path[2:])
    return path


def _renumbered(mistake: Mistake, numbers: Mapping[str, Sequence[int]]) -> Mistake:
    path = _renumber(mistake.path, numbers)
    return Mistake(path, mistake.message, mistake.remedy, mistake.reads)


def _rests_on(mistake: Mistake, doubtful: Sequence[Path]) -> bool:
    """Whether a finding comes of a value that was in doubt already."""
    return any(
        path[0] in mistake.reads
        or path == mistake.path[: len(path)]
        or mistake.path == path[: len(mistake.path)]
        for path in doubtful
        if path
    )
