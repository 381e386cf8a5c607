"""``best`` is never less accurate than ``int8`` on the same model and data, by more than noise."""

from __future__ import annotations

import importlib.util
import os
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import networks
import numpy as np
import onnx
import onnxruntime as ort
import pytest
from click.testing import CliRunner

import trtpipe
from trtpipe.api.results import GRAPH, run_stages
from trtpipe.backends.null import Null
from trtpipe.cli.app import root
from trtpipe.config.recipe import CalibrationRecipe, DataSettings
from trtpipe.engine.record import EngineRecord
from trtpipe.engine.report import EngineReport
from trtpipe.preflight.onnx_io import read_contract
from trtpipe.quantization import engine_search
from trtpipe.report.stage_records import LowerRecord

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from types import ModuleType

    from trtpipe.backends.base import EngineRequest, Feed
    from trtpipe.progress import Progress

#: A folder of real models with their data; see docs/design.md.
CASES = Path(os.environ.get("TRTPIPE_TEST_CASES", "none"))
#: dB that the signal-to-noise ratio may fall: float16 between INT8 layers costs up to 0.9 dB on these networks.
MARGIN = 1.0
#: dB above which differences do not matter: float16 alone gives 45 to 80 dB.
PLENTY = 45.0
FAST = ("--target", "sm89", "--warmup", "1ms", "--duration", "1ms")


def outputs(path: Path, feeds: Sequence[Feed]) -> list[dict[str, np.ndarray]]:
    """What a graph answers, run as it is written: Q/DQ pairs are computed, never fused away."""
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    options.add_session_config_entry("session.disable_quant_qdq", "1")
    session = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    names = [value.name for value in session.get_outputs() if "float" in value.type]
    return [dict(zip(names, session.run(names, feed), strict=True)) for feed in feeds]


def decibels(expected: Sequence[dict[str, np.ndarray]], found: Sequence[dict[str, np.ndarray]]) -> float:
    """Signal-to-noise ratio in dB of the worst output; signal is what departs from the output's mean."""
    ratios = []
    for name in expected[0]:
        wanted = np.concatenate([each[name].ravel() for each in expected]).astype(np.float64)
        given = np.concatenate([each[name].ravel() for each in found]).astype(np.float64)
        signal, noise = np.square(wanted - wanted.mean()).sum(), np.square(wanted - given).sum()
        ratios.append(10 * np.log10(signal / max(noise, 1e-12 * signal)))
    return float(min(ratios))


@dataclass(frozen=True)
class Lowered:
    """One network, lowered twice; the signal-to-noise ratio on samples that calibration did not see."""

    int8: float
    best: float
    record: LowerRecord


def lowered(name: str, folder: Path) -> Lowered:
    """Train a network, and lower it to both."""
    network = networks.write(name, folder)
    found: dict[str, float] = {}
    expected = outputs(network.model, network.batches())
    for precision in ("int8", "best"):
        recipe = CalibrationRecipe(data=DataSettings(source=str(network.calibration), batch=networks.BATCH))
        job = trtpipe.make_job(
            network.model,
            profile=trtpipe.DeploymentProfile(precision=precision, backend="null", targets=("sm89",)),
            recipe=recipe,
            settings=trtpipe.Settings(cache_dir=folder / "cache"),
        )
        stages = ("export", "simplify", "observe", "calibrate", "lower")
        run_stages(job, stages, {}, folder / precision, GRAPH, None)
        found[precision] = decibels(expected, outputs(folder / precision / "lowered.onnx", network.batches()))
    return Lowered(**found, record=LowerRecord.read(folder / "best" / "lowered.onnx.json"))


@pytest.fixture
def more_is_cheaper(monkeypatch: pytest.MonkeyPatch) -> None:
    """A back-end whose engines are the cheaper the more is quantized."""

    def build(backend: Null, request: EngineRequest, progress: Progress) -> EngineRecord:
        request.plan.write_bytes(b"plan")
        pairs = sum(node.op_type == "DequantizeLinear" for node in onnx.load(request.model).graph.node)
        report = EngineReport(source=str(pairs), layers=())
        return EngineRecord(
            flavor="null", version="1", target="sm89", io=read_contract(request.model), build_seconds=0, report=report
        )

    monkeypatch.setattr(Null, "quick_reports", True)
    monkeypatch.setattr(Null, "build", build)
    monkeypatch.setattr(engine_search, "engine_cost", lambda report: 1 / (1 + int(report.source)))


@pytest.mark.parametrize(
    "name",
    [
        "detector",  # weights behind a folded normalization, too small for scales in float16
        "depthwise",
        pytest.param("classifier", marks=pytest.mark.slow),
        pytest.param("regressor", marks=pytest.mark.slow),
    ],
)
def test_small_networks(name: str, tmp_path: Path) -> None:
    found = lowered(name, tmp_path)
    assert found.best >= min(found.int8 - MARGIN, PLENTY)


@pytest.mark.usefixtures("more_is_cheaper")
def test_engines_that_are_less_accurate_than_int8_are_not_taken(tmp_path: Path) -> None:
    """Products of attention are candidates then, and cost this network more than the margin."""
    found = lowered("encoder", tmp_path)
    assert found.best >= min(found.int8 - MARGIN, PLENTY)
    assert max(trial.nodes for trial in found.record.trials) > found.record.counts["int8"] > 0
    assert "less accurate than int8 everywhere" in found.record.notes[-1]


def built(folder: Path, model: Path, data: str, precision: str, backend: str, *words: str) -> Path:
    """The folder of a finished bundle, whatever its verdict."""
    out = folder / f"{backend}-{precision}"
    line = ["build", str(model), f"--{precision}", "--calib-data", data, "--backend", backend, *FAST, *words]
    result = CliRunner().invoke(root, [*line, "-o", str(out), "--cache-dir", str(folder / "cache")])
    assert result.exit_code in (0, 3), result.output  # 3: the default tolerance is not what is tested here
    return out if result.exit_code == 0 else out.with_name(f"{out.name}.rejected")


def module_at(file: Path) -> ModuleType:
    """A case's code, by a name of its own."""
    spec = importlib.util.spec_from_file_location(f"best_{file.parent.name}", file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def cases() -> list[str]:
    return sorted(path.parent.name for path in CASES.glob("*/case.py"))


def shape_words(case: ModuleType) -> Iterator[str]:
    for bound in ("min", "opt", "max"):
        given: Mapping[str, Any] = case.PROFILES
        words = [f"{name}:{'x'.join(map(str, shapes[bound]))}" for name, shapes in given.items()]
        yield from (f"--{bound}-shapes", ",".join(words)) if words else ()


@pytest.mark.slow
@pytest.mark.skipif(not CASES.is_dir(), reason="TRTPIPE_TEST_CASES names no folder of cases")
@pytest.mark.filterwarnings("ignore::ResourceWarning")  # the cases' own code leaves files open
@pytest.mark.parametrize("backend", ["null", "tensorrt-rtx"])
@pytest.mark.parametrize("name", cases())
def test_cases(name: str, backend: str, tmp_path: Path) -> None:
    """On calibration samples of real models."""
    if backend == "tensorrt-rtx" and importlib.util.find_spec("tensorrt_rtx") is None:
        pytest.skip("tensorrt-rtx is not installed: pip install '.[rtx]'")
    file = CASES / name / "case.py"
    case = module_at(file)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        feeds = [feed for _, feed in zip(range(64), case.calibration(), strict=False)]
    data, words = f"{file}:calibration", tuple(shape_words(case))
    int8, best = (built(tmp_path, Path(case.MODEL), data, each, backend, *words) for each in ("int8", "best"))
    expected = outputs(int8 / "model.onnx", feeds)
    plain, mixed = (decibels(expected, outputs(each / "lowered.onnx", feeds)) for each in (int8, best))
    assert mixed >= min(plain - MARGIN, PLENTY)
