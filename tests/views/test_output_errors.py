"""Errors of outputs by sample and channel, and decisions that changed, against figures made by hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from trtpipe.accuracy.recording import Recording
from trtpipe.accuracy.reports import Comparison, ParityReport
from trtpipe.views.output_errors import output_errors, worst_samples

REFERENCE = np.array([[4.0, 0.0], [0.0, 4.0], [4.0, 0.0]], np.float32)  # spread 2 about its mean of 2


def report(**fields: object) -> ParityReport:
    given = {
        "precision": "int8",
        "reference": "model",
        "data": "d",
        "data_digest": "",
        "synthetic": False,
        "feeds": 2,
        "samples": 3,
        "comparisons": (Comparison(artifact="lowered", against="model", runner="r", outputs=()),),
        "passed": True,
        **fields,
    }
    return ParityReport.model_validate(given)


def written(folder: Path, given: np.ndarray, reference: np.ndarray = REFERENCE) -> Path:
    recording = Recording()
    for part in (slice(0, 2), slice(2, 3)):
        recording.add({"model": {"y": reference[part]}, "lowered": {"y": given[part]}}, {})
    recording.save(folder / "outputs.json")
    return folder / "outputs.json"


def test_by_sample_and_channel(tmp_path: Path) -> None:
    given = REFERENCE + np.array([[0, 0], [3, 4], [0, 0]], np.float32)  # rms sqrt(12.5)
    [found] = output_errors(written(tmp_path, given), report())
    assert (found.artifact, found.output) == ("lowered", "y")
    assert found.by_sample == pytest.approx((0, np.sqrt(12.5) / 2, 0))
    assert found.by_channel == pytest.approx((np.sqrt(9 / 3) / 2, np.sqrt(16 / 3) / 2))
    assert list(found.worst) == [1]
    assert found.changes == ()


def test_decisions_that_changed(tmp_path: Path) -> None:
    given = REFERENCE[:, ::-1].copy()
    given[1] = REFERENCE[1]
    [found] = output_errors(written(tmp_path, given), report(classes=("cat", "dog")))
    assert found.changes is not None
    assert [(change.old, change.new, change.samples) for change in found.changes] == [("cat", "dog", (0, 2))]
    assert worst_samples([found])[0] == "lowered: cat became dog"


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_outputs_that_are_not_finite_have_no_errors(tmp_path: Path, value: float) -> None:
    given = REFERENCE.copy()
    given[0, 0] = value
    assert output_errors(written(tmp_path, given), report()) == ()


def test_integers_have_none_either(tmp_path: Path) -> None:
    whole = REFERENCE.astype(np.int64)
    assert output_errors(written(tmp_path, whole, whole), report()) == ()


def test_a_constant_output(tmp_path: Path) -> None:
    constant = np.ones((3, 2), np.float32)
    [found] = output_errors(written(tmp_path, constant + 0.5, constant), report())
    assert found.by_sample == pytest.approx((0.5, 0.5, 0.5))
