"""The accuracy gate: a bundle that fails it never takes the place of one that passed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

import trtpipe

if TYPE_CHECKING:
    from tests.cli.bad_input.conftest import Snapshot
    from tests.cli.conftest import Run


@pytest.fixture(scope="module")
def labeled(model: Path, data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The calibration samples, each with the class the model gives it in float32, all but the first ten of 128."""
    import onnxruntime as ort

    session = ort.InferenceSession(model, providers=["CPUExecutionProvider"])
    with np.load(data) as file:
        samples = file["x"]
    rows = [session.run(None, {"x": samples[start : start + 2]})[0] for start in range(0, len(samples), 2)]
    classes = np.concatenate(rows).argmax(axis=1)
    classes[:10] = (classes[:10] + 1) % 4
    path = tmp_path_factory.mktemp("labeled") / "labeled.npz"
    np.savez(path, x=samples, label=classes)
    return path


@pytest.mark.parametrize("tolerances", [("--atol", "1e-9", "--rtol", "1e-9"), ("--atol", "y:1e-9", "--rtol", "y:1e-9")])
def test_failed_bundle_is_put_aside(
    run: Run, model: Path, data: Path, earlier: Path, snapshot: Snapshot, quick: tuple[str, ...],
    tolerances: tuple[str, ...],
) -> None:  # fmt: skip
    before = snapshot(earlier)
    build = ("build", model, "-o", earlier, "--int8", "--calib-data", data, *quick)
    result = run(*build, *tolerances, "--json")
    assert result.exit_code == 3
    assert snapshot(earlier) == before
    document = json.loads(result.stdout)
    assert (document["exit_code"], document["passed"]) == (3, False)
    rejected = Path(f"{earlier}.rejected")
    assert document["out"] == str(rejected)
    assert {path.name for path in rejected.iterdir()} == {path.name for path in earlier.iterdir()}
    manifest = trtpipe.Manifest.read(rejected / "manifest.json")
    assert manifest.passed is False
    assert manifest.verdict.accuracy.summary.startswith("lowered: output 'y' differs from model")
    assert trtpipe.Manifest.read(earlier / "manifest.json").passed is True


def test_a_file_of_ones_own_where_it_goes_hides_no_verdict(
    run: Run, model: Path, data: Path, tmp_path: Path, quick: tuple[str, ...]
) -> None:
    mine = tmp_path / "out.rejected" / "parity.json"
    mine.parent.mkdir()
    mine.write_text("notes")
    build = ("build", model, "-o", tmp_path / "out", "--int8", "--calib-data", data, *quick, "--atol", "1e-9")
    result = run(*build, "--rtol", "1e-9")
    assert (result.exit_code, mine.read_text()) == (3, "notes")
    assert "not kept" in result.stderr
    assert str(mine) in result.stderr
    lines = result.stdout.splitlines()
    assert lines[-1].startswith("FAILED on the lowered graph")


def test_metric_that_falls_too_far(
    run: Run, model: Path, labeled: Path, tmp_path: Path, snapshot: Snapshot, quick: tuple[str, ...]
) -> None:
    """Calibrated on numbers a thousand times too small, int8 clips everything, and the classes with it."""
    with np.load(labeled) as file:
        tiny = tmp_path / "tiny.npz"
        np.savez(tiny, x=file["x"] / 1000)
    out = tmp_path / "out"
    words = ("--eval-data", labeled, "--labels", "label", "--metric", "top1", *quick, "--atol", "1e9")
    assert run("build", model, "-o", out, *words).exit_code == 0
    before = snapshot(out)
    result = run("build", model, "-o", out, "--int8", "--calib-data", tiny, *words, "--json")
    assert result.exit_code == 3
    assert snapshot(out) == before
    parity = json.loads(result.stdout)["parity"]
    values = {value["artifact"]: value["value"] for value in parity["metrics"]}
    assert values["model"] == pytest.approx(118 / 128)
    assert values["lowered"] < values["model"] - 0.01
    assert any(reason.startswith("lowered: top1 ") for reason in parity["reasons"])


def test_later_bundle_that_passes_takes_the_place(
    run: Run, model: Path, data: Path, earlier: Path, quick: tuple[str, ...]
) -> None:
    build = ("build", model, "-o", earlier, "--int8", "--calib-data", data, *quick)
    assert run(*build, "--atol", "1e-9", "--rtol", "1e-9").exit_code == 3
    assert run(*build, "--percentile", "99.5").exit_code == 0
    manifest = trtpipe.Manifest.read(earlier / "manifest.json")
    assert manifest.passed is True
    assert manifest.settings["calibration"] == {
        "method": "percentile",
        "percentile": 99.5,
        "weights": "max",
        "corrections": "auto",
    }
