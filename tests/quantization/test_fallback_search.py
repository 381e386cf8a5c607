"""Higher-precision fallback: which groups are kept, how many, and whether it helps on other samples."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import numpy as np
import onnx
import pytest
from models import conv_net, feed_for, run, save, sounds, spectrogram
from world import asked

import trtpipe
from trtpipe.accuracy.reports import ParityReport
from trtpipe.calibration.ranges import Ranges
from trtpipe.config.recipe import CalibrationRecipe, DataSettings
from trtpipe.errors import StageError
from trtpipe.quantization.fallback_search import MOST_WORK, POOR, sensitive
from trtpipe.quantization.simulator import LayerGroup
from trtpipe.report.manifest import Manifest
from trtpipe.report.stage_records import LowerRecord

if TYPE_CHECKING:
    from pathlib import Path

    from models import Feed


class Built:
    """A model calibrated and lowered."""

    def __init__(
        self, proto: onnx.ModelProto, feed: Feed, folder: Path, corrections: str = "auto", batch: int = 1,
        **profile: object,
    ) -> None:  # fmt: skip
        path = save(onnx.shape_inference.infer_shapes(proto), folder / "simplified.onnx")
        np.savez(folder / "data.npz", **feed)
        shapes = {"x": {"min": [1, 128], "opt": [32, 128], "max": [64, 128]}} if "basis" in str(proto) else None
        profile |= {"precision": "int8"} if shapes is None else {"precision": "int8", "shapes": [shapes]}
        self.job = trtpipe.make_job(
            profile=trtpipe.DeploymentProfile.model_validate(profile),
            recipe=CalibrationRecipe(
                data=DataSettings(source=str(folder / "data.npz"), batch=batch), corrections=corrections
            ),
            settings=trtpipe.Settings(cache_dir=folder / "cache"),
            engines=False,
        )
        trtpipe.calibrate(path, folder, **asked(self.job))
        trtpipe.lower(path, folder, ranges=folder / "ranges.json", **asked(self.job))
        self.corrections = Ranges.read(folder / "ranges.json").corrections
        self.record = LowerRecord.read(folder / "lowered.onnx.json")
        self.nodes = {node.node: node for node in self.record.nodes}
        self._proto, self._lowered = proto, onnx.load(folder / "lowered.onnx")

    def noise(self, feed: Feed) -> float:
        """Over signal power, on these samples."""
        expected, found = (run(each, feed)["y"] for each in (self._proto, self._lowered))
        return float(np.square(found - expected).sum() / np.square(expected).sum())


def test_the_sensitive_layer_is_kept_and_other_samples_gain(tmp_path: Path) -> None:
    ill, well = (Built(spectrogram(), sounds(1), tmp_path / each, corrections=each) for each in ("none", "auto"))
    assert list(well.corrections.kept) == ["matmul_0"]
    assert well.corrections.trials[-1].correction == "1 of 4 groups in higher precision"
    assert well.corrections.trials[-1].taken
    assert well.nodes["matmul_0"].precision == "float32"
    assert "alone" in well.nodes["matmul_0"].reason
    assert all(well.nodes[f"matmul_{index}"].precision == "int8" for index in (4, 6, 8))
    assert ill.nodes["matmul_0"].precision == "int8"
    assert well.noise(sounds(2)) < ill.noise(sounds(2)) / 4


@pytest.mark.slow
def test_batches_and_order_change_no_byte(tmp_path: Path) -> None:
    first, other = (
        Built(spectrogram(), {name: value[::step].copy() for name, value in sounds(1).items()}, tmp_path / str(batch),
              batch=batch)
        for step, batch in ((1, 1), (-1, 8))
    )  # fmt: skip
    assert list(first.corrections.kept) == ["matmul_0"]
    assert first.corrections.to_file() == other.corrections.to_file()


def test_models_that_are_hardly_sensitive_are_left_alone(tmp_path: Path) -> None:
    proto = conv_net()
    built = Built(proto, feed_for(proto, seed=1, dim=96), tmp_path)
    assert built.corrections.noise is not None
    assert built.corrections.noise < POOR
    assert not built.corrections.kept
    assert not any("higher precision" in trial.correction for trial in built.corrections.trials)


def test_the_record_says_what_it_cost_and_saved(tmp_path: Path) -> None:
    built = Built(spectrogram(), sounds(1), tmp_path)
    assert "1 layer kept in FP32 for accuracy: matmul_0" in built.record.notes[0]
    assert built.record.notes[0].startswith("INT8 coverage 97.7 % of MACs")
    saved = re.search(r"saves ([\d.]+) % of their noise", built.nodes["matmul_0"].reason)
    assert saved is not None
    assert float(saved[1]) > 90
    fallback = built.record.fallback
    assert fallback is not None
    assert fallback.held
    macs = {node.node: node.macs or 0 for node in built.record.nodes}
    assert fallback.work == pytest.approx(macs["matmul_0"] / sum(macs.values()))


class TestUntilTheToleranceHolds:
    """A tolerance that 8 bits everywhere do not meet, on a model no layer of which stands out."""

    def built(self, folder: Path, cosine: float, least: float) -> Built:
        proto = conv_net()
        feed = feed_for(proto, seed=1, dim=96)
        return Built(proto, feed, folder, tolerance={"min_cosine": cosine}, accuracy={"min_coverage": least})

    def test_nothing_is_kept_where_it_holds(self, tmp_path: Path) -> None:
        built = self.built(tmp_path, 0.97, 0.7)
        assert built.corrections.kept == {}
        assert built.record.fallback is None

    def test_layers_are_kept_until_it_does_and_a_graph_without_any_in_8_bits_is_refused(self, tmp_path: Path) -> None:
        with pytest.raises(StageError, match="nothing can compute in it") as caught:
            self.built(tmp_path, 0.9999999, 0.0)
        assert caught.value.exit_code == 5
        corrections = Ranges.read(tmp_path / "ranges.json").corrections
        assert corrections.fallback is not None
        assert corrections.fallback.held
        assert list(corrections.kept) == ["conv_0"]

    def test_the_least_coverage_is_kept_whatever_it_says(self, tmp_path: Path) -> None:
        built = self.built(tmp_path, 0.9999999, 1.0)
        fallback = built.record.fallback
        assert fallback is not None
        assert not fallback.held
        assert built.corrections.kept == {}
        assert built.record.counts["int8"] > 0


def test_below_the_least_coverage_the_verdict_names_the_layers(tmp_path: Path) -> None:
    path = save(onnx.shape_inference.infer_shapes(spectrogram()), tmp_path / "model.onnx")
    np.savez(tmp_path / "data.npz", **sounds(1))
    shapes = {"x": {"min": [1, 128], "opt": [32, 128], "max": [64, 128]}}
    profile = {"precision": "int8", "shapes": [shapes], "backend": "null", "targets": ["sm89"]}
    result = trtpipe.build(
        path,
        tmp_path / "out",
        profile=trtpipe.DeploymentProfile.model_validate({**profile, "tolerance": {"min_cosine": 0.999999}}),
        recipe=CalibrationRecipe(data=DataSettings(source=str(tmp_path / "data.npz"))),
        settings=trtpipe.Settings(cache_dir=tmp_path / "cache"),
    )
    assert not result.accurate
    parity = ParityReport.read(next(tmp_path.glob("out*/parity.json")))
    assert "matmul_0" in parity.reasons[-1]
    assert "min_coverage (70%)" in parity.reasons[-1]
    manifest = Manifest.read(next(tmp_path.glob("out*/manifest.json")))
    (reason,) = (each.reason for each in manifest.nodes if each.node == "matmul_0")
    assert re.search(r"sensitive: .* saves [\d.]+ % of their noise", reason)
    assert any("kept in FP32 for accuracy: matmul_0" in note for note in manifest.notes)


def groups(*macs: int) -> list[LayerGroup]:
    return [LayerGroup((f"n{index}",), (f"y{index}",), ("Conv",), each, index) for index, each in enumerate(macs)]


class TestSensitive:
    def test_most_noise_for_its_work_comes_first_and_no_more_than_needed(self) -> None:
        assert sensitive(groups(10, 10, 1000), [0.5, 0.0001, 0.0002], 102) == {0}
        assert sensitive(groups(10, 10, 1000), [0.5, 0.1, 0.0002], 102) == {0, 1}

    def test_work_is_limited(self) -> None:
        assert MOST_WORK == 0.1
        assert sensitive(groups(100, 100, 800), [0.5, 0.6, 0.0001], 100) == {1}
        assert sensitive(groups(500, 500), [0.5, 0.5], 100) == frozenset()

    @pytest.mark.parametrize("alone", [[0.0, 0.0, 0.0], [1e-4, 1e-4, 1e-4]])
    def test_quiet_models_lose_nothing(self, alone: list[float]) -> None:
        assert sensitive(groups(1, 1, 1000), alone, 100) == frozenset()
