"""Records that users write, in files or in Python: what is wrong with one is said in their words."""

from __future__ import annotations

from typing import Any

from pydantic import ValidationError

from trtpipe.artifact import Record
from trtpipe.config.complaints import complaint


class UserRecord(Record):
    """A record that users make with its constructor, which raises RecipeError; the message names the field."""

    def __init__(self, **fields: Any) -> None:
        try:
            super().__init__(**fields)
        except ValidationError as error:
            raise complaint(type(self).__name__, type(self), fields, error) from error

    # pydantic validates such a record, one in another record's field included, without its constructor
    __init__.__pydantic_base_init__ = True  # type: ignore[attr-defined]
