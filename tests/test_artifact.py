from __future__ import annotations

import hashlib
import json
import math
import os
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from trtpipe.artifact import Artifact, Draft, FileEntry, IOContract, Record, TensorSpec
from trtpipe.errors import InputError


class Sample(Record):
    name: str
    value: float = 1.0
    parts: tuple[int, ...] = ()


def spec(name: str, dtype: str = "float32", shape: tuple[int | str | None, ...] | None = (1, 3)) -> TensorSpec:
    return TensorSpec(name=name, dtype=dtype, shape=shape)


def sha(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


class TestRecord:
    def test_is_frozen_and_closed(self) -> None:
        with pytest.raises(ValidationError, match="frozen"):
            Sample(name="a").name = "b"  # type: ignore[misc]
        with pytest.raises(ValidationError, match="Extra"):
            Sample(name="a", other=1)  # type: ignore[call-arg]

    def test_comes_back_as_it_was_written(self, tmp_path: Path) -> None:
        record = Sample(name="é\n", value=0.1, parts=(1, 2))
        record.write(tmp_path / "r.json")
        assert Sample.read(tmp_path / "r.json") == record

    def test_equal_records_give_equal_bytes_with_sorted_keys(self, tmp_path: Path) -> None:
        Sample(name="a", parts=(1,)).write(tmp_path / "one")
        Sample.model_validate({"parts": [1], "value": 1, "name": "a"}).write(tmp_path / "other")
        text = (tmp_path / "one").read_text()
        assert text == (tmp_path / "other").read_text()
        assert list(json.loads(text)) == ["name", "parts", "schema_version", "value"]
        assert text.endswith("}\n")

    @pytest.mark.parametrize("value", [math.inf, -math.inf, math.nan])
    def test_writes_json_even_for_numbers_json_lacks(self, tmp_path: Path, value: float) -> None:
        Sample(name="a", value=value).write(tmp_path / "r.json")
        json.loads((tmp_path / "r.json").read_text(), parse_constant=pytest.fail)
        again = Sample.read(tmp_path / "r.json").value
        assert again == value or (math.isnan(again) and math.isnan(value))

    @pytest.mark.parametrize(
        ("data", "complaint"),
        [
            (b"", "not JSON"),
            (b"[1]", "no JSON object .*Sample record"),
            (b"{", "not JSON"),
            (b'{"name": 3, "schema_version": 2}', "name"),
            (b'{"name": "a", "parts": [1, "x"], "schema_version": 2}', r"parts\.1"),
            (b'{"name": "a", "extra": 1, "schema_version": 2}', "extra"),
            (b'{"schema_version": 2}', "name"),
            (b"\xff", "not JSON"),
            *((text.encode(form), "not JSON") for text in ['{"name": "a", "schema_version": 2}']
              for form in ("utf-8-sig", "utf-16", "utf-32-le")),
        ],
    )  # fmt: skip
    def test_names_file_and_field_of_a_bad_one(self, tmp_path: Path, data: bytes, complaint: str) -> None:
        path = tmp_path / "r.json"
        path.write_bytes(data)
        with pytest.raises(InputError, match=complaint) as caught:
            Sample.read(path)
        assert str(path) in caught.value.message

    @pytest.mark.parametrize(
        ("version", "complaint"),
        [
            ({"schema_version": 1}, "is of schema 1: made by another version of trtpipe, or not a "),
            ({"schema_version": 3, "of_the_future": 1}, "is of schema 3: .*reads 2"),
            ({"schema_version": "2"}, 'is of schema "2"'),
            ({"schema_version": True}, "is of schema true"),
            ({"schema_version": [2]}, "is of schema"),
            ({}, "no schema_version.*another version of trtpipe, or not a Sample record; this one reads 2"),
        ],
    )
    def test_another_version_is_refused_before_its_fields(
        self, tmp_path: Path, version: dict[str, Any], complaint: str
    ) -> None:
        path = tmp_path / "r.json"
        path.write_text(json.dumps({"old_name": 1, **version}))
        with pytest.raises(InputError, match=rf"r\.json: .*{complaint}") as caught:
            Sample.read(path)
        assert "make it again" in caught.value.remedy

    def test_the_version_is_the_files_and_not_the_values(self) -> None:
        class Newer(Sample):
            SCHEMA = 7

        assert json.loads(Newer(name="a").to_file())["schema_version"] == 7
        assert "schema_version" not in Newer(name="a").to_dict()
        assert Newer.parse(Newer(name="a").to_file().encode(), Path("r")) == Newer(name="a")

    def test_names_a_missing_file(self, tmp_path: Path) -> None:
        with pytest.raises(InputError, match="cannot be read"):
            Sample.read(tmp_path / "missing.json")


class TestBounds:
    """No file costs more than its size says, and none is waited for."""

    def test_a_file_beyond_the_limit_is_not_read(self, tmp_path: Path) -> None:
        with (tmp_path / "r.json").open("wb") as hollow:
            hollow.truncate(1 << 40)
        with pytest.raises(InputError, match=r"r\.json: larger than 32 MiB"):
            Sample.read(tmp_path / "r.json")

    def test_values_count_as_they_take_more_memory_than_their_text(self, tmp_path: Path) -> None:
        (tmp_path / "r.json").write_text("[" + "[]," * 3_000_000 + "[]]")
        with pytest.raises(InputError, match="more than 4,194,304 values"):
            Sample.read(tmp_path / "r.json")

    @pytest.mark.parametrize("kind", ["pipe", "device", "folder"])
    def test_what_is_no_file_is_refused_at_once(self, tmp_path: Path, kind: str) -> None:
        path = tmp_path / "r.json"
        if kind == "pipe":
            os.mkfifo(path)
        elif kind == "folder":
            path.mkdir()
        else:
            path.symlink_to("/dev/zero")
        with pytest.raises(InputError, match=r"r\.json"):
            Sample.read(path)

    def test_a_name_that_no_text_can_hold_is_named(self) -> None:
        with pytest.raises(InputError, match=r"c\\udcff: not valid UTF-8"):
            FileEntry(name="c\udcff", sha256="", size=0).to_line()
        assert FileEntry(name="é\u202e", sha256="", size=0).to_line() == '{"name":"é\u202e","sha256":"","size":0}'


class TestContract:
    @pytest.mark.parametrize(
        ("shape", "text"),
        [((1, "n", None), "x: float32[1xnx?]"), ((), "x: float32[]"), (None, "x: float32[unknown rank]")],
    )
    def test_a_tensor_as_text(self, shape: Any, text: str) -> None:
        assert str(spec("x", shape=shape)) == text

    @pytest.mark.parametrize(
        ("inputs", "outputs", "words"),
        [
            ((spec("x"), spec("y")), (spec("z"),), None),
            ((spec("x", shape=("n", 3)), spec("y")), (spec("z", shape=None),), None),
            ((spec("y"), spec("x")), (spec("z"),), ["inputs", "'y', 'x'"]),
            ((spec("x"),), (spec("z"),), ["inputs"]),
            ((spec("x"), spec("y")), (spec("w"),), ["outputs", "'w'"]),
            ((spec("x"), spec("y", "float16")), (spec("z"),), ["input 'y'", "float32", "float16"]),
            ((spec("x"), spec("y")), (spec("z", shape=(1, 3, 1)),), ["output 'z'", "rank 2", "3"]),
        ],
    )
    def test_difference(self, inputs: Any, outputs: Any, words: list[str] | None) -> None:
        contract = IOContract(inputs=(spec("x"), spec("y")), outputs=(spec("z"),))
        difference = contract.difference(IOContract(inputs=inputs, outputs=outputs))
        if words is None:
            assert difference is None
        else:
            assert difference is not None
            assert all(word in difference for word in words)


class TestArtifact:
    @pytest.fixture
    def draft(self, tmp_path: Path) -> Draft:
        for name, data in {"m.onnx": b"graph", "m.data": b"weights", "m.onnx.json": b"{}"}.items():
            (tmp_path / name).write_bytes(data)
        return Draft("engine", tmp_path, ("m.onnx", "m.data", "m.onnx.json"), "sm89")

    def test_finish_describes_every_file(self, draft: Draft) -> None:
        made = draft.finish()
        assert made.files == (
            FileEntry(name="m.onnx", sha256=sha(b"graph"), size=5),
            FileEntry(name="m.data", sha256=sha(b"weights"), size=7),
            FileEntry(name="m.onnx.json", sha256=sha(b"{}"), size=2),
        )
        assert (made.kind, made.target, made.folder, made.size) == ("engine", "sm89", draft.folder, 14)
        assert made.path == draft.path == draft.folder / "m.onnx"
        assert made.sidecar == draft.sidecar == draft.folder / "m.onnx.json"

    def test_label(self, draft: Draft) -> None:
        assert draft.finish().label == "engine:sm89"
        assert Artifact("model", draft.folder, draft.finish().files).label == "model"

    def test_identity_is_content_not_place_or_name(self, draft: Draft, tmp_path: Path) -> None:
        other = tmp_path / "other"
        other.mkdir()
        for old, new in (("m.onnx", "x.onnx"), ("m.data", "x.data"), ("m.onnx.json", "x.json")):
            (other / new).write_bytes((draft.folder / old).read_bytes())
        copy = Draft("model", other, ("x.onnx", "x.data", "x.json"))
        assert copy.finish().digest == draft.finish().digest

    @pytest.mark.parametrize("name", ["m.onnx", "m.data", "m.onnx.json"])
    def test_any_file_changes_the_identity(self, draft: Draft, name: str) -> None:
        before = draft.finish().digest
        (draft.folder / name).write_bytes(b"other")
        assert draft.finish().digest != before

    def test_exchanged_side_files_change_the_identity(self, draft: Draft) -> None:
        """The main file refers to its side files by name: exchanged contents are another model."""
        before = draft.finish().digest
        (draft.folder / "m.data").write_bytes(b"{}")
        (draft.folder / "m.onnx.json").write_bytes(b"weights")
        assert draft.finish().digest != before
