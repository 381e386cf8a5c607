"""The public functions of accuracy, on a world that has been built."""

from __future__ import annotations

import json

import numpy as np
import pytest

import trtpipe
from trtpipe.errors import InputError
from trtpipe.profile import DeploymentProfile

TIGHT = {"atol": 0, "rtol": 0, "stat": "max", "min_cosine": -1}


@pytest.fixture
def bundle(world, heard_all):
    """The folder of a build that passed."""
    return trtpipe.build(world.job(), world.folder / "out", heard_all).out


def profile(**tolerance):
    return DeploymentProfile.model_validate({"tolerance": tolerance})


class TestRejudge:
    def test_other_tolerances_without_running_anything(self, bundle, monkeypatch):
        from trtpipe.backends.onnxruntime import OnnxRuntime

        monkeypatch.setattr(OnnxRuntime, "open", lambda *args: pytest.fail("something ran"))
        before = trtpipe.ParityReport.read(bundle / "parity.json")
        assert before.passed
        tight = trtpipe.rejudge(bundle / "parity.json", profile(**TIGHT)).parity
        assert tight is not None
        assert not tight.passed
        assert tight.broke == "lower"
        same = trtpipe.rejudge(bundle, profile(atol=100.0), bundle / "again.json")
        assert same.out == bundle / "again.json"
        after = trtpipe.ParityReport.read(bundle / "again.json")
        for old, new in zip(before.comparisons, after.comparisons, strict=True):
            assert [o.model_dump(exclude={"tolerance"}) for o in old.outputs] == [
                o.model_dump(exclude={"tolerance"}) for o in new.outputs
            ]

    def test_the_metrics_gate_too(self, bundle):
        path = bundle / "parity.json"
        content = json.loads(path.read_text())
        content["metrics"][-1]["value"] -= 0.05
        path.write_text(json.dumps(content))
        for drop, passed in ((0.01, False), (0.2, True)):
            gate = DeploymentProfile.model_validate({"tolerance": {"atol": 100.0}, "accuracy": {"max_drop": drop}})
            assert trtpipe.rejudge(path, gate).accurate is passed

    def test_a_tolerance_for_an_output_that_is_not_there(self, bundle):
        with pytest.raises(InputError, match="tolerance for 'z': no such output"):
            trtpipe.rejudge(bundle, profile(outputs={"z": {"atol": 1.0}}))

    def test_files_that_do_not_belong_together(self, bundle, tmp_path):
        (bundle / "parity.json").write_text((bundle / "parity.json").read_text().replace('"lowered"', '"other"'))
        with pytest.raises(InputError, match=r"outputs\.json: holds outputs of .*lowered.*, the report is on .*other"):
            trtpipe.rejudge(bundle, profile())
        (bundle / "outputs.json").unlink()
        with pytest.raises(InputError, match=r"outputs\.json: no such file"):
            trtpipe.rejudge(bundle, profile())


class TestUserMetrics:
    EVALUATE = (
        "import numpy as np\n"
        "def evaluate(run, limit=None):\n"
        "    y = run({'x': np.ones((2, 3, 8, 8), np.float32)})['y']\n"
        "    return {'mean': float(y.mean()), 'n': 2.0}\n"
    )

    def test_an_evaluation_runs_every_artifact(self, world, heard_all):
        (world.folder / "case.py").write_text(self.EVALUATE)
        recipe = {"evaluation": {"metric": f"{world.folder / 'case.py'}:evaluate"}}
        result = trtpipe.build(world.job(recipe=recipe, accuracy={"max_drop": 1.0}), world.folder / "out", heard_all)
        assert result.parity is not None
        values = {value.artifact: value for value in result.parity.metrics}
        assert list(values) == ["model", "simplified", "lowered"]
        assert values["model"].metric == "mean"
        assert values["model"].samples == 2
        assert values["model"].value == pytest.approx(values["simplified"].value, abs=1e-5)
        assert values["model"].value != values["lowered"].value

    def test_another_content_of_the_file_is_another_verification(self, world, heard_all):
        recipe = {"evaluation": {"metric": f"{world.folder / 'case.py'}:evaluate"}}
        for body, state in ((self.EVALUATE, "built"), (self.EVALUATE, "hit"), (self.EVALUATE + "\n", "built")):
            (world.folder / "case.py").write_text(body)
            job = world.job(recipe=recipe, accuracy={"max_drop": 1.0})
            assert {s.label: s.state for s in world.run(job, heard_all)}["verify"] == state

    def test_a_function_that_raises_leaves_the_earlier_result(self, world, heard_all, bundle):
        before = {path.name: path.read_bytes() for path in bundle.iterdir()}
        (world.folder / "case.py").write_text("def evaluate(run):\n    return {'m': float('nan')}\n")
        recipe = {"evaluation": {"metric": f"{world.folder / 'case.py'}:evaluate"}}
        with pytest.raises(InputError, match="returned nan for 'm'"):
            trtpipe.build(world.job(recipe=recipe), bundle, heard_all)
        assert {path.name: path.read_bytes() for path in bundle.iterdir()} == before

    def test_structured_labels_reach_the_metric(self, world, heard_all):
        with np.load(world.folder / "eval.npz") as old:
            np.savez(world.folder / "eval.npz", x=old["x"], words=np.tile(old["labels"][:, None], (1, 2)))
        (world.folder / "m.py").write_text("def m(outputs, labels): return labels[:, 1] == outputs['y'].argmax(axis=1)")
        recipe = {"evaluation": {"metric": f"{world.folder / 'm.py'}:m", "source": str(world.folder / "eval.npz"),
                                 "labels": "words", "batch": 8}}  # fmt: skip
        result = trtpipe.build(world.job(recipe=recipe, accuracy={"max_drop": 1.0}), world.folder / "out", heard_all)
        assert result.parity is not None
        assert result.parity.metrics[0].value == 1
