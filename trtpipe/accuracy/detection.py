"""Mean average precision of boxes, as Pascal VOC (2010 and later) and COCO define it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from trtpipe.accuracy.meter import Meter, Scores, select_output
from trtpipe.errors import InputError

if TYPE_CHECKING:
    from trtpipe.artifact import Feed

#: COCO's thresholds of intersection over union.
_THRESHOLDS = np.linspace(0.5, 0.95, 10)


@dataclass(frozen=True)
class Found:
    """The detections of one image: boxes float64[n,4] (x1, y1, x2, y2), scores float64[n], classes int64[n]."""

    boxes: np.ndarray
    scores: np.ndarray
    classes: np.ndarray


@dataclass(frozen=True)
class Objects:
    """The objects of one image: boxes float64[n,4] (x1, y1, x2, y2), classes int64[n]."""

    boxes: np.ndarray
    classes: np.ndarray


class MeanAveragePrecision(Meter):
    """mAP averaged over IoU 0.50:0.05:0.95 and over the classes that occur in the labels.

    Precision is made monotonic and integrated over recall (the area under the curve, not COCO's 101 points).

    Args:
        output: one output ``[batch, n, 6]`` of x1, y1, x2, y2, score, class; or three names ``boxes,scores,classes``
            of shapes ``[batch, n, 4]``, ``[batch, n]`` and ``[batch, n]``; or two names ``boxes,scores`` of shapes
            ``[batch, n, 4]`` and ``[batch, n, classes]``. Empty for the outputs in the model's order.
    """

    metric = "map"
    chance = 0.0

    def __init__(self, output: str) -> None:
        self._names = tuple(name.strip() for name in output.split(",") if name.strip())
        self._found: list[Found] = []
        self._true: list[Objects] = []

    def update(self, outputs: Feed, wanted: Feed, labels: np.ndarray | None) -> None:
        """Add one feed; labels are ``[batch, objects, 5]``: class, x1, y1, x2, y2; rows of class -1 are padding."""
        if labels is None or labels.ndim != 3 or labels.shape[2] != 5:
            raise InputError("map needs the objects of each image", "give labels [rows, objects, 5], padded with -1")
        found = _detections([select_output(outputs, name)[1] for name in self._names or tuple(outputs)])
        if len(found) != len(labels):
            raise InputError(f"detections of {len(found)} images for {len(labels)} labels", "check the labels")
        self._found += found
        for row in labels:
            real = row[row[:, 0] >= 0]
            self._true.append(Objects(real[:, 1:].astype(np.float64), real[:, 0].astype(np.int64)))

    def scores(self) -> Scores:
        """The average precision of every image by itself; the metric is that of all of them together."""
        each = [_mean_ap([one], [true]) for one, true in zip(self._found, self._true, strict=True)]
        return Scores.of("means", np.array(each), whole=_mean_ap(self._found, self._true) if each else None)


def _detections(outputs: list[np.ndarray]) -> list[Found]:
    """One Found for each image."""
    shapes = [value.shape for value in outputs]
    if outputs and outputs[0].ndim == 3 and shapes[0][2] == 6:
        return [Found(row[:, :4].astype(np.float64), row[:, 4].astype(np.float64), _whole(row[:, 5]))
                for row in outputs[0]]  # fmt: skip
    if len(outputs) >= 2 and outputs[0].ndim == 3 and shapes[0][2] == 4 and shapes[1][:2] == shapes[0][:2]:
        boxes = outputs[0].astype(np.float64)
        if outputs[1].ndim == 3:
            pairs = zip(boxes, outputs[1].astype(np.float64), strict=True)
            return [Found(each, scores.max(axis=1), scores.argmax(axis=1)) for each, scores in pairs]
        if len(outputs) >= 3 and shapes[2] == shapes[1]:
            scores, classes = outputs[1].astype(np.float64), _whole(outputs[2])
            return [Found(*each) for each in zip(boxes, scores, classes, strict=True)]
    raise InputError(
        f"outputs of shapes {', '.join(str(list(shape)) for shape in shapes)} are no detections that map understands",
        "name them with output = 'boxes,scores,classes' under [evaluation], or give a function as the metric",
    )


def _whole(classes: np.ndarray) -> np.ndarray:
    """Class numbers as int64; in a lowered graph a float 3 may come out as 2.999."""
    found: np.ndarray = np.rint(classes).astype(np.int64)
    return found


def _mean_ap(found: list[Found], true: list[Objects]) -> float:
    """Over the classes in ``true`` and all thresholds; an image without objects scores 1 if nothing was found."""
    classes = sorted({int(c) for image in true for c in image.classes})
    if not classes:
        return float(not any(len(image.boxes) for image in found))
    return float(np.mean([_average_precisions(found, true, c) for c in classes]))


def _average_precisions(found: list[Found], true: list[Objects], which: int) -> np.ndarray:
    """float64[thresholds]: of one class."""
    scores: list[np.ndarray] = []
    hits: list[np.ndarray] = []
    objects = 0
    for image, truth in zip(found, true, strict=True):
        mine = image.classes == which
        theirs = truth.boxes[truth.classes == which]
        order = np.argsort(-image.scores[mine], kind="stable")
        objects += len(theirs)
        scores.append(image.scores[mine][order])
        hits.append(_matched(image.boxes[mine][order], theirs))
    order = np.argsort(-np.concatenate(scores), kind="stable")
    true_positive = np.concatenate(hits, axis=1)[:, order].cumsum(axis=1)
    precision = true_positive / np.arange(1, true_positive.shape[1] + 1)
    envelope = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
    gained = np.diff(true_positive, axis=1, prepend=0) / objects
    area: np.ndarray = (envelope * gained).sum(axis=1)
    return area


def _matched(boxes: np.ndarray, objects: np.ndarray) -> np.ndarray:
    """bool[thresholds, boxes]: whether each box, best scores first, takes an object that no better one took."""
    overlaps = _iou(boxes, objects)
    matched = np.zeros((len(_THRESHOLDS), len(boxes)), bool)
    for row, threshold in enumerate(_THRESHOLDS):
        free = np.ones(len(objects), bool)
        for box in range(len(boxes)):
            candidates = np.where(free, overlaps[box], -1.0)
            if len(candidates) and candidates.max() >= threshold:
                free[candidates.argmax()] = False
                matched[row, box] = True
    return matched


def _iou(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """float64[a, b]: intersection over union of every two boxes."""
    corner = np.maximum(a[:, None, :2], b[None, :, :2]), np.minimum(a[:, None, 2:], b[None, :, 2:])
    shared = np.prod(np.clip(corner[1] - corner[0], 0, None), axis=2)
    areas = [np.prod(np.clip(box[:, 2:] - box[:, :2], 0, None), axis=1) for box in (a, b)]
    union = areas[0][:, None] + areas[1][None] - shared
    result: np.ndarray = np.divide(shared, union, out=np.zeros_like(shared), where=union > 0)
    return result
