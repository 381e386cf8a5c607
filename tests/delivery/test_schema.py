from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trtpipe.delivery.schema import load_object, read_record, to_text
from trtpipe.errors import InputError

PATH = Path("model.json")


@dataclass(frozen=True)
class Inner:
    word: Literal["a", "b"] = "a"
    size: int | tuple[int, int] | None = None


@dataclass(frozen=True)
class Outer:
    name: str
    flag: bool
    share: float
    inner: tuple[Inner, ...]
    table: dict[str, Inner]
    mark: str = ""


GOOD = {"name": "n", "flag": True, "share": 0.5, "inner": [{"word": "b", "size": [1, 2]}], "table": {"k": {}}}


@pytest.mark.parametrize("form", ["utf-8-sig", "utf-16", "utf-32-le"])
def test_only_utf_8_is_read(form: str) -> None:
    with pytest.raises(InputError, match=r"model\.json: not JSON as trtpipe writes it"):
        load_object(to_text(Inner()).encode(form), PATH)


def test_reads_what_it_wrote() -> None:
    made = Outer("n", True, 0.5, (Inner("b", (1, 2)), Inner(size=7)), {"k": Inner()})
    assert read_record(Outer, load_object(to_text(made).encode(), PATH), PATH) == made


@given(st.text(), st.booleans(), st.floats(allow_nan=False, allow_infinity=False), st.integers())
def test_any_value_comes_back(name: str, flag: bool, share: float, size: int) -> None:
    made = Outer(name, flag, share, (Inner(size=size),), {})
    assert read_record(Outer, load_object(to_text(made).encode("utf-8", "surrogatepass"), PATH), PATH) == made


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"name": 1}, "name"),
        ({"name": None}, "name"),
        ({"flag": 1}, "flag"),
        ({"share": True}, "share"),
        ({"share": "1"}, "share"),
        ({"share": 10**400}, "share"),
        ({"share": -(10**309)}, "share"),
        ({"inner": {}}, "inner"),
        ({"inner": [{"word": "c"}]}, "inner[0].word"),
        ({"inner": [{"size": [1]}]}, "inner[0].size"),
        ({"inner": [{"size": True}]}, "inner[0].size"),
        ({"inner": [{"odd": 1}]}, "inner[0].odd"),
        ({"table": []}, "table"),
        ({"table": {"k": {"word": 3}}}, "table.k.word"),
        ({"odd": 1}, "odd"),
    ],
)
def test_what_is_no_such_record_is_refused_by_field(change: dict[str, object], field: str) -> None:
    with pytest.raises(InputError) as caught:
        read_record(Outer, GOOD | change, PATH)
    assert caught.value.message.startswith(f"model.json: {field}: ")


@pytest.mark.parametrize("name", ["name", "flag", "share", "inner", "table"])
def test_a_field_without_a_default_has_to_be_there(name: str) -> None:
    with pytest.raises(InputError, match=f"model.json: {name}: is missing"):
        read_record(Outer, {key: value for key, value in GOOD.items() if key != name}, PATH)


@pytest.mark.parametrize("text", ["", "[]", "1", "{", '{"a": 1, "a": 2}', '{"a": NaN}', '{"a": Infinity}', "[" * 99999])
def test_what_is_no_object_is_refused(text: str) -> None:
    with pytest.raises(InputError, match=r"model\.json"):
        load_object(text.encode(), PATH)
