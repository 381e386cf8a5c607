"""From a model to engines through the real command line, with TensorRT-RTX, on real data."""

from __future__ import annotations

import gc
import hashlib
import importlib.util
import json
import os
import re
import subprocess
import sys
import warnings
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from click.testing import CliRunner

import trtpipe
from trtpipe.backends.engine_file import read_header
from trtpipe.calibration.ranges import Ranges
from trtpipe.cli.app import root
from trtpipe.config.recipe import CalibrationRecipe, DataSettings
from trtpipe.engine.record import EngineRecord

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import ModuleType

    from trtpipe.artifact import Feed

ROOT = Path(__file__).parents[1]
DIGITS = ROOT / "examples" / "digits"
#: A folder of real models with their data and metric; see docs/design.md.
CASES = Path(os.environ.get("TRTPIPE_TEST_CASES", "none"))
TARGETS = ("sm86", "sm89", "sm120")
#: The command of the README, but for the place of its output.
DEMO = (
    "build", "examples/digits/model.py:digits_cnn", "--int8",
    "--profile", "profiles/digits.toml", "--calib", "calib/digits.toml",
)  # fmt: skip
#: One engine, and no time spent on latency, which is not the point here.
ONE = ("--backend", "tensorrt-rtx", "--target", "sm89", "--warmup", "1ms", "--duration", "10ms")
HELD_OUT = ("--calib", ROOT / "calib" / "digits.toml")
BATCHES = ("--min-shapes", "image:1x1x8x8", "--opt-shapes", "image:32x1x8x8", "--max-shapes", "image:128x1x8x8")

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("tensorrt_rtx") is None, reason="tensorrt-rtx is not installed: pip install '.[rtx]'"
)


class Build(Protocol):
    def __call__(self, *words: str | Path) -> tuple[dict[str, Any], Path]: ...


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("end") / "cache"


@pytest.fixture
def build(cache: Path, tmp_path: Path) -> Build:
    """``trtpipe build`` with these words, which has to go well: its JSON document and its output folder."""

    def run(*words: str | Path) -> tuple[dict[str, Any], Path]:
        out = tmp_path / "out"
        line = ["build", *map(str, words), "-o", str(out), "--cache-dir", str(cache), "--json"]
        result = CliRunner().invoke(root, line)
        assert result.exit_code == 0, result.output
        return json.loads(result.stdout), out

    return run


@pytest.fixture(scope="module")
def demo(cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., tuple[dict[str, Any], Path]]:
    """The README's command with these words added, in a process of its own, always into the same folder."""
    out = tmp_path_factory.mktemp("demo") / "digits"

    def run(*words: str) -> tuple[dict[str, Any], Path]:
        line = [sys.executable, "-m", "trtpipe", *DEMO, "-o", str(out), "--cache-dir", str(cache), "--json", *words]
        done = subprocess.run(line, cwd=ROOT, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout), out

    return run


@pytest.fixture(scope="module")
def digits(demo: Callable[..., tuple[dict[str, Any], Path]]) -> tuple[dict[str, Any], Path]:
    """The first run."""
    return demo()


def module_at(file: Path) -> ModuleType:
    """A Python file as a module, by a name of its own."""
    name = f"end_to_end_{file.parent.name}_{file.stem}"
    spec = importlib.util.spec_from_file_location(name, file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def runner(path: Path) -> Callable[[Feed], Feed]:
    """Runs a graph as it is written: Q/DQ pairs are computed, never fused away."""
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.add_session_config_entry("session.disable_quant_qdq", "1")
    session = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    names = [value.name for value in session.get_outputs()]
    return lambda feed: dict(zip(names, session.run(names, feed), strict=True))


def top1_of_digits(path: Path) -> float:
    """Share of the held-out digits that a graph reads correctly, counted here and not by trtpipe."""
    infer, right, total = runner(path), 0, 0
    for feed, labels in module_at(DIGITS / "data.py").held_out():
        right += int((infer(feed)["logits"].argmax(axis=1) == labels).sum())
        total += len(labels)
    return right / total


def states(document: dict[str, Any]) -> dict[str, str]:
    return {" ".join(filter(None, (step["stage"], step["target"]))): step["state"] for step in document["steps"]}


def types_of(path: Path) -> set[str]:
    """Element types of a graph's weights."""
    return {onnx.TensorProto.DataType.Name(tensor.data_type) for tensor in onnx.load(path).graph.initializer}


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.glob("[!.]*")}


class TestDigits:
    @pytest.mark.parametrize("target", TARGETS)
    def test_engine_is_for_its_target_and_computes_in_int8(
        self, digits: tuple[dict[str, Any], Path], target: str
    ) -> None:
        plan = digits[1] / f"{target}.plan"
        header = read_header(plan)
        assert (header.flavor, header.targets, header.and_later) == ("tensorrt-rtx", tuple(TARGETS), False)
        assert header.size_ok
        record = trtpipe.EngineRecord.read(digits[1] / f"{target}.plan.json")
        assert (record.target, record.targets, record.version) == (target, tuple(TARGETS), header.version)
        assert record.precisions["Int8"] >= 5, "five convolutions and a fully connected layer, some of them fused"
        assert [spec.name for spec in (*record.io.inputs, *record.io.outputs)] == ["image", "logits"]

    def test_manifest_says_passed_and_lists_the_files_as_they_are(self, digits: tuple[dict[str, Any], Path]) -> None:
        out = digits[1]
        manifest = trtpipe.Manifest.read(out / "manifest.json")
        assert manifest.passed is True
        assert manifest.targets == TARGETS
        assert manifest.precision == "int8"
        assert manifest.verdict.accuracy.outcome == "passed"
        assert manifest.verdict.latency.outcome == "not judged"
        assert manifest.verdict.headline == (
            "PASSED on the lowered graph (onnxruntime, CPU, 449 samples); engines not executed"
        )
        assert "not for TensorRT, Triton or trtexec" in manifest.verdict.runtime
        listed = {file.name: file for entry in manifest.artifacts for file in entry.files}
        assert {path.name for path in out.glob("[!.]*")} == {
            *listed,
            "manifest.json",
            "provenance.json",
            "reproduce.sh",
        }
        for name, file in listed.items():
            data = (out / name).read_bytes()
            assert (len(data), hashlib.sha256(data).hexdigest()) == (file.size, file.sha256), name

    def test_int8_costs_at_most_a_point_of_accuracy(self, digits: tuple[dict[str, Any], Path]) -> None:
        document, out = digits
        measured = {name: top1_of_digits(out / f"{name}.onnx") for name in ("model", "simplified", "lowered")}
        assert measured["model"] >= 0.98
        assert measured["lowered"] >= measured["model"] - 0.01
        told = {value["artifact"]: value["value"] for value in document["parity"]["metrics"]}
        assert told == pytest.approx(measured, abs=1e-9)

    def test_files_are_those_that_the_example_promises(self, digits: tuple[dict[str, Any], Path]) -> None:
        text = (DIGITS / "README.md").read_text(encoding="utf-8").partition("## Results")[2]
        promised = re.findall(r"`([\w.]+)`", "".join(re.findall(r"^\|(.*?)\|", text, re.MULTILINE)))
        assert len(promised) > 8
        measured = states(digits[0])["measure"] != "skipped"  # without a GPU it is, and there is no latency.json
        assert {name for name in promised if not (digits[1] / name).is_file()} == (
            set() if measured else {"latency.json"}
        )

    def test_second_run_does_nothing_again(
        self, digits: tuple[dict[str, Any], Path], demo: Callable[..., tuple[dict[str, Any], Path]]
    ) -> None:
        before = content(digits[1])
        document, out = demo()
        found = states(document)
        assert found.pop("measure") == ("skipped" if states(digits[0])["measure"] == "skipped" else "hit")
        assert set(found.values()) == {"hit"}
        assert content(out) == before

    def test_another_percentile_redoes_calibration_and_what_depends_on_it(
        self, digits: tuple[dict[str, Any], Path], build: Build
    ) -> None:
        words = (*(ROOT / word if (ROOT / word).is_file() else word for word in DEMO[2:]),)
        document, out = build(f"{DIGITS}/model.py:digits_cnn", *words, "--percentile", "99.5")
        found = states(document)
        same = ["export", "simplify", "observe", "reference"]
        assert [name for name, state in found.items() if state == "hit"] == same
        unmeasured = {"measure"} if states(digits[0])["measure"] == "skipped" else set()  # without a GPU
        assert {name for name, state in found.items() if state == "skipped"} == unmeasured
        assert {state for name, state in found.items() if name not in {*same, *unmeasured}} == {"built"}
        old, new = content(digits[1]), content(out)
        assert {name for name in old if name.endswith(".onnx") and old[name] == new[name]} == {
            "model.onnx",
            "simplified.onnx",
        }

    @pytest.mark.parametrize(
        ("precision", "weights", "layers"),
        [("fp32", "FLOAT", "Float"), ("fp16", "FLOAT16", "Half"), ("bf16", "BFLOAT16", "BFloat16")],
    )
    def test_other_precisions(
        self, digits: tuple[dict[str, Any], Path], build: Build, precision: str, weights: str, layers: str
    ) -> None:
        del digits  # its export is in the cache
        document, out = build(f"{DIGITS}/model.py:digits_cnn", f"--{precision}", *HELD_OUT, *BATCHES, *ONE)
        assert states(document)["export"] == "hit"
        assert states(document)["observe"] == ("skipped" if precision == "fp32" else "built")  # extremes for 16 bits
        assert states(document)["calibrate"] == "skipped"
        assert read_header(out / "sm89.plan").targets == ("sm89",)
        assert trtpipe.EngineRecord.read(out / "sm89.plan.json").precisions[layers] > 0
        assert weights in types_of(out / "lowered.onnx")
        values = {value["artifact"]: value["value"] for value in document["parity"]["metrics"]}
        assert values["lowered"] >= values["model"] - 0.005


class TestOtherSources:
    def test_exported_program(self, digits: tuple[dict[str, Any], Path], build: Build, tmp_path: Path) -> None:
        import torch

        network, (image,) = module_at(DIGITS / "model.py").digits_cnn()
        path = tmp_path / "digits.pt2"
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch's, about itself
            batch = torch.export.Dim("batch", min=1, max=128)
            program = torch.export.export(network, (image.repeat(2, 1, 1, 1),), dynamic_shapes=({0: batch},))
            torch.export.save(program, path)
        words = ("--output-names", "logits", "--input-names", "image")
        document, out = build(path, "--fp16", *words, *HELD_OUT, *BATCHES, *ONE)
        assert read_header(out / "sm89.plan").targets == ("sm89",)
        feed, _ = next(module_at(DIGITS / "data.py").held_out())
        mine, theirs = runner(out / "model.onnx")(feed)["logits"], runner(digits[1] / "model.onnx")(feed)["logits"]
        np.testing.assert_allclose(mine, theirs, atol=1e-4)
        assert {value["value"] for value in document["parity"]["metrics"]} == {top1_of_digits(digits[1] / "model.onnx")}

    def test_onnx_with_external_data(self, digits: tuple[dict[str, Any], Path], build: Build, tmp_path: Path) -> None:
        source = tmp_path / "elsewhere" / "digits.onnx"
        source.parent.mkdir()
        proto = onnx.load(digits[1] / "model.onnx")
        onnx.save(proto, source, save_as_external_data=True, location="weights.bin", size_threshold=0)
        assert source.with_name("weights.bin").stat().st_size > 100_000
        _, out = build(source, "--int8", *HELD_OUT, *BATCHES, *ONE)
        assert read_header(out / "sm89.plan").targets == ("sm89",)
        names = {path.name for path in out.glob("[!.]*")}
        assert not {name for name in names if name.endswith((".bin", ".data"))}, "the bundle stands by itself"
        assert top1_of_digits(out / "lowered.onnx") == top1_of_digits(digits[1] / "lowered.onnx")


def shapes_of(case: ModuleType) -> list[str]:
    """A case's ranges of shapes as options."""
    bounds: dict[str, list[str]] = {}
    for name, shapes in case.PROFILES.items():
        for bound, dims in shapes.items():
            bounds.setdefault(bound, []).append(f"{name}:{'x'.join(map(str, dims))}")
    return [word for bound, each in bounds.items() for word in (f"--{bound}-shapes", ",".join(each))]


@pytest.mark.skipif(not CASES.is_dir(), reason="TRTPIPE_TEST_CASES names no folder of cases")
@pytest.mark.filterwarnings("ignore::ResourceWarning")  # the cases' own code leaves files open
class TestCases:
    """Real models on real data: 8 bits may cost a point of accuracy, 16 bits half a point."""

    @pytest.fixture(autouse=True)
    def closed(self) -> Iterator[None]:
        """Files that were left open are closed here, and not in the middle of another test."""
        yield
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ResourceWarning)
            gc.collect()

    def check(self, build: Build, name: str, precision: str, source: str = "model.onnx", *words: str) -> None:
        folder = CASES / name
        case = module_at(folder / "case.py")
        data = ("--calib-data", f"{folder}/case.py:calibration")
        document, out = build(folder / source, f"--{precision}", *data, *shapes_of(case), *words, *ONE)
        assert read_header(out / "sm89.plan").targets == ("sm89",)
        assert document["parity"]["synthetic"] is False
        top1 = case.evaluate(runner(out / "lowered.onnx"))["top1"]
        baseline = json.loads((folder / "baseline.json").read_text())["fp32"]["top1"]
        assert top1 >= baseline - (0.01 if precision == "int8" else 0.005)

    def test_mnist_in_int8(self, build: Build) -> None:
        self.check(build, "mnist_cnn", "int8")

    @pytest.mark.slow
    @pytest.mark.parametrize(
        ("name", "precision"),
        [("mnist_cnn", "fp16"), ("cifar10_resnet20", "int8"), ("cifar10_resnet20", "fp16"),
         ("ocr_textline_cls", "int8"), ("ocr_textline_cls", "fp16")],
    )  # fmt: skip
    def test_from_onnx(self, build: Build, name: str, precision: str) -> None:
        self.check(build, name, precision)

    @pytest.mark.slow
    @pytest.mark.parametrize("precision", ["int8", "fp16"])
    def test_from_pytorch(self, build: Build, precision: str) -> None:
        """The factory gives no example inputs: the profile's shapes have to do."""
        names = ("--input-names", "image", "--output-names", "logits")
        self.check(build, "cifar10_resnet20", precision, "torch_model.py:torch_model", *names)

    @pytest.mark.slow
    def test_neither_batches_nor_order_decide_what_calibration_finds(self, tmp_path: Path) -> None:
        """Also what is kept in higher precision, which this tolerance needs."""
        case = module_at(CASES / "cifar10_resnet20" / "case.py")
        images = np.concatenate([feed["image"] for feed in islice(case.calibration(), 64)])
        profile = {"precision": "int8", "shapes": [case.PROFILES], "tolerance": {"min_cosine": 0.9995}}
        found = []
        for number, (batch, step) in enumerate([(1, 1), (8, 63), (3, 37)]):
            np.savez(tmp_path / f"{number}.npz", image=images[np.arange(64) * step % 64])
            trtpipe.calibrate(
                case.MODEL,
                tmp_path / str(number),
                profile=trtpipe.DeploymentProfile.model_validate(profile),
                recipe=CalibrationRecipe(data=DataSettings(source=str(tmp_path / f"{number}.npz"), batch=batch)),
                settings=trtpipe.Settings(cache_dir=tmp_path / "cache"),
            )
            found.append(Ranges.read(tmp_path / str(number) / "ranges.json").model_copy(update={"data_summary": None}))
        assert found[0].corrections.kept
        assert found[0].to_file() == found[1].to_file() == found[2].to_file()

    def compiled(self, cache: Path, out: Path, model: Path, *words: str) -> EngineRecord:
        """A case's own graph through ``trtpipe compile``."""
        line = ["compile", str(model), "-o", str(out), *ONE[:4], *words, "--cache-dir", str(cache)]
        result = CliRunner().invoke(root, line)
        assert result.exit_code == 0, result.output
        assert read_header(out / "sm89.plan").targets == ("sm89",)
        return EngineRecord.read(out / "sm89.plan.json")

    @pytest.mark.parametrize(
        ("name", "model"),
        [
            ("mnist_cnn", ""),  # static
            pytest.param("cifar10_resnet20", "", marks=pytest.mark.slow),  # batch
            pytest.param("ocr_textline_cls", "", marks=pytest.mark.slow),  # batch; every size is called "?"
            pytest.param("sts_minilm_l6", "", marks=pytest.mark.slow),  # batch and length, of several inputs
            pytest.param("vad_silero", "silero_vad_op18_ifless.onnx", marks=pytest.mark.slow),  # LSTM, state
        ],
    )
    def test_every_kind_of_shapes_compiles(self, cache: Path, tmp_path: Path, name: str, model: str) -> None:
        case = module_at(CASES / name / "case.py")
        path = CASES / name / model if model else Path(case.MODEL)
        record = self.compiled(cache, tmp_path, path, *shapes_of(case))
        ranges = [{name: shape.to_dict() for name, shape in profile.items()} for profile in record.profiles]
        wanted = {name: {bound: list(dims) for bound, dims in each.items()} for name, each in case.PROFILES.items()}
        assert ranges == ([wanted] if wanted else [])

    @pytest.mark.slow
    @pytest.mark.parametrize(
        ("model", "precision", "extra"),
        [("silero_vad.onnx", "fp16", ",sr:16000"), ("silero_vad_16k_op15.onnx", "int8", "")],
    )
    def test_branches_that_the_shapes_settle_are_built(
        self, build: Build, model: str, precision: str, extra: str
    ) -> None:
        """Sizes settle what PyTorch asked of its tensors; of the rate of sampling the profile holds one value."""
        folder = CASES / "vad_silero"
        case = module_at(folder / "case.py")
        words = [word + extra * (not word.startswith("--")) for word in shapes_of(case)]
        data = ("--calib-data", f"{folder}/case.py:calibration")
        _, out = build(folder / model, f"--{precision}", *data, *words, *ONE)
        assert "If" not in {node.op_type for node in onnx.load(out / "lowered.onnx").graph.node}
        auc = case.evaluate(runner(out / "lowered.onnx"))["auc"]
        assert auc >= json.loads((folder / "baseline.json").read_text())["fp32"]["auc"] - 0.01

    @pytest.mark.slow
    def test_nested_branches_that_the_builder_cannot_are_named(self, cache: Path, tmp_path: Path) -> None:
        """TensorRT-RTX 1.7 stops at an If whose branches hold Ifs of different ranks; compile alone settles none."""
        case = module_at(CASES / "vad_silero" / "case.py")
        line = ["compile", str(case.MODEL), "-o", str(tmp_path / "out"), *ONE[:4], *shapes_of(case)]
        result = CliRunner().invoke(root, [*line, "--cache-dir", str(cache)])
        assert result.exit_code == 5
        assert "node 'If_0' (If)" in result.stderr
        assert not (tmp_path / "out").exists()

    @pytest.mark.slow
    def test_shapes_of_the_calibration_data(self, cache: Path, tmp_path: Path) -> None:
        folder = CASES / "sts_minilm_l6"
        case = module_at(folder / "case.py")
        words = ("--shapes", "auto", "--calib-data", f"{folder}/case.py:calibration")
        (profile,) = self.compiled(cache, tmp_path, Path(case.MODEL), *words).profiles
        shapes = [value.shape for feed in case.calibration() for name, value in feed.items() if name == "input_ids"]
        lengths = sorted(length for _, length in shapes)
        assert profile["input_ids"] == profile["attention_mask"]
        assert profile["input_ids"].min == (1, lengths[0])
        assert profile["input_ids"].opt[1] == lengths[(len(lengths) - 1) // 2]
        assert profile["input_ids"].max == (max(batch for batch, _ in shapes), lengths[-1])
