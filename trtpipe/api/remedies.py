"""Remedies in the words of Python: errors name options of the command line, and who calls a function has arguments."""

from __future__ import annotations

import inspect
import re
from contextlib import contextmanager
from functools import wraps
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, TypeVar, cast

from trtpipe.errors import TrtpipeError

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Mapping

F = TypeVar("F", bound="Callable[..., Any]")

#: An option, and the space before a value.
_OPTION = re.compile(r"(?<![\w-])-(?:-([a-z][a-z0-9-]*)|(o)\b)(?: (?=[A-Z]{2}|sm\d))?")
#: Options whose argument has another name.
_CALLED: Mapping[str, str] = MappingProxyType({
    "o": "out", "calib": "recipe", "target": "targets", "no_simplify": "simplify=False",
    "allow_random_calibration": "allow_random", "update": "reason",
})  # fmt: skip


@contextmanager
def explained_to(arguments: Collection[str]) -> Iterator[None]:
    """Errors that pass get a note with their remedy, which Python 3.11 and later show with the traceback.

    Args:
        arguments: names of those of the function that was called.
    """
    try:
        yield
    except TrtpipeError as error:
        if error.remedy:
            vars(error).setdefault("__notes__", [f"try: {in_python(error.remedy, arguments)}"])
        raise


def explained(function: F) -> F:
    """A public function whose errors are ``explained_to`` its own arguments."""
    arguments = tuple(inspect.signature(function).parameters)

    @wraps(function)
    def with_notes(*positional: object, **named: object) -> object:
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

    def spelled(option: re.Match[str]) -> str:
        name = (option[1] or option[2]).replace("-", "_")
        called = _CALLED.get(name, name)
        if called.partition("=")[0] in arguments:
            return called if "=" in called else f"{called}="
        if name in Precision.__members__ and "precision" in arguments:
            return f'precision="{name}"'
        for prefix, table in (("", DeploymentProfile), ("build.", BuildSettings)):
            if name in table.model_fields and "profile" in arguments:
                return f"the profile's {prefix}{name}" + " = " * option[0].endswith(" ")
        return option[0]

    return _OPTION.sub(spelled, remedy)
