"""What the comparison of two checkouts calls equal, and what not."""

from __future__ import annotations

import io
import json
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import onnx
import pytest
from identity import Build, compare_builds, recorded, report, shape_words
from identity_comparison import Comparison, onnx_differences, pattern_of
from onnx import TensorProto, helper

PARITY = {"passed": True, "comparisons": [{"artifact": "lowered", "max_abs": 0.25, "worst_index": [3, 1]}]}


def paths(comparison: Comparison, old: object, new: object, file: str = "parity.json") -> list[str]:
    return [each.path for each in comparison.json(file, old, new)]


class TestJson:
    def test_equal_values(self) -> None:
        assert paths(Comparison(), PARITY, json.loads(json.dumps(PARITY))) == []

    @pytest.mark.parametrize(
        ("change", "path"),
        [
            ({"passed": False}, "passed"),
            ({"passed": 1}, "passed"),
            ({"comparisons": [{"artifact": "lowered", "max_abs": 0.25000000000000006, "worst_index": [3, 1]}]},
             "comparisons.0.max_abs"),
            ({"comparisons": [{"artifact": "model", "max_abs": 0.25, "worst_index": [3, 1]}]},
             "comparisons.0.artifact"),
            ({"comparisons": [{"artifact": "lowered", "max_abs": 0.25, "worst_index": [3]}]},
             "comparisons.0.worst_index"),
            ({"comparisons": []}, "comparisons"),
            ({"more": None}, "more"),
        ],
    )  # fmt: skip
    def test_one_field_differs(self, change: dict[str, Any], path: str) -> None:
        assert paths(Comparison(), PARITY, {**PARITY, **change}) == [f"parity.json:{path}"]

    def test_absent_field(self) -> None:
        (found,) = Comparison().json("parity.json", PARITY, {"passed": True})
        assert (found.path, found.new) == ("parity.json:comparisons", "absent")

    def test_signed_zero_and_nan(self) -> None:
        nan = float("nan")
        assert paths(Comparison(), [0.0, nan], [-0.0, nan]) == ["parity.json:0"]

    def test_fields_that_may_differ(self) -> None:
        old = {"schema_version": 1, "artifacts": [{"label": "model", "key": "a", "files": [{"name": "m", "size": 3}]}]}
        new = {"schema_version": 2, "artifacts": [{"label": "model", "key": "b", "files": [{"name": "m", "size": 4}]}]}
        assert paths(Comparison(), old, new, "manifest.json") == []
        assert paths(Comparison(), old, new, "parity.json") == [
            "parity.json:artifacts.0.key",
            "parity.json:artifacts.0.files.0.size",
        ]

    def test_ignored_by_name(self) -> None:
        assert paths(Comparison(ignored=frozenset({"b"})), {"a": {"b": 1}}, {"a": {"c": 1}}) == ["parity.json:a.c"]


class TestNames:
    def test_fields_and_strings_are_renamed(self) -> None:
        comparison = Comparison({"repairs": "corrections", "hits": "correct"})
        assert paths(comparison, {"repairs": [{"kind": "hits"}]}, {"corrections": [{"kind": "correct"}]}) == []

    def test_value_under_the_new_name_is_compared(self) -> None:
        assert paths(Comparison({"a": "b"}), {"a": 1}, {"b": 2}) == ["parity.json:b"]

    def test_old_name_may_not_stay(self) -> None:
        assert paths(Comparison({"a": "b"}), {"a": 1}, {"a": 1}) == ["parity.json:b", "parity.json:a"]

    def test_name_in_one_place_only(self) -> None:
        old, new = {"x": {"high": 1}, "high": 2}, {"x": {"fallback": 1}, "high": 2}
        assert paths(Comparison({"x.high": "fallback"}), old, new) == []
        assert paths(Comparison({"high": "fallback"}), old, new) == ["parity.json:fallback", "parity.json:high"]

    def test_patterns_know_the_old_name_and_the_new(self) -> None:
        comparison = Comparison({"engines": "engine_metadata", "notes": "remarks"})
        old, new = {"engines": {"a": 1}, "notes": ["x"]}, {"engine_metadata": {"a": 2}, "remarks": ["y"]}
        assert paths(comparison, old, new, "latency.json") == []


class TestWords:
    def test_sentences_may_be_reworded(self) -> None:
        comparison = Comparison()
        assert paths(comparison, {"notes": ["took 3 s"]}, {"notes": ["done in 3 s"]}) == []
        assert comparison.reworded == {"took # s": "done in # s"}

    def test_notes_are_counted_but_those_of_engines(self) -> None:
        assert paths(Comparison(), {"notes": ["a"]}, {"notes": ["a", "b"]}) == ["parity.json:notes"]
        assert paths(Comparison(), {"notes": ["a"]}, {"notes": ["engine:sm89: 3 kernels", "a"]}) == []

    def test_reasons_are_reworded_alike(self) -> None:
        comparison = Comparison()
        old = [{"reason": f"sums {count} products of 'x'"} for count in (9, 8)]
        assert paths(comparison, old, [{"reason": f"{count} products: 'y'"} for count in (9, 8)]) == []
        assert paths(comparison, old[:1], [{"reason": "moves data"}]) == ["parity.json:0.reason"]

    def test_unchanged_reason_at_one_of_two_places(self) -> None:
        assert paths(Comparison(), [{"reason": "a"}] * 2, [{"reason": "a"}, {"reason": "b"}]) == [
            "parity.json:1.reason"
        ]

    def test_pattern(self) -> None:
        assert pattern_of("'relu_3' moved by 4.5% after 154") == "'...' moved by #% after #"


def archive(**arrays: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    return buffer.getvalue()


def text(document: object) -> np.ndarray:
    return np.frombuffer(json.dumps(document).encode(), np.uint8)


class TestNpz:
    def test_dtype_shape_value_and_absence(self) -> None:
        old = archive(a=np.arange(4, dtype=np.int32), b=np.zeros(2), c=np.zeros(2), d=np.zeros(1), e=np.ones(1))
        new = archive(a=np.arange(4, dtype=np.int64), b=np.zeros((1, 2)), c=np.array([0, 1e-300]), e=np.ones(1))
        found = [each.path for each in Comparison().npz("s.npz", old, new)]
        assert found == ["s.npz:a", "s.npz:b", "s.npz:c", "s.npz:d"]

    def test_document_inside(self) -> None:
        old, new = (
            archive(about=text({"schema_version": 1, "n": 1})),
            archive(about=text({"schema_version": 2, "n": 1})),
        )
        assert Comparison().npz("s.npz", old, new) == []
        new = archive(about=text({"schema_version": 2, "n": 2}))
        assert [each.path for each in Comparison().npz("s.npz", old, new)] == ["s.npz:n"]


def graph(node: str, weight: float) -> bytes:
    value = helper.make_tensor_value_info
    made = helper.make_graph(
        [helper.make_node("Mul", ["x", "w"], ["y"], name=node)],
        "g",
        [value("x", TensorProto.FLOAT, [1])],
        [value("y", TensorProto.FLOAT, [1])],
        [onnx.numpy_helper.from_array(np.array([weight], np.float32), "w")],
    )
    return helper.make_model(made).SerializeToString()


def test_graphs_are_compared_message_by_message() -> None:
    found = onnx_differences("lowered.onnx", graph("a", 1.0), graph("b", 2.0))
    assert [each.path for each in found] == [
        "lowered.onnx:graph.node[0 a].name",
        "lowered.onnx:graph.initializer[0 w].raw_data",
    ]


class TestBuilds:
    def build(self, folder: Path, kernels: int, size: int, exit_code: int = 0, log: bytes = b"x") -> Build:
        bundle = folder / "bundle"
        bundle.mkdir(parents=True)
        about = {"case": "c", "precision": "int8", "exit_code": exit_code, "cpu_seconds": 1.0}
        (folder / "build.json").write_text(json.dumps(about))
        (folder / "document.json").write_text(json.dumps({"out": str(folder)}))
        (bundle / "weights.data").write_bytes(log)
        self.engine(bundle, kernels, size)
        return Build(folder)

    def engine(self, folder: Path, kernels: int, size: int) -> None:
        (folder / "sm89.plan").write_bytes(kernels.to_bytes(1, "big") * size)
        (folder / "sm89.plan.json").write_text(json.dumps({"layers": kernels, "build_seconds": size}))

    def words(self, old: Build, new: Build, comparison: Comparison | None = None) -> dict[str, str]:
        return {name: each.word for name, each in compare_builds(old, new, comparison or Comparison()).items()}

    def test_each_artifact(self, tmp_path: Path) -> None:
        old, new = self.build(tmp_path / "old", 3, 10), self.build(tmp_path / "new", 4, 11)
        assert self.words(old, new) == {
            "weights.data": "identical", "sm89.plan": "DIFFERS", "sm89.plan.json": "DIFFERS", "document.json": "equal",
        }  # fmt: skip

    def test_engine_is_one_of_those_built_again(self, tmp_path: Path) -> None:
        old, new = self.build(tmp_path / "old", 3, 10), self.build(tmp_path / "new", 4, 11)
        again = tmp_path / "old" / "spread" / "0"
        again.mkdir(parents=True)
        self.engine(again, 4, 12)
        assert self.words(old, new)["sm89.plan"] == self.words(old, new)["sm89.plan.json"] == "equal"

    def test_numbers_of_the_builder_are_its_own(self) -> None:
        old = {"layers": [["__mye7_const_myl0", "conv2d_53.tmp_0.1_44_myl0"]]}
        seen = [{"layers": [["a", "b", "c"]]}, old]
        new = {"layers": [["__mye8_const_myl0", "conv2d_53.tmp_0.1_45_myl0"]]}
        assert Comparison().engine("sm89.plan.json", seen, new) == []
        new = {"layers": [["__mye7_const_myl0", "conv2d_54.tmp_0.1_44_myl0"]]}
        found = Comparison().engine("sm89.plan.json", seen, new)
        assert [each.path for each in found] == ["sm89.plan.json:layers.0.1"]

    def test_size_of_a_plan(self, tmp_path: Path) -> None:
        old, near = self.build(tmp_path / "old", 3, 4000), self.build(tmp_path / "near", 3, 4004)
        assert self.words(old, near)["sm89.plan"] == "equal"
        assert self.words(old, self.build(tmp_path / "far", 3, 4005))["sm89.plan"] == "DIFFERS"

    def test_files_come_go_and_are_renamed(self, tmp_path: Path) -> None:
        old, new = self.build(tmp_path / "old", 3, 10), self.build(tmp_path / "new", 3, 10)
        (old.bundle / "extents.json").write_text("{}")
        (new.bundle / "tensor_ranges.json").write_text("{}")
        found = self.words(old, new)
        assert (found["extents.json"], found["tensor_ranges.json"]) == ("DIFFERS", "DIFFERS")
        found = self.words(old, new, Comparison({"extents.json": "tensor_ranges.json"}))
        assert found["tensor_ranges.json"] == "identical"

    def test_exit_status_and_other_bytes(self, tmp_path: Path) -> None:
        old, new = self.build(tmp_path / "old", 3, 10), self.build(tmp_path / "new", 3, 10, exit_code=3, log=b"y")
        assert {name for name, word in self.words(old, new).items() if word == "DIFFERS"} == {
            "exit status",
            "weights.data",
        }

    def test_status_of_the_report(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        for name, log in (("old", b"x"), ("same", b"x"), ("other", b"y")):
            self.build(tmp_path / name / "c" / "int8", 3, 10, log=log)
        old, same, other = (recorded(tmp_path / name) for name in ("old", "same", "other"))
        assert report(old, same, Comparison(), None) == 0
        assert report(old, other, Comparison(), None) == 1
        assert "weights.data                 DIFFERS" in capsys.readouterr().out
        assert report(old, {}, Comparison(), None) == 1, "a build that is missing"
        assert report({}, {}, Comparison(), None) == 1, "nothing was compared"


def test_shapes_of_a_case_as_options() -> None:
    case = ModuleType("case")
    case.PROFILES = {"x": {"min": [1, 3], "max": [2, 3]}, "s": {"min": [1], "max": [2]}}
    assert shape_words(case) == ("--min-shapes", "x:1x3,s:1", "--max-shapes", "x:2x3,s:2")
    case.CONSTANTS = {"rate": np.array(16000)}
    assert shape_words(case)[1] == "x:1x3,s:1,rate:16000"
