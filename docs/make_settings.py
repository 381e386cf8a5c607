"""Write ``docs/settings.md``, every key of profiles and recipes, from the code: ``python docs/make_settings.py``."""

from __future__ import annotations

import inspect
import re
import types
import typing
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel

from trtpipe import CalibrationRecipe, DeploymentProfile
from trtpipe.config.tomlfile import FROM_FILE

if TYPE_CHECKING:
    from collections.abc import Iterator

PAGE = Path(__file__).with_name("settings.md")

_INTRODUCTION = """\
# Keys of profiles and recipes

Written by `python docs/make_settings.py` from the code. A [profile](../profiles) says what is built (`--profile`), a
[recipe](../calib) from what data (`--calib`); both are TOML. `trtpipe init MODEL` writes a commented pair to begin
with, `trtpipe recipes` lists those that come with trtpipe. An unknown key is an error. Sizes and durations have a unit
(`"4G"`, `"200ms"`). [Command-line options](cli.md) override keys.
"""
_FILES = (("Profile", DeploymentProfile), ("Recipe", CalibrationRecipe))


def render() -> str:
    """The page."""
    lines = [_INTRODUCTION]
    for title, model in _FILES:
        lines += [f"## {title}", "", *_table(model, ""), ""]
    return "\n".join(lines).rstrip() + "\n"


def _table(model: type[BaseModel], prefix: str) -> Iterator[str]:
    """The keys of one table, and then those of the tables in it."""
    meanings, inner = meanings_of(model), dict(_tables(model))
    own = [name for name in model.model_fields if not {name, f"{name}.NAME"} & set(inner)]
    usual = _defaults(model)
    if prefix:
        yield from (f"### [{prefix}]", "")
    yield from ("| key | default | meaning |", "|---|---|---|")
    for name in own:
        yield f"| `{name}` | {usual[name]} | {_cell(meanings.get(name, ''), model.model_fields[name].annotation)} |"
    for name, table in inner.items():
        yield ""
        yield from _table(table, f"{prefix}.{name}" if prefix else name)


def _tables(model: type[BaseModel]) -> Iterator[tuple[str, type[BaseModel]]]:
    for name, field in model.model_fields.items():
        options = (field.annotation, *typing.get_args(field.annotation))
        if table := next((each for each in options if isinstance(each, type) and issubclass(each, BaseModel)), None):
            yield f"{name}.NAME" if typing.get_origin(field.annotation) is dict else name, table


def _defaults(model: type[BaseModel]) -> dict[str, str]:
    """As TOML has them; empty where there is none."""
    given = {name: field.get_default(call_default_factory=True) for name, field in model.model_fields.items()}
    required = {name for name, field in model.model_fields.items() if field.is_required()}
    dumped = model.model_construct(**given).model_dump(context=FROM_FILE, warnings=False)
    return {name: "required" if name in required else _toml(dumped[name]) for name in model.model_fields}


def _toml(value: Any) -> str:
    if value is None or value == "" or (isinstance(value, (tuple, list, dict)) and not value):
        return ""
    if isinstance(value, (tuple, list)):
        return "`[" + ", ".join(_toml(each).strip("`") for each in value) + "]`"
    if isinstance(value, (str, Enum)):
        return f'`"{value}"`'
    return f"`{str(value).lower()}`"


def meanings_of(model: type[BaseModel]) -> dict[str, str]:
    """Key -> what the docstrings of the record and its bases say of it."""
    found: dict[str, str] = {}
    for each in reversed(model.__mro__):
        section = re.search(r"^Attributes:\n((?:    .*\n?|\n)*)", inspect.cleandoc(each.__doc__ or ""), re.MULTILINE)
        for entry in re.split(r"\n(?=    \S)", section[1].rstrip()) if section else ():
            names, _, words = entry.strip().partition(": ")
            found |= {name.strip(): " ".join(words.split()) for name in names.split(",")}
    return found


def _cell(words: str, annotation: object) -> str:
    choices = [repr(each).replace("'", '"') for each in _choices(annotation)]
    if choices and not all(choice.strip('"') in words for choice in choices):
        words = f"{words} One of {', '.join(f'`{choice}`' for choice in choices)}.".strip()
    return words.replace("``", "`").replace("|", "\\|")


def _choices(annotation: object) -> tuple[Any, ...]:
    """What a Literal admits, also inside of Optional."""
    if typing.get_origin(annotation) is typing.Literal:
        return tuple(each for each in typing.get_args(annotation) if isinstance(each, str))
    if typing.get_origin(annotation) in (typing.Union, types.UnionType):
        return tuple(choice for each in typing.get_args(annotation) for choice in _choices(each))
    return ()


if __name__ == "__main__":
    PAGE.write_text(render(), encoding="utf-8")
