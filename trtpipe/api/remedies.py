"""Remedies in the words of Python: errors name options of the command line, and who calls a function has arguments."""

from __future__ import annotations

import inspect
import re
from contextlib import contextmanager
from functools import wraps
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, TypeVar, cast

from trtpipe.config.units import check_names
from trtpipe.errors import TrtpipeError

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Mapping

F = TypeVar("F", bound="Callable[..., Any]")

#: An option, and the space before a value.
_OPTION = re.compile(r"(?<![\w-])-(?:-([a-z][a-z0-9-]*)|(o)\b)(?: (?=[A-Z]+\b|sm\d))?")
#: Options whose argument has another name.
_CALLED: Mapping[str, str] = MappingProxyType({
    "o": "out", "calib": "recipe", "target": "targets", "no_simplify": "simplify=False",
    "allow_random_calibration": "allow_random", "update": "reason", "triton_settings": "triton",
})  # fmt: skip
#: Arguments that are True, where no value follows.
_SWITCHES = frozenset({"allow_random", "allow_failed", "handover", "python", "half", "recalibrate"})
#: What another function takes.
_ELSEWHERE: Mapping[str, str] = MappingProxyType({"handover": "make_package's handover", "triton": "TritonSettings"})


@contextmanager
def explained_to(arguments: Collection[str]) -> Iterator[None]:
    """The note with the remedy of errors that pass gets the words of Python.

    Args:
        arguments: names of those of the function that was called.
    """
    try:
        yield
    except TrtpipeError as error:
        as_raised, spelled = (f"try: {text}" for text in (error.remedy, in_python(error.remedy, arguments)))
        notes: list[str] = vars(error).get("__notes__", [])
        notes[:] = [spelled if note == as_raised else note for note in notes]
        raise


def explained(function: F) -> F:
    """A public function whose errors are ``explained_to`` its arguments, and the nearest of them to a wrong name."""
    arguments = tuple(inspect.signature(function).parameters)

    @wraps(function)
    def with_notes(*positional: object, **named: object) -> object:
        check_names(function.__name__, named, arguments)
        with explained_to(arguments):
            return function(*positional, **named)

    return cast("F", with_notes)


def in_python(remedy: str, arguments: Collection[str]) -> str:
    """A remedy with arguments, and keys of the profile, in the place of options; what is neither stays.

    Example:
        >>> in_python("add --calib-data DATA, or build with --fp16", ["calib_data", "precision"])
        'add calib_data=DATA, or build with precision="fp16"'
    """

    from trtpipe.config.formats import Precision
    from trtpipe.config.profile import BuildSettings, DeploymentProfile
    from trtpipe.config.recipe import CalibrationRecipe, DataSettings
    from trtpipe.config.triton import TritonSettings

    tables = (
        ("profile", "", DeploymentProfile), ("profile", "build.", BuildSettings),
        ("recipe", "", CalibrationRecipe), ("recipe", "data.", DataSettings),
    )  # fmt: skip

    def spelled(option: re.Match[str]) -> str:
        name, has_value = (option[1] or option[2]).replace("-", "_"), option[0].endswith(" ")
        called = _CALLED.get(name, name)
        if called.partition("=")[0] in arguments:
            return called if "=" in called else f"{called}=" + "True" * (called in _SWITCHES and not has_value)
        if name in Precision.__members__ and "precision" in arguments:
            return f'precision="{name}"'
        for record, prefix, table in tables:
            if name in table.model_fields and record in arguments:
                return f"the {record}'s {prefix}{name}" + " = " * has_value
        if name.removeprefix("triton_") in TritonSettings.model_fields and name.startswith("triton_"):
            return f"TritonSettings.{name.removeprefix('triton_')}" + " = " * has_value
        if called in _ELSEWHERE:
            return _ELSEWHERE[called] + " " * has_value
        return option[0]

    return _OPTION.sub(spelled, remedy)
