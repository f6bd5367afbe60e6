"""What all models of the specification share: frozen, no unknown keys, our own errors."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Self

from pydantic import BaseModel, ConfigDict, ValidationError

from testbed.errors import SpecError
from testbed.spec.mistakes import Mistake, mistakes_in, problems


class Model(BaseModel):
    """A frozen part of a specification; constructing it raises `SpecError` with every mistake in it."""

    model_config: ClassVar[ConfigDict] = ConfigDict(frozen=True, extra="forbid")

    def __init__(self, **keys: Any) -> None:
        try:
            super().__init__(**keys)
        except ValidationError as error:
            raise SpecError(problems(self.explain(keys, error))) from None

    # Tells pydantic to build nested models without this constructor, so that a parent sees every mistake.
    __init__.__pydantic_base_init__ = True  # type: ignore[attr-defined]

    @classmethod
    def explain(cls, keys: Mapping[str, Any], error: ValidationError) -> list[Mistake]:
        """All mistakes in `keys`, given what pydantic said of them."""
        return mistakes_in(error, cls)

    def changed(self, **changes: Any) -> Self:
        """A validated copy with other values for some keys.

        Raises:
            SpecError: the changes are mistaken, or do not fit the rest.
        """
        kept = {name: getattr(self, name) for name in type(self).model_fields if name not in changes}
        return type(self)(**kept, **changes)

    def _settle(self, **values: Any) -> None:
        """Set fields while validating, before anyone can see the frozen model."""
        self.__dict__.update(values)
