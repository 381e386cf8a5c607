"""The names users may rely on."""

from __future__ import annotations

import ast
import importlib
import importlib.metadata
import inspect
import json
from pathlib import Path

import pytest

import trtpipe

SOURCE = ast.parse(Path(trtpipe.__file__).read_text(encoding="utf-8"))


def type_checking_names() -> dict[str, str]:
    """name -> module, from the imports that only type checkers see."""
    (block,) = (
        node
        for node in SOURCE.body
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"
    )
    found = {}
    for statement in block.body:
        assert isinstance(statement, ast.ImportFrom)
        for alias in statement.names:
            assert alias.asname is None, "type checkers would see another name"
            found[alias.name] = statement.module or ""
    return found


def test_all_is_sorted_and_complete() -> None:
    assert trtpipe.__all__ == sorted(trtpipe.__all__)
    assert set(trtpipe.__all__) == set(trtpipe._HOMES)


def test_type_checkers_see_the_same_names_from_the_same_modules() -> None:
    assert type_checking_names() == trtpipe._HOMES


@pytest.mark.parametrize("name", trtpipe.__all__)
def test_every_name_is_there_and_documented(name: str) -> None:
    value = getattr(trtpipe, name)
    assert value is getattr(importlib.import_module(trtpipe._HOMES[name]), name)
    if inspect.isclass(value) or inspect.isfunction(value):
        assert inspect.getdoc(value), name
        assert value.__module__.startswith("trtpipe.")
        assert value.__name__ == name


@pytest.mark.parametrize("name", [name for name in trtpipe.__all__ if inspect.isfunction(getattr(trtpipe, name))])
def test_functions_are_annotated_and_take_no_bag_of_arguments(name: str) -> None:
    signature = inspect.signature(getattr(trtpipe, name))
    assert signature.return_annotation is not inspect.Signature.empty
    for parameter in signature.parameters.values():
        assert parameter.annotation is not inspect.Parameter.empty, parameter.name
        assert parameter.kind not in (inspect.Parameter.VAR_KEYWORD, inspect.Parameter.VAR_POSITIONAL)


def test_dir_lists_them() -> None:
    assert set(dir(trtpipe)) == {*trtpipe.__all__, "__version__"}


def test_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="module 'trtpipe' has no attribute 'bulid'"):
        _ = trtpipe.bulid  # type: ignore[attr-defined]


def test_version_is_that_of_the_package() -> None:
    assert importlib.metadata.version("trtpipe") == trtpipe.__version__


def test_package_is_typed() -> None:
    assert Path(trtpipe.__file__).with_name("py.typed").is_file()


def test_settings_of_the_command_line_are_not_needed_from_python(tmp_path: Path) -> None:
    """What the README promises: a cache folder of one's own is a plain argument."""
    settings = trtpipe.Settings(cache_dir=tmp_path)
    job = trtpipe.make_job(settings=settings, engines=False)
    assert job.settings.cache_dir == tmp_path
    assert job.targets == ()
    assert json.loads(job.profile.to_json())["precision"] == "fp32"
