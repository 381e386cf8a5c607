"""Options over files over defaults."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from trtpipe import InputError, RecipeError, ShapeRange
from trtpipe.cli.session import Override, combined_shapes, profile_of, recipe_of

if TYPE_CHECKING:
    from pathlib import Path


class TestProfile:
    def test_defaults(self) -> None:
        assert profile_of(None, []).precision == "fp32"

    def test_nested_key_leaves_its_neighbors(self, tmp_path: Path) -> None:
        file = tmp_path / "p.toml"
        file.write_text('[build]\nopt_level = 1\nworkspace = "1G"\n[shapes.x]\nmin = [1]\nopt = [2]\nmax = [3]\n')
        found = profile_of(file, [Override(("build", "opt_level"), 4, "--opt-level")])
        assert (found.build.opt_level, found.build.workspace) == (4, 1 << 30)
        assert found.shapes == ({"x": ShapeRange(min=(1,), opt=(2,), max=(3,))},)

    def test_later_override_wins(self) -> None:
        overrides = [Override(("precision",), value, "--x") for value in ("int8", "fp16")]
        assert profile_of(None, overrides).precision == "fp16"

    def test_mistake_in_the_file_is_the_file_s(self, tmp_path: Path) -> None:
        file = tmp_path / "p.toml"
        file.write_text("[build]\nopt_level = 9\n")
        with pytest.raises(RecipeError, match=r"p\.toml: build\.opt_level"):
            profile_of(file, [Override(("build", "opt_level"), 3, "--opt-level")])

    def test_mistake_in_an_option_is_the_option_s(self) -> None:
        with pytest.raises(InputError, match=r"^--opt-level: ") as caught:
            profile_of(None, [Override(("build", "opt_level"), 9, "--opt-level")])
        assert caught.value.remedy == "correct --opt-level (it is 9)"

    def test_impossible_range_names_the_input(self) -> None:
        shapes = combined_shapes(
            {"--min-shapes": [{"x": (4,)}], "--opt-shapes": [{"x": (2,)}], "--max-shapes": [{"x": (3,)}]}
        )
        with pytest.raises(InputError, match="--min-shapes: input 'x': dimension 0: min 4, opt 2"):
            profile_of(None, [Override(("shapes",), tuple(shapes), "--min-shapes")])


class TestRecipe:
    def test_options_replace_the_source_and_keep_the_preparation(self, tmp_path: Path) -> None:
        file = tmp_path / "c.toml"
        file.write_text('method = "max"\n[data]\nsource = "old.npz"\nseed = 7\n[data.image]\nresize = 8\n')
        found = recipe_of(file, [Override(("data", "source"), "photos", "--calib-data")])
        assert (found.method, found.data.source, found.data.seed) == ("max", "photos", 7)
        assert found.data.image is not None
        assert found.data.image.resize == 8

    def test_evaluation_images_are_prepared_like_calibration_images(self, tmp_path: Path) -> None:
        file = tmp_path / "c.toml"
        file.write_text("[data.image]\nresize = 8\n")
        overrides = [Override(("evaluation", "source"), str(tmp_path), "--eval-data")]
        evaluation = recipe_of(file, overrides).evaluation
        assert evaluation is not None
        assert evaluation.image is not None
        assert evaluation.image.resize == 8

    def test_evaluation_arrays_are_not(self, tmp_path: Path) -> None:
        file = tmp_path / "c.toml"
        file.write_text("[data.image]\nresize = 8\n")
        evaluation = recipe_of(file, [Override(("evaluation", "source"), "x.npz", "--eval-data")]).evaluation
        assert evaluation is not None
        assert evaluation.image is None

    def test_metric_without_data(self) -> None:
        with pytest.raises(InputError, match="--metric: there is no evaluation data"):
            recipe_of(None, [Override(("evaluation", "metric"), "top5", "--metric")])


class TestShapes:
    def test_one_size(self) -> None:
        assert combined_shapes({"--shapes": [{"x": (1, 3)}]}) == [{"x": {"min": (1, 3), "opt": (1, 3), "max": (1, 3)}}]

    def test_the_k_th_of_each_option_belong_together(self) -> None:
        given = {
            "--min-shapes": [{"x": (1,)}, {"x": (5,)}],
            "--opt-shapes": [{"x": (2,)}, {"x": (6,)}],
            "--max-shapes": [{"x": (3,)}, {"x": (7,)}],
            "--shapes": [{"y": (9,)}, {"y": (8,)}],
        }
        first, second = combined_shapes(given)
        assert first["x"] == {"min": (1,), "opt": (2,), "max": (3,)}
        assert second["x"] == {"min": (5,), "opt": (6,), "max": (7,)}
        assert (first["y"]["opt"], second["y"]["opt"]) == ((9,), (8,))

    def test_an_option_used_again_for_other_inputs_belongs_to_the_same_profile(self) -> None:
        given = {
            "--min-shapes": [{"a": (1,)}, {"b": (1,)}, {"a": (5,)}, {"b": (5,)}],
            "--opt-shapes": [{"a": (2,), "b": (2,)}, {"a": (6,), "b": (6,)}],
            "--max-shapes": [{"b": (3,)}, {"a": (3,)}, {"b": (7,), "a": (7,)}],
        }
        first, second = combined_shapes(given)
        assert first == {name: {"min": (1,), "opt": (2,), "max": (3,)} for name in "ab"}
        assert second == {name: {"min": (5,), "opt": (6,), "max": (7,)} for name in "ab"}

    def test_none(self) -> None:
        assert combined_shapes({}) == []

    @pytest.mark.parametrize(
        ("given", "message", "remedy"),
        [
            (
                {"--min-shapes": [{"x": (1, 2)}]},
                "input 'x' has no opt and no max shape",
                "add --opt-shapes x:1x2 and --max-shapes x:1x2, or other sizes",
            ),
            (
                {"--shapes": [{"x": (1,)}, {"x": (2,)}], "--min-shapes": [{"y": (1,)}]},
                "input 'y' has no opt and no max shape",
                "add --opt-shapes y:1 and --max-shapes y:1, or other sizes",
            ),
            (
                {"--min-shapes": [{"x": (1,)}], "--shapes": [{"x": (1,)}]},
                "--shapes: the min shape of input 'x' is given twice",
                "use --shapes for an input of one size, or --min-shapes, --opt-shapes and --max-shapes",
            ),
        ],
    )
    def test_refused(self, given: dict[str, list[dict[str, tuple[int, ...]]]], message: str, remedy: str) -> None:
        with pytest.raises(InputError) as caught:
            combined_shapes(given)
        assert (caught.value.message, caught.value.remedy) == (message, remedy)
