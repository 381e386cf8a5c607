from __future__ import annotations

import hashlib
import json
import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from trtpipe.store import Key

json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("ab.é", max_size=3), inner, max_size=3),
    max_leaves=8,
)


def changed(key: Key, **fields: Any) -> Key:
    return Key.model_validate({**key.to_dict(), **fields})


def test_digest_is_the_sha256_of_the_document(key: Key) -> None:
    text = json.dumps(
        {
            "backend": {"name": "null"},
            "inputs": {"lowered": "0" * 64},
            "schema": 3,
            "settings": {"shapes": [{"x": [1, 3]}], "workspace": 1073741824},
            "stage": "compile",
            "stage_version": 2,
            "target": "sm89",
            "toolchain": {"onnx": "1.18.0"},
        },
        separators=(",", ":"),
    )
    assert key.digest == hashlib.sha256(text.encode()).hexdigest()


@pytest.mark.parametrize(
    "fields",
    [
        {"stage": "lower"},
        {"stage_version": 3},
        {"target": "sm90"},
        {"target": None},
        {"inputs": {"lowered": "1" * 64}},
        {"inputs": {"model": "0" * 64}},
        {"inputs": {"lowered": "0" * 64, "ranges": "0" * 64}},
        {"inputs": {}},
        {"settings": {"workspace": 1 << 31, "shapes": [{"x": [1, 3]}]}},
        {"settings": {"workspace": float(1 << 30), "shapes": [{"x": [1, 3]}]}},
        {"settings": {"workspace": 1 << 30, "shapes": [{"x": [3, 1]}]}},
        {"settings": {"workspace": 1 << 30, "shapes": [{"x": [1, 3]}], "opt_level": None}},
        {"toolchain": {"onnx": "1.18.1"}},
        {"toolchain": {}},
        {"backend": {"name": "tensorrt"}},
    ],
    ids=str,
)
def test_every_field_changes_the_digest(key: Key, fields: dict[str, Any]) -> None:
    assert changed(key, **fields).digest != key.digest


def test_order_and_container_type_do_not_matter(key: Key) -> None:
    assert changed(key, settings={"shapes": ({"x": (1, 3)},), "workspace": 1 << 30}).digest == key.digest


@pytest.mark.parametrize("value", [math.nan, math.inf, Path("model.onnx"), {1: "one"}, b"bytes", {"set"}, "\ud800"])
def test_what_json_cannot_hold_is_refused(value: object) -> None:
    with pytest.raises((TypeError, ValueError)):
        Key(stage="lower", settings={"field": value})


@pytest.mark.parametrize("stage", ["", "../up", "a/b", ".", "Upper", "x" * 65, "a\n"])
def test_a_stage_name_is_safe_as_a_folder(stage: str) -> None:
    with pytest.raises(ValidationError):
        Key(stage=stage)


def test_later_changes_to_the_callers_settings_do_not_reach_the_key() -> None:
    settings = {"keep": ["conv1"]}
    key = Key(stage="lower", settings=settings)
    before = key.digest
    settings["keep"].append("conv2")
    assert key.digest == before


@given(st.dictionaries(st.text("abc", min_size=1, max_size=3), json_values, max_size=4))
def test_any_settings_survive_the_way_to_disk_and_back(settings: dict[str, Any]) -> None:
    key = Key(stage="lower", settings=settings)
    again = Key.model_validate_json(key.to_json())
    assert again.digest == key.digest
    assert again.settings == key.settings == json.loads(json.dumps(settings))


@given(json_values, json_values)
def test_keys_differ_when_their_settings_do(one: Any, other: Any) -> None:
    same = json.dumps(one, sort_keys=True) == json.dumps(other, sort_keys=True)
    digests = {Key(stage="lower", settings={"x": value}).digest for value in (one, other)}
    assert len(digests) == (1 if same else 2)


def test_differences_are_dotted_names(key: Key) -> None:
    other = changed(
        key, inputs={"lowered": "2" * 64}, settings={"workspace": 5, "shapes": [{"x": [1, 3]}], "new": {"a": 1}}
    )
    assert key.differences(other) == ("inputs.lowered", "settings.new.a", "settings.workspace")
    assert other.differences(key) == key.differences(other)
    assert key.differences(key) == ()


def test_label_names_the_target_where_there_is_one(key: Key) -> None:
    assert key.label == "compile:sm89"
    assert Key(stage="lower").label == "lower"
