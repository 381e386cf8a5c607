from __future__ import annotations

import copy
import inspect

import pytest

from trtpipe import errors
from trtpipe.errors import HostError, InputError, InternalError, TrtpipeError

TREE = {
    "InputError": ("TrtpipeError", 2),
    "RecipeError": ("InputError", 2),
    "UserCodeError": ("InputError", 2),
    "StageError": ("TrtpipeError", 5),
    "BuildError": ("StageError", 5),
    "WorkerError": ("StageError", 5),
    "WorkerCrashed": ("WorkerError", 5),
    "OutOfTime": ("WorkerError", 5),
    "OutOfMemory": ("WorkerError", 5),
    "Cancelled": ("WorkerError", 5),
    "HostError": ("TrtpipeError", 6),
    "StoreCorrupt": ("TrtpipeError", 6),
    "TrtpipeError": ("Exception", 2),
    "InternalError": ("Exception", 1),
}
CLASSES = {name: found for name, found in vars(errors).items() if inspect.isclass(found)}


def test_the_tree_and_its_exit_codes() -> None:
    assert {name: (found.__base__.__name__, found.exit_code) for name, found in CLASSES.items()} == TREE


def test_the_docstring_draws_every_class_with_its_code() -> None:
    lines = (errors.__doc__ or "").splitlines()
    for name, (_, code) in TREE.items():
        (line,) = [line for line in lines if f"─ {name} " in line]
        assert name == "TrtpipeError" or line.endswith(f"exit {code}")


def test_an_error_says_what_is_wrong_and_what_to_do() -> None:
    error = InputError("m.onnx: no such file", "give an existing file")
    assert (error.message, error.remedy, str(error)) == ("m.onnx: no such file", "give an existing file", error.message)


@pytest.mark.parametrize("name", [name for name in TREE if name != "InternalError"])
def test_a_copy_is_whole(name: str) -> None:
    """Errors travel between processes by the same protocol that copies them."""
    error = CLASSES[name]("what", "remedy")
    again = copy.copy(error)
    assert type(again) is type(error)
    assert (again.message, again.remedy, str(again)) == ("what", "remedy", "what")


def test_a_bug_is_not_caught_as_a_users_mistake() -> None:
    assert not issubclass(InternalError, TrtpipeError)
    assert not issubclass(HostError, OSError)
