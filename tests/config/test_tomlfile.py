from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import pytest
from pydantic import Field, field_validator

from trtpipe.artifact import Record
from trtpipe.config.toml_text import tomllib
from trtpipe.config.tomlfile import dump_toml, load_toml
from trtpipe.errors import RecipeError


class Inner(Record):
    size: Annotated[int, Field(ge=1)] | tuple[Annotated[int, Field(ge=1)], ...] = 1
    color: str = "red"


class Outer(Record):
    title: str
    ratio: float = 1.0
    inner: Inner | None = None
    named: dict[str, Inner] = {}
    several: tuple[Inner, ...] = ()

    @field_validator("ratio")
    @classmethod
    def _even(cls, value: float) -> float:
        if value > 9:
            raise ValueError("more than nine is too much")
        return value


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "file.toml"


def complaint(path: Path, text: str | bytes) -> RecipeError:
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(RecipeError) as caught:
        load_toml(path, Outer)
    assert caught.value.message.startswith(f"{path}: ")
    assert "\n" not in caught.value.message + caught.value.remedy
    return caught.value


def test_a_good_file(path: Path) -> None:
    path.write_text('title = "é"\n[inner]\nsize = [2, 3]\n[named.a]\ncolor = "blue"\n[[several]]\nsize = 5\n', "utf-8")
    assert load_toml(path, Outer) == Outer(
        title="é", inner=Inner(size=(2, 3)), named={"a": Inner(color="blue")}, several=(Inner(size=5),)
    )


@pytest.mark.parametrize(
    ("text", "key", "suggestion"),
    [
        ("titel = 1", "titel", "title"),
        ('title = ""\n[inner]\ncolour = "x"', "inner.colour", "color"),
        ('title = ""\n[named.x]\nsiz = 1', "named.x.siz", "size"),
        ('title = ""\n[[several]]\n[[several]]\nsize_ = 1', "several.1.size_", "size"),
    ],
)
def test_an_unknown_key_is_named_with_the_nearest_known_one(path: Path, text: str, key: str, suggestion: str) -> None:
    error = complaint(path, text if key != "titel" else text + '\ntitle = ""')
    assert f"unknown key '{key}'" in error.message
    assert f"did you mean '{suggestion}'?" in error.remedy


def test_an_unknown_key_with_no_likeness_gets_the_list(path: Path) -> None:
    error = complaint(path, 'title = ""\n[inner]\nqqq = 1')
    assert "did you mean" not in error.remedy
    assert error.remedy == "keys here: color, size"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "key 'title' is missing"),
        ("title = 3", "title: Input should be a valid string"),
        ('title = ""\nratio = "x"', "ratio: "),
        ('title = ""\nratio = 10', "ratio: more than nine is too much"),
        ('title = ""\ninner = 3', "inner: must be a table"),
        ('title = ""\nnamed = 3', "named: must be a table"),
        ('title = ""\nseveral = 3', "several: must be a list"),
        ('title = ""\n[inner]\nsize = "a"', "inner.size: "),
        ('title = ""\n[inner]\nsize = [3, 0]', "inner.size.1: Input should be greater than or equal to 1"),
        ('title = ""\n[inner]\nsize = 0', "inner.size: Input should be greater than or equal to 1"),
    ],
)
def test_a_bad_value_is_named_as_it_stands_in_the_file(path: Path, text: str, words: str) -> None:
    assert complaint(path, text).message.startswith(f"{path}: {words}")


@pytest.mark.parametrize(
    "text",
    [
        "title = ",
        'title = "a"\ntitle = "b"',
        "= 1",
        "title = 'a",
        "a = 2024-13-45",
        "\ufefftitle = 'a'",
        "x = " + "9" * 5000,
        "x = " + "[" * 5000 + "]" * 5000,
        b"title = '\xff'",
        b"title = '\x00'",
        b"# " + b"x" * (1 << 20),
    ],
    ids=lambda text: repr(text[:20]),
)
def test_what_is_not_toml_is_refused(path: Path, text: str | bytes) -> None:
    complaint(path, text)


def test_what_is_not_a_file_is_refused_without_reading(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", tmp_path, Path("/dev/zero"), tmp_path / "missing"):
        with pytest.raises(RecipeError, match=str(path)):
            load_toml(path, Outer)


def test_a_long_value_is_shortened(path: Path) -> None:
    assert len(complaint(path, f'title = ""\nratio = "{"x" * 5000}"').remedy) < 200


@pytest.mark.parametrize(
    "data",
    [
        {"a": 1, "b": 2.5, "c": True, "d": 'x"y\\z\n\u00e9\x7f', "e": [1, 2], "f": ["p", "q"], "g": []},
        {"precision": "int8", "shapes": {"x": {"min": [1, 3], "max": [2, 3]}}, "keep": ["/a/b", "c[*]"]},
        {"shapes": [{"x": {"min": [1]}}, {"x": {"min": [2]}, "y z": {"min": [3]}}]},
        {"odd key": {"1.5": 1e-05, "": -1e300}, "flags": [True, False], "far": [float("inf"), -0.5]},
        {"nested": [[1, 2], [3]], "text": ["[\n 1,\n]", "a\n1,\n2"], "mixed": {"deep": [{"x": [1]}, {"x": []}]}},
    ],
)
def test_what_is_written_reads_back(data):
    assert tomllib.loads(dump_toml(data)) == data


def test_what_is_not_there_is_not_written():
    assert tomllib.loads(dump_toml({"a": None, "b": {"c": None, "d": [{"e": None, "f": 1}]}})) == {
        "b": {"d": [{"f": 1}]}
    }


def test_shapes_are_written_on_a_line_each_and_names_below_each_other():
    shapes = {"x": {"min": (1, 3, 224, 224), "opt": (4, 3, 224, 224), "max": (8, 3, 224, 224)}}
    lines = dump_toml({"keep": ("conv_1", "conv_2"), "shapes": shapes}).splitlines()
    assert [line.strip() for line in lines[:3]] == ["keep = [", '"conv_1",', '"conv_2",']
    assert lines[lines.index("[shapes.x]") + 1 :] == [
        "min = [1, 3, 224, 224]",
        "opt = [4, 3, 224, 224]",
        "max = [8, 3, 224, 224]",
    ]
