"""Options that contradict the model, themselves or the machine; profile and recipe files with a mistake in them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import onnx
import pytest
from onnx.parser import parse_model

from trtpipe.config.requirements import install

if TYPE_CHECKING:
    from pathlib import Path

    from tests.cli.bad_input.conftest import Refused


@pytest.fixture(scope="module")
def dynamic(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """y = Relu(image), over any batch."""
    path = tmp_path_factory.mktemp("dynamic") / "dynamic.onnx"
    graph = '<ir_version: 10, opset_import: ["": 20]> g (float[N,8] image) => (float[N,8] y) { y = Relu(image) }'
    onnx.save(parse_model(graph), path)
    return path


class TestShapes:
    @pytest.mark.parametrize(
        ("shapes", "error", "remedy"),
        [
            ("imge:2x8", "shapes for 'imge': no such input", "did you mean 'image'? inputs: image"),
            ("image:2x8x1", "shapes for 'image' have rank 3, the model's input is image: float32[Nx8]", "give 2 dim"),
            ("image:2x9", "shapes for 'image': dimension 1 is fixed to 8 in the model", "use 8 there"),
            ("image:1x8,image:2x8", "input 'image' has two shapes in 'image:1x8,image:2x8'", "one shape an input"),
        ],
    )
    def test_that_do_not_fit(self, refused: Refused, dynamic: Path, shapes: str, error: str, remedy: str) -> None:
        said, advice = refused(dynamic, "--shapes", shapes)
        assert said.startswith(error)
        assert remedy in advice

    @pytest.mark.parametrize(
        "text", ["image", "image:2x", "image:axb", ":2x8", "image:-1x8", "image:2.5x8", "image:[2,8", "image=2x8"]
    )
    def test_that_cannot_be_read(self, refused: Refused, dynamic: Path, text: str) -> None:
        assert refused(dynamic, "--shapes", text) == (
            f"cannot read shapes {text!r}",
            "write them as x:1x3x224x224 or x:[1,3,224,224]",
        )

    def test_dynamic_input_without_any(self, refused: Refused, dynamic: Path) -> None:
        error, remedy = refused(dynamic)
        assert error == "input image: float32[Nx8] is dynamic, and no shapes were given for it"
        assert "--min-shapes, --opt-shapes, --max-shapes image:1x8" in remedy

    def test_smallest_above_typical(self, refused: Refused, dynamic: Path) -> None:
        words = ("--min-shapes", "image:4x8", "--opt-shapes", "image:2x8", "--max-shapes", "image:8x8")
        error, remedy = refused(dynamic, *words)
        assert error.endswith("input 'image': dimension 0: min 4, opt 2, max 8 violate min <= opt <= max")
        assert "--min-shapes" in remedy

    def test_range_without_its_ends(self, refused: Refused, dynamic: Path) -> None:
        error, remedy = refused(dynamic, "--opt-shapes", "image:2x8")
        assert error == "input 'image' has no min and no max shape"
        assert remedy.startswith("add --min-shapes image:2x8 and --max-shapes image:2x8")


class TestValues:
    @pytest.mark.parametrize(
        ("words", "error"),
        [
            (("--workspace", "4X"), "'4X' is not a size"),
            (("--workspace", "0"), "'0' is not a size"),
            (("--memory-limit", "much"), "'much' is not a size"),
            (("--duration", "5"), "'5' has no unit: write 5ms or 5s"),
            (("--duration", "0s"), "greater than 0"),
            (("--warmup", "-1s"), "'-1s' is not a duration"),
            (("--time-limit", "soon"), "'soon' is not a duration"),
            (("--max-p99", "nan"), "'nan' is not a duration"),
            (("--atol", "soon"), "'soon' is not a number"),
            (("--atol", "nan"), "'nan' is not a number"),
            (("--rtol", "-1"), "greater than or equal to 0"),
            (("--rtol", ":1e-3"), "names no output"),
            (("--max-drop", "-0.1"), "-0.1 is negative"),
            (("--opt-level", "9"), "less than or equal to 5"),
            (("--opset", "5"), "greater than or equal to 18"),
            (("--percentile", "20"), "greater than 50"),
            (("--calib-samples", "0"), "greater than or equal to 1"),
            (("--backend", "tensort"), "'tensort' is not one of"),
            (("--calib-method", "median"), "'median' is not one of"),
            (("--metric", "f1"), "'f1' is none of"),
            (("--opset", "new"), "'new' is not a valid integer"),
            (("--labels", "digit"), "there is no evaluation data"),
        ],
        ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
    )
    def test_names_option_and_value(self, refused: Refused, model: Path, words: tuple[str, str], error: str) -> None:
        said, remedy = refused(model, *words)
        assert words[0] in said
        assert error in said
        assert remedy

    def test_unknown_option(self, refused: Refused, model: Path) -> None:
        error, remedy = refused(model, "--calib-dta", "x.npz")
        assert "--calib-dta" in error
        assert remedy == "see trtpipe build --help" or "--calib-data" in remedy

    @pytest.mark.parametrize("option", ["--atol", "--rtol"])
    def test_tolerance_of_an_output_that_does_not_exist(self, refused: Refused, model: Path, option: str) -> None:
        error, remedy = refused(model, option, "yy:1e-3")
        assert error == "tolerance for 'yy': no such output"
        assert remedy == "did you mean 'y'? outputs: y"

    def test_two_precisions(self, refused: Refused, model: Path) -> None:
        assert refused(model, "--int8", "--bf16") == ("--int8 and --bf16 contradict each other", "choose one precision")


class TestTargets:
    def test_none_named(self, refused: Refused, model: Path) -> None:
        error, remedy = refused(model, options=("--backend", "null", "--target", ","))
        assert error == "--target: no target is named"
        assert remedy == "correct --target"

    @pytest.mark.parametrize(("name", "near"), [("rtx409", "rtx4090"), ("sm99", "sm90"), ("H10O", "h100")])
    def test_unknown_one_suggests_the_nearest(self, refused: Refused, model: Path, name: str, near: str) -> None:
        error, remedy = refused(model, "--target", name, options=("--backend", "null"))
        assert error == f"unknown target {name!r}"
        assert remedy.startswith(f"did you mean {near!r}? targets: sm75, ")

    def test_float32_product_on_turing(self, refused: Refused, model: Path) -> None:
        pytest.importorskip("tensorrt_rtx")
        options = ("--backend", "tensorrt-rtx", "--target", "sm75", "--no-simplify")
        error, remedy = refused(model, options=options, code=5)
        assert "sm75" in error
        assert "node 'matmul'" in error
        assert "--fp16" in remedy

    def test_fp8_on_ampere(self, refused: Refused, model: Path, data: Path) -> None:
        options = ("--backend", "null", "--target", "sm86")
        error, remedy = refused(model, "--fp8", "--calib-data", data, options=options, code=5)
        assert error == "sm86 (Ampere) does not compute in fp8"
        assert remedy

    @pytest.mark.parametrize("target", ["sm90", "orin"])
    def test_that_tensorrt_rtx_does_not_have(self, refused: Refused, model: Path, target: str) -> None:
        pytest.importorskip("tensorrt_rtx")
        options = ("--backend", "tensorrt-rtx", "--target", target)
        error, remedy = refused(model, options=options, code=5)
        assert error.startswith(f"TensorRT-RTX builds no engines for {'sm87' if target == 'orin' else target}")
        assert "--backend tensorrt" in remedy

    def test_tensorrt_that_is_not_installed(
        self, refused: Refused, model: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("trtpipe.backends.base.BACKENDS", {"tensorrt": ("no_such_tensorrt", "trtpipe:x")})
        error, remedy = refused(model, options=("--backend", "tensorrt", "--target", "sm89"), code=6)
        assert error == "backend 'tensorrt' needs the package 'no_such_tensorrt', which is not installed"
        assert install("tensorrt") in remedy


PROFILES = [
    (
        'precison = "int8"',
        "unknown key 'precison'",
        "did you mean 'precision'? keys here: accuracy,",
    ),
    ('[build]\nworkspce = "4G"', "unknown key 'build.workspce'", "did you mean 'workspace'?"),
    ("[tolerance.outputs.y]\natoll = 1", "unknown key 'tolerance.outputs.y.atoll'", "did you mean 'atol'?"),
    ('precision = "int9"', "precision: Input should be 'best', 'int8'", "correct 'precision' (it is 'int9')"),
    ('targets = "sm89"', "targets: must be a list", "correct 'targets' (it is 'sm89')"),
    ('targets = ["sm98"]', "targets.0: unknown target 'sm98'; did you mean 'sm90'?", "correct 'targets.0'"),
    ('[build]\nworkspace = "4X"', "build.workspace: '4X' is not a size", "correct 'build.workspace'"),
    ("[latency]\nduration = -1", "latency.duration: '-1' is not a duration", "correct 'latency.duration'"),
    ("[shapes.x]\nmin = [2, 8]", "key 'shapes.x.opt' is missing", "add 'opt'"),
    ("[shapes.x]\nmin = [4]\nopt = [2]\nmax = [8]", "shapes.x: dimension 0: min 4, opt 2", "correct 'shapes.x'"),
    ("precision: int8", "not valid TOML: ", "correct the line named above"),
]

RECIPES = [
    ('metod = "max"', "unknown key 'metod'", "did you mean 'method'? keys here: classes, corrections, data,"),
    ('[data]\nsorce = "x"', "unknown key 'data.sorce'", "did you mean 'source'?"),
    ('[data.image]\nchanels = "RGB"', "unknown key 'data.image.chanels'", "did you mean 'channels'?"),
    ('method = "median"', "method: Input should be 'auto', 'percentile'", "correct 'method' (it is 'median')"),
    ('percentile = "high"', "percentile: Input should be a valid number", "correct 'percentile' (it is 'high')"),
    ("[data]\nsamples = 0", "data.samples: Input should be greater than", "correct 'data.samples' (it is 0)"),
    ("[data.image]\nmean = [1, 2]", "data.image: mean needs 3 value(s)", "correct 'data.image'"),
    ("[data\n", "not valid TOML: ", "correct the line named above"),
]


class TestFiles:
    @pytest.mark.parametrize(("option", "text", "error", "remedy"), [
        *(("--profile", *each) for each in PROFILES), *(("--calib", *each) for each in RECIPES),
    ])  # fmt: skip
    def test_names_file_key_and_remedy(
        self, refused: Refused, model: Path, tmp_path: Path, option: str, text: str, error: str, remedy: str
    ) -> None:
        path = tmp_path / "mine.toml"
        path.write_text(text)
        said, advice = refused(model, option, path)
        assert said.startswith(f"{path}: {error}")
        assert advice.startswith(remedy)

    @pytest.mark.parametrize("option", ["--profile", "--calib"])
    def test_that_are_none(self, refused: Refused, model: Path, tmp_path: Path, option: str) -> None:
        binary = tmp_path / "binary.toml"
        binary.write_bytes(b"\xff\xfe\x00")
        for path in (tmp_path / "nowhere.toml", tmp_path, binary):
            error, remedy = refused(model, option, path)
            assert error.startswith(f"{path}: ")
            assert remedy == "give an existing TOML file"
