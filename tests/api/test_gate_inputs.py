"""Gates end to end, on what has misled them: subsets of classes, orders, masks, sparse maps, metrics that write."""

from __future__ import annotations

import shutil

import image_model
import numpy as np
import onnx
import pytest
from models import model, normal, save

import trtpipe
from trtpipe.config.profile import DeploymentProfile
from trtpipe.config.recipe import CalibrationRecipe
from trtpipe.config.settings import Settings
from trtpipe.errors import InputError


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """Of the evaluation images, those of two classes."""
    folder = image_model.write(tmp_path_factory.mktemp("subset"), images=10)
    for name in ("amber", "denim", "ebony"):
        shutil.rmtree(folder / "eval" / name)
    return folder


class TestSubsetOfClasses:
    def build(self, images, recipe):
        return trtpipe.build(
            images / "model.onnx",
            images / "out",
            profile=DeploymentProfile.model_validate(
                {"precision": "int8", "backend": "null", "targets": ["sm89"], "accuracy": {"max_drop": "100%"},
                 "shapes": {"x": {"min": [1, 3, 16, 16], "opt": [8, 3, 16, 16], "max": [8, 3, 16, 16]}},
                 "tolerance": {"min_snr_db": -99.0, "min_cosine": -1.0, "atol": 99.0}}
            ),
            recipe=CalibrationRecipe.model_validate(recipe),
            settings=Settings(cache_dir=images / "cache"),
            simplify=False,
        )  # fmt: skip

    def test_labels_are_those_of_the_calibration_folders(self, images):
        result = self.build(images, image_model.recipe(images))
        assert result.parity is not None
        assert result.parity.classes == image_model.CLASSES
        assert result.parity.metrics[0].value > 0.5, "0 where labels are numbered among the two that are there"
        assert any("2 of the 5 classes" in doubt for doubt in result.parity.doubts)

    def test_or_those_that_are_named(self, images):
        recipe = image_model.recipe(images)
        recipe["data"] = {"source": str(images / "calib.npz"), "batch": 8}
        np.savez(images / "calib.npz", x=normal(16, 3, 16, 16))
        recipe["classes"] = list(image_model.CLASSES)
        result = self.build(images, recipe)
        assert result.parity is not None
        assert result.parity.metrics[0].value > 0.5

    def test_else_it_is_refused(self, images):
        recipe = image_model.recipe(images)
        np.savez(images / "calib.npz", x=normal(16, 3, 16, 16))
        recipe["data"] = {"source": str(images / "calib.npz"), "batch": 8}
        with pytest.raises(InputError, match="2"):
            self.build(images, recipe)


def verified(tmp_path, candidate, reference, **tolerance):
    """A graph against another one, on eight real samples."""
    rng = np.random.default_rng(0)
    mask = (np.arange(6)[None] < rng.integers(2, 6, (8, 1))).astype(np.int64)
    feeds = {"x": normal(8, 6, 4), "mask": mask}
    np.savez(tmp_path / "eval.npz", **{each.name: feeds[each.name] for each in reference.graph.input})
    result = trtpipe.verify(
        save(candidate, tmp_path / "candidate.onnx"),
        save(reference, tmp_path / "reference.onnx"),
        eval_data=tmp_path / "eval.npz",
        precision="fp32",
        profile=DeploymentProfile.model_validate({"tolerance": tolerance}),
        settings=Settings(cache_dir=tmp_path / "cache"),
    )
    assert result.parity is not None
    return result.parity


ROWS = "(float[N,6,4] x) => (float[N,6,3] y) {"


class TestOrder:
    REFERENCE = model(ROWS + " y = MatMul(x, w) }", w=normal(4, 3))
    REVERSED = model(
        ROWS + " z = MatMul(x, w) y = Gather<axis=1>(z, order) }", w=normal(4, 3), order=np.arange(6)[::-1].copy()
    )

    def test_rows_in_another_order(self, tmp_path):
        report = verified(tmp_path, self.REVERSED, self.REFERENCE)
        assert not report.passed
        assert any('unordered = ["y"]' in doubt for doubt in report.doubts)
        assert verified(tmp_path, self.REVERSED, self.REFERENCE, unordered=["y"]).passed

    def test_other_rows(self, tmp_path):
        other = model(ROWS + " y = MatMul(x, w) }", w=normal(4, 3, seed=1))
        assert not verified(tmp_path, other, self.REFERENCE, unordered=["y"]).passed

    def test_an_output_that_is_not_there(self, tmp_path):
        with pytest.raises(InputError, match="tolerance for 'z': no such output"):
            verified(tmp_path, self.REFERENCE, self.REFERENCE, unordered=["z"])


class TestMask:
    HEAD = "(float[N,6,4] x, int64[N,6] mask) => (float[N,6,3] y) {"
    REFERENCE = model(
        HEAD + " m = Cast<to=1>(mask) z = MatMul(x, w) f = Unsqueeze(m, last) g = Mul(f, zero) y = Add(z, g) }",
        w=normal(4, 3), last=np.array([2]), zero=np.float32(0),
    )  # fmt: skip
    #: Adds 1 - mask.
    PADDED = model(
        HEAD + " m = Cast<to=1>(mask) z = MatMul(x, w) f = Unsqueeze(m, last) g = Sub(one, f) y = Add(z, g) }",
        w=normal(4, 3), last=np.array([2]), one=np.float32(1),
    )  # fmt: skip

    def test_positions_that_do_not_count(self, tmp_path):
        report = verified(tmp_path, self.PADDED, self.REFERENCE)
        assert not report.passed
        assert any("differs only where input 'mask' is 0" in doubt for doubt in report.doubts)
        assert verified(tmp_path, self.PADDED, self.REFERENCE, ignore={"y": "mask"}).passed

    def test_a_mask_that_is_not_there(self, tmp_path):
        with pytest.raises(InputError, match="there is no input or output 'mosk'"):
            verified(tmp_path, self.PADDED, self.REFERENCE, ignore={"y": "mosk"})


class TestSparseMap:
    """A map that is empty almost everywhere, as a text detector's."""

    @staticmethod
    def graph(scale: float, noise: float = 0.0) -> onnx.ModelProto:
        return model(
            "(float[N,6,4] x) => (float[N,6,4] y) "
            "{ s = Sub(x, bound) r = Relu(s) q = Mul(r, scale) y = Add(q, noise) }",
            bound=np.float32(2.2), scale=np.float32(scale), noise=np.float32(noise),
        )  # fmt: skip

    def test_what_departs_decides(self, tmp_path):
        assert verified(tmp_path, self.graph(1.00001), self.graph(1.0)).passed
        for damage in (self.graph(0.0), self.graph(0.8)):
            report = verified(tmp_path, damage, self.graph(1.0))
            assert report.comparisons[0].outputs[0].mean_abs < 0.01, "little, on the mean"
            assert not report.passed


class TestMetricThatWrites:
    READS = "def metric(outputs, labels):\n    return outputs['y'].argmax(-1) == labels\n"
    WRITES = (
        "def metric(outputs, labels):\n    hits = outputs['y'].argmax(-1) == labels\n"
        "    outputs['y'][...] = 0\n    labels[...] = 0\n    return hits\n"
    )

    def test_the_verdict_is_that_of_one_that_reads(self, world, heard_all):
        found = []
        for name, code in (("reads", self.READS), ("writes", self.WRITES)):
            (world.folder / f"{name}.py").write_text(code)
            recipe = {"evaluation": {"metric": f"{world.folder / name}.py:metric", "labels": "labels", "batch": 8,
                                     "source": str(world.folder / "eval.npz")}}  # fmt: skip
            job = world.job(recipe=recipe, accuracy={"max_drop": "100%"})
            parity = trtpipe.build(job, world.folder / "out", progress=heard_all).parity
            assert parity is not None
            found.append(([c.outputs for c in parity.comparisons], [value.value for value in parity.metrics]))
        assert found[0] == found[1]
        assert found[0][1][0] == 1
