"""What ``accuracy.py`` and tests need of the networks of ``default_models.py``: their data, shapes and metrics.

It imports no torch, so that it also serves where calibration data is read.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from trtpipe.accuracy.metrics import make_meter
from trtpipe.config.recipe import EvaluationSettings

Run = Callable[[Mapping[str, np.ndarray]], Mapping[str, np.ndarray]]
_BATCH = 50

#: The ``case.py`` of a network.
CASE = """import sys
from pathlib import Path

sys.path.insert(0, {benchmarks!r})
from default_cases import DefaultCase

_CASE = DefaultCase(Path(__file__).parent)
MODEL, PROFILES, calibration, evaluate = str(_CASE.model), _CASE.profiles, _CASE.calibration, _CASE.evaluate
"""


@dataclass(frozen=True)
class DefaultCase:
    """A folder with ``model.onnx``, ``calib.npz`` and ``eval.npz``."""

    folder: Path

    @property
    def model(self) -> Path:
        return self.folder / "model.onnx"

    @property
    def profiles(self) -> dict[str, dict[str, list[int]]]:
        """One sample at least and typically, 64 at most."""
        shape = list(self._array("calib", "image").shape[1:])
        return {"image": {"min": [1, *shape], "opt": [1, *shape], "max": [64, *shape]}}

    def calibration(self) -> Iterator[dict[str, np.ndarray]]:
        """The calibration images one by one."""
        for image in self._array("calib", "image"):
            yield {"image": image[None]}

    def evaluate(self, run: Run, limit: int | None = None) -> dict[str, Any]:
        """top-1 of a classifier, or the mean average precision of a detector; and the score of each image."""
        images, labels = (self._array("eval", name)[:limit] for name in ("image", "labels"))
        objects = labels.ndim == 3
        name, output = ("map", {"output": "boxes,scores"}) if objects else ("top1", {})
        meter = make_meter(EvaluationSettings.model_validate({"metric": name, **output}))()
        for begin in range(0, len(images), _BATCH):
            found = _corners(run({"image": images[begin : begin + _BATCH]}))
            meter.update(found, found, labels[begin : begin + _BATCH])
        scores = meter.scores()
        return {name: scores.value, "n": float(len(images)), "per_sample": scores.arrays()[0].tolist()}

    def _array(self, file: str, name: str) -> np.ndarray:
        with np.load(self.folder / f"{file}.npz", allow_pickle=False) as arrays:
            found: np.ndarray = arrays[name]
        return found


def _corners(found: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Outputs as the metric takes them: [x, y, width, height, object, classes] as boxes by corners and scores."""
    if "detections" not in found:
        return dict(found)
    rows = found["detections"]
    half = rows[..., 2:4] / 2
    boxes = np.concatenate([rows[..., :2] - half, rows[..., :2] + half], -1)
    return {"boxes": boxes, "scores": rows[..., 4:5] * rows[..., 5:]}
