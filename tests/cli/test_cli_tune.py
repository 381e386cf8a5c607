"""``sensitivity`` and ``tune`` on the command line: words, files and exit codes."""

from __future__ import annotations

import json
import shlex
from typing import TYPE_CHECKING

import numpy as np
import pytest

import trtpipe

if TYPE_CHECKING:
    from pathlib import Path

    from tests.cli.conftest import Run


@pytest.fixture(scope="module")
def labeled(tmp_path_factory: pytest.TempPathFactory, model: Path) -> Path:
    """64 held-out samples with the labels the model itself gives."""
    import onnxruntime as ort

    x = np.random.default_rng(2).normal(size=(64, 8)).astype(np.float32)
    session = ort.InferenceSession(str(model), providers=["CPUExecutionProvider"])
    labels = np.concatenate([session.run(None, {"x": x[i : i + 2]})[0].argmax(axis=1) for i in range(0, 64, 2)])
    path = tmp_path_factory.mktemp("labeled") / "eval.npz"
    np.savez(path, x=x, labels=labels)
    return path


@pytest.fixture(scope="module")
def one_wrong(labeled: Path) -> Path:
    """The same with one label of another class, so that not even the model itself has all right."""
    arrays = dict(np.load(labeled))
    arrays["labels"][0] = 1 - min(arrays["labels"][0], 1)
    np.savez(labeled.with_name("wrong.npz"), **arrays)
    return labeled.with_name("wrong.npz")


class TestSensitivity:
    def test_a_ranked_table_and_what_to_do_next(self, run: Run, model: Path, data: Path, tmp_path: Path) -> None:
        result = run("sensitivity", model, "--no-simplify", "--calib-data", data, "-o", tmp_path / "s.json", "--half")
        assert result.exit_code == 0, result.output
        assert "matmul" in result.stdout
        assert "all 1 together" in result.stdout
        assert result.stdout.splitlines()[-1].startswith(f"next:   trtpipe tune {model}")
        assert trtpipe.Sensitivity.read(tmp_path / "s.json").groups[0].half_noise is not None

    def test_a_picture(self, run: Run, model: Path, data: Path, tmp_path: Path) -> None:
        pytest.importorskip("matplotlib")
        result = run("sensitivity", model, "--no-simplify", "--calib-data", data, "--plot", tmp_path / "s.png")
        assert result.exit_code == 0, result.output
        assert (tmp_path / "s.png").read_bytes().startswith(b"\x89PNG")

    def test_json(self, run: Run, model: Path, data: Path) -> None:
        result = run("sensitivity", model, "--no-simplify", "--calib-data", data, "--json")
        assert json.loads(result.stdout)["sensitivity"]["groups"][0]["name"] == "matmul"

    def test_without_data(self, run: Run, model: Path) -> None:
        result = run("sensitivity", model)
        assert result.exit_code == 2
        assert "needs calibration data" in result.stderr


class TestTune:
    def words(self, model: Path, data: Path, labeled: Path, out: Path) -> tuple[str | Path, ...]:
        return ("tune", model, "--no-simplify", "--calib-data", data, "--eval-data", labeled, "--labels", "labels",
                "-o", out)  # fmt: skip

    def test_a_profile_that_build_takes(self, run: Run, model: Path, data: Path, labeled: Path, tmp_path: Path) -> None:
        result = run(*self.words(model, data, labeled, tmp_path / "tuned.toml"), "--max-drop", "50%")
        assert result.exit_code == 0, result.output
        assert "PASSED | top1: drop" in result.stdout
        assert "INT8 coverage" in result.stdout
        assert trtpipe.DeploymentProfile.load(tmp_path / "tuned.toml").precision == "int8"
        tuning = json.loads((tmp_path / "tuned.json").read_text())
        assert tuning["met"]
        *_, words = result.stdout.splitlines()
        prefix, *words, _, _ = shlex.split(words.removeprefix("next: "))
        assert prefix == "trtpipe"
        built = run(*words, "--backend", "null", "--target", "sm89", "--duration", "10ms", "-o", tmp_path / "out")
        assert built.exit_code == 0, built.output
        parity = trtpipe.ParityReport.read(tmp_path / "out" / "parity.json")
        assert parity.digests["lowered"] == tuning["graph"], "the next command builds what was tuned"
        assert parity.metrics[-1].value == tuning["tuned"]["value"]

    def test_a_budget_that_cannot_be_met_has_exit_code_3(
        self, run: Run, model: Path, data: Path, one_wrong: Path, tmp_path: Path
    ) -> None:
        result = run(*self.words(model, data, one_wrong, tmp_path / "t.toml"), "--min", "top1=100%", "--json")
        assert result.exit_code == json.loads(result.stdout)["exit_code"] == 3
        assert not json.loads(result.stdout)["tuning"]["met"]
        words = run(*self.words(model, data, one_wrong, tmp_path / "t.toml"), "--min", "100%")
        assert "the budget cannot be met" in words.stdout

    @pytest.mark.parametrize(
        ("budget", "complaint"),
        [
            (("--max-drop", "much"), "--max-drop: 'much' is not an amount"),
            (("--max-drop", "nan"), "is not an amount"),
            (("--max-drop", "%"), "is not an amount"),
            (("--max-drop", "1"), "write 1% or 100%"),
            (("--max-drop", "-1%"), "not negative"),
            (("--max-drop", "101%"), "more than top1 can differ by"),
            (("--min", "top1=101%"), "no value of top1"),
            (("--min", "top1=high"), "--min: 'high' is not an amount"),
            (("--min", "top5=0.5"), "the metric is top1"),
            ((), "tuning needs one budget"),
            (("--max-drop", "1%", "--min", "0.5"), "tuning needs one budget"),
            (("--max-drop", "1%", "--time", "0s"), "--time"),
            (("--max-drop", "1%", "--time", "soon"), "--time"),
        ],
    )
    def test_budgets_that_are_none(
        self, run: Run, model: Path, data: Path, labeled: Path, tmp_path: Path, budget: tuple[str, ...], complaint: str
    ) -> None:
        result = run(*self.words(model, data, labeled, tmp_path / "t.toml"), *budget)
        assert result.exit_code == 2, result.output
        assert complaint in result.stderr
        assert not (tmp_path / "t.toml").exists()

    def test_without_a_metric(self, run: Run, model: Path, data: Path, tmp_path: Path) -> None:
        result = run("tune", model, "--calib-data", data, "--max-drop", "1%", "-o", tmp_path / "t.toml")
        assert result.exit_code == 2
        assert "tuning needs a metric" in result.stderr
