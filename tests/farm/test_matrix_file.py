"""Matrix files: which cells they stand for, and what is wrong with others."""

from __future__ import annotations

from pathlib import Path

import pytest

from trtpipe.errors import RecipeError
from trtpipe.farm.matrix_file import Cell, cells_of, load_matrix

TWO = '[[models]]\nsource = "a.onnx"\n[[models]]\nname = "b"\nsource = "sub/net.onnx"\n'
AXES = 'precisions = ["fp16", "int8"]\ntargets = ["sm89", "rtx5090"]\nbackends = ["tensorrt-rtx 1.7", "null"]\n'


def cells(tmp_path: Path, text: str) -> tuple[Cell, ...]:
    path = tmp_path / "matrix.toml"
    path.write_text(text)
    return cells_of(load_matrix(path), path)


class TestCells:
    def test_are_the_product_of_the_axes(self, tmp_path: Path) -> None:
        found = cells(tmp_path, AXES + TWO)
        assert len(found) == len({cell.name for cell in found}) == 16
        assert {cell.target for cell in found} == {"sm89", "sm120"}
        assert (found[0].flavor, found[0].version) == ("tensorrt-rtx", "1.7")

    def test_an_axis_without_values_has_one(self, tmp_path: Path) -> None:
        (found,) = cells(tmp_path, '[[models]]\nsource = "a.onnx"\n')
        assert (found.precision, found.target, found.backend, found.name) == (None, "", "", "a")

    def test_some_are_left_out_and_others_added(self, tmp_path: Path) -> None:
        more = '[[exclude]]\nprecision = "int8"\n[[exclude]]\nbackend = "null"\nmodel = "b*"\n'
        more += '[[include]]\nmodel = "b"\nprecision = "fp8"\ntarget = "sm89"\nbackend = "null"\n'
        found = cells(tmp_path, AXES + TWO + more)
        assert len(found) == 4 + 2 + 1
        assert found[-1].name == "b-fp8-sm89-null"

    def test_a_target_may_be_left_out_by_any_of_its_names(self, tmp_path: Path) -> None:
        head = 'targets = ["rtx4090", "sm120"]\nbackends = ["null"]\n'
        found = cells(tmp_path, head + TWO + '[[exclude]]\ntarget = "RTX 4090"\n[[optional]]\ntarget = "rtx5090"\n')
        assert [(cell.target, cell.required) for cell in found] == [("sm120", False)] * 2

    def test_some_may_fail(self, tmp_path: Path) -> None:
        found = cells(tmp_path, AXES + TWO + '[[optional]]\ntarget = "sm120"\n')
        assert {cell.target for cell in found if cell.required} == {"sm89"}

    def test_names_are_safe_for_folders_and_differ(self, tmp_path: Path) -> None:
        models = "".join(f'[[models]]\nname = "{name}"\nsource = "a.onnx"\n' for name in ("../x", "..!x", "a b", "a_b"))
        names = [cell.name for cell in cells(tmp_path, models)]
        assert len(set(names)) == 4
        assert not any("/" in name or name.startswith(".") for name in names)


class TestMistakes:
    @pytest.mark.parametrize(
        ("text", "key"),
        [
            ("", "models"),
            ("models = []", "models"),
            ("[[models]]\n", "models.0"),
            ('[[models]]\nsource = "a.onnx"\nsources = ["b.onnx"]\n', "models.0"),
            ('precision = ["int8"]\n' + TWO, "precision"),
            ('precisions = ["int9"]\n' + TWO, "precisions.0"),
            ('targets = ["sm1"]\n' + TWO, "targets.0"),
            ('backends = ["onnxruntime"]\n' + TWO, "onnxruntime"),
            ('backends = ["tensorrt-rtx >=1"]\n' + TWO, "tensorrt-rtx >=1"),
            ("shards = 0\n" + TWO, "shards"),
            ("memory_budget = 5\n" + TWO, "memory_budget"),
            (TWO + '[[include]]\nmodel = "c"\n', "'c'"),
            (TWO + TWO, "'a'"),
            (TWO + '[[exclude]]\nmodell = "a"\n', "exclude.0.modell"),
            (TWO + '[[exclude]]\nmodel = "a"\n[[exclude]]\nmodel = "aa"\n', "exclude.1"),
            (TWO + '[[optional]]\nprecision = "fp61"\n', "optional.0"),
            (TWO + '[[include]]\nmodel = "a"\nbackend = "tensort"\n', "include.0.backend"),
            ('backends = ["null", "tensorrt-10.9"]\n' + TWO, "backends.1"),
        ],
    )
    def test_name_the_file_and_the_key(self, tmp_path: Path, text: str, key: str) -> None:
        with pytest.raises(RecipeError) as caught:
            cells(tmp_path, text)
        assert "matrix.toml" in caught.value.message
        assert key in caught.value.message

    def test_nothing_is_left(self, tmp_path: Path) -> None:
        with pytest.raises(RecipeError, match="no cell"):
            cells(tmp_path, TWO + "[[exclude]]\n")

    def test_more_cells_than_anybody_builds(self, tmp_path: Path) -> None:
        models = "".join(f'[[models]]\nname = "m{index}"\nsource = "a.onnx"\n' for index in range(60_000))
        with pytest.raises(RecipeError, match="cells"):
            cells(tmp_path, AXES + models)
