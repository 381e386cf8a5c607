"""Records that users write, in files or in Python: what is wrong with one is said in their words."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, get_args, get_origin

from pydantic import ValidationError, ValidationInfo, field_validator

from trtpipe.artifact import PublicRecord
from trtpipe.config.complaints import complaint

if TYPE_CHECKING:
    from trtpipe.errors import RecipeError


class UserRecord(PublicRecord):
    """A record that users make, by its constructor or of a dictionary: RecipeError names the field that is wrong."""

    def __init__(self, **fields: Any) -> None:
        try:
            super().__init__(**fields)
        except ValidationError as error:
            raise self.complaint(fields, error) from error

    # pydantic validates such a record, one in another record's field included, without its constructor
    __init__.__pydantic_base_init__ = True  # type: ignore[attr-defined]

    @classmethod
    def complaint(cls, given: Any, error: ValidationError) -> RecipeError:
        """In the words of its author: the key, and the nearest right one."""
        return complaint(cls.__name__, cls, given, error)

    @field_validator("*", mode="before")
    @classmethod
    def _booleans_are_no_numbers(cls, value: object, info: ValidationInfo) -> object:
        """Python, and so pydantic, takes ``True`` for 1, which a limit of 1 or a length of 1 is not meant by."""
        assert info.field_name is not None
        annotation = cls.model_fields[info.field_name].annotation
        values = value if isinstance(value, (list, tuple)) else (value,)
        if isinstance(value, dict) and get_origin(annotation) is dict:  # any other is a record of its own
            values = tuple(value.values())
        if any(isinstance(each, bool) for each in values) and not _takes_booleans(annotation):
            raise ValueError("neither true nor false is a value of it")
        return value


def _takes_booleans(annotation: object) -> bool:
    parts = get_args(annotation)
    return annotation is bool or any(isinstance(part, bool) or _takes_booleans(part) for part in parts)
